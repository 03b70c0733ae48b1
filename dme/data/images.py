"""One file's pixels, labels or boundaries, read, checked and brought to one form."""

from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.retina.rows import MAX_CROSSING_PX, repair_boundaries


def read_pixels(path: Path, palette_colours: bool = True) -> np.ndarray:
    """Stored pixels, (H, W) or (H, W, channels); of a palette image its colours, or its indices."""
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
            image.load()
            if (
                image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "PA")
                or image.mode == "P"
                and palette_colours
            ):
                image = image.convert("RGB")
            pixels = np.asarray(image)
    except Exception as e:  # Pillow raises OSError, SyntaxError, ValueError, ... on broken files
        raise InputError(f"{path}: not a readable image ({e}); copy or export it again") from e
    if pages != 1:
        raise InputError(f"{path}: holds {pages} pages, expected one B-scan per file: split it")
    return pixels


def read_grey(path: str | Path, peak: int | None = None) -> tuple[np.ndarray, str]:
    """Read one image file as `to_grey_uint8` does. Raises InputError naming the file."""
    try:
        return to_grey_uint8(read_pixels(Path(path)), peak)
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def to_grey_uint8(pixels: np.ndarray, peak: int | None = None) -> tuple[np.ndarray, str]:
    """Pixels (H, W) or (H, W, channels) -> uint8 (H, W), and a text of what was done ("" for 8-bit grey).

    Colour: Rec. 601 luma, alpha dropped. 16-bit: value * 255 / white, white being the first of 255, 511, ...,
    4095, ..., 65535 to hold `peak`, the largest value of the whole set (default: of this image).
    Raises ValueError for anything but 1-, 8- or 16-bit whole numbers.
    """
    how = []
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, how = pixels[:, :, :-1], ["alpha dropped"]
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
        how.append("colour converted to grey by Rec. 601 luma")
    pixels = pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels
    if (
        pixels.ndim != 2
        or pixels.dtype.kind not in "bui"
        or pixels.min() < 0
        or pixels.max() > 65535
    ):
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}, expected 8- or 16-bit grey or 8-bit RGB"
        )
    if pixels.dtype == bool:
        pixels, how = pixels.astype(np.uint8) * 255, [*how, "1-bit image scaled to 0 and 255"]
    elif pixels.dtype != np.uint8:
        white = 2 ** max(8, int(pixels.max() if peak is None else peak).bit_length()) - 1
        pixels = np.rint(pixels * (255 / white)).astype(np.uint8)
        how.append(f"16-bit values scaled by 255/{white}")
    return pixels, "; ".join(how)


def read_mask(path: Path) -> np.ndarray:
    """Mask values as stored, uint8 (H, W); of black and white in a palette 0 and 1, whichever comes first."""
    mask = read_pixels(path, palette_colours=False)
    if mask.ndim == 2 and mask.max(initial=0) <= 1:
        colours = read_pixels(path)
        if (
            colours.ndim == 3
            and np.isin(colours, (0, 255)).all()
            and not np.ptp(colours, axis=2).any()
        ):
            mask = colours[:, :, 0] // 255
    if mask.ndim == 3:
        if mask.shape[2] > 2 and np.ptp(mask[:, :, :3], axis=2).any():
            raise InputError(f"{path}: a coloured mask; save it as grey, palette or 1-bit PNG")
        mask = mask[:, :, 0]
    if mask.dtype.kind not in "bui" or mask.min() < 0 or mask.max() > 255:
        raise InputError(
            f"{path}: mask values {mask.min()}..{mask.max()}, expected whole numbers 0..255"
        )
    return mask.astype(np.uint8)


def mask_lookup(values: set[int]) -> tuple[np.ndarray, str]:
    """Meaning of the mask values of a whole set: table uint8 (256,) from value to 0, 1 or 255, and a text.

    {0, 1} and {0, 255} are binary, other ids are instances (fluid where > 0), and 255 beside ids is ignore.
    """
    ids = sorted(values - {0, 255})
    if 255 in values and len(ids) > 64:
        raise InputError(
            f"masks hold {len(ids)} values between 0 and 255: interpolated? resize with nearest"
        )
    lookup = np.ones(256, np.uint8)
    lookup[0] = 0
    if not ids:
        return lookup, "binary 0/255, 255 is fluid" if 255 in values else "all empty"
    lookup[255] = IGNORE
    meaning = (
        "binary 0/1, 1 is fluid"
        if ids == [1]
        else f"instance ids {ids[0]}..{ids[-1]}, fluid is id > 0"
    )
    return lookup, meaning + (", 255 is ignore" if 255 in values else "")


def read_boundaries(path: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (
        Exception
    ) as e:  # NumPy raises OSError, ValueError, TokenError, BadZipFile, ... on broken files
        raise InputError(f"{path}: not a readable .npy array ({e})") from e
    if not isinstance(rows, np.ndarray):
        raise InputError(
            f"{path}: an archive of arrays (.npz), expected one array; save it by numpy.save"
        )
    if rows.shape != (8, shape[1]) or rows.dtype.kind not in "uif":
        raise InputError(
            f"{path}: {rows.dtype} {rows.shape}, expected numbers (8, width {shape[1]})"
        )
    if (rows < 0).any() or (rows > shape[0]).any():
        found = f"rows {np.nanmin(rows):g}..{np.nanmax(rows):g}"
        raise InputError(f"{path}: {found} leave the image, {shape[0]} px high")
    repaired, crossing = repair_boundaries(rows)
    if crossing.max() > MAX_CROSSING_PX:
        k, column = np.unravel_index(crossing.argmax(), crossing.shape)
        found = (
            f"boundary {k + 1} lies {crossing.max():.1f} px above an upper one in column {column}"
        )
        raise InputError(
            f"{path}: {found}; only crossings up to {MAX_CROSSING_PX:g} px are repaired"
        )
    return repaired, crossing


def to_scan(pixels: np.ndarray, peak: float | None = None) -> np.ndarray:
    """Pixels -> uint8 (H, W), as `dme.data.images.to_grey_uint8`; also float grey values 0..255.

    peak: the largest value of the whole set (default: of this image). Raises ValueError.
    """
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"shape {pixels.shape}, expected (height, width) or (height, width, 3)")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise ValueError("holds NaN or infinity, expected grey values 0..255")
        if pixels.min() < 0 or not 1 < max(pixels.max(), peak or 0) <= 255:
            found = f"float values {pixels.min():g}..{max(pixels.max(), peak or 0):g}"
            raise ValueError(f"{found}, expected grey values 0..255: scale them (0..1 times 255)")
        pixels = np.rint(pixels).astype(np.uint8)
    return to_grey_uint8(pixels, peak)[0]
