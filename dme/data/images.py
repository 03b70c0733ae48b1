"""Pixels of one image file, and grey values of any kind as the uint8 that networks see."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError

# kinds of pixels that Pillow turns into RGB
CONVERTED_MODES = ("CMYK", "YCbCr", "LAB", "HSV", "PA")
DEEPEST = 65535  # largest 16-bit value


@dataclass(frozen=True)
class Survey:
    """What must be known of all images of a set before the first is read.

    peak: largest value of the 16-bit images, 0 without any. shapes: (height, width) by file,
    without broken
    files: reading them will say what is wrong.
    """

    peak: int
    shapes: dict[Path, tuple[int, int]]


def survey_images(files: Iterable[Path]) -> Survey:
    """Look at the headers of image files; only those of more than 8 bits are decoded."""
    peak = 0
    shapes = {}
    for file in files:
        try:
            with Image.open(file) as image:
                deep = image.mode.startswith("I")
                shapes[file] = (image.height, image.width)
            if deep:
                peak = max(peak, int(read_pixels(file).max()))
        except Exception:  # whatever Pillow raises: reading the file itself will say it
            continue
    return Survey(peak, shapes)


def read_pixels(path: Path, palette_colours: bool = True) -> np.ndarray:
    """Stored pixels, (H, W) or (H, W, channels); of a palette image its colours, or its indices.

    Raises InputError for what is no image, and for several pages in one file.
    """
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
            image.load()
            palette = image.mode == "P" and palette_colours
            if palette or image.mode in CONVERTED_MODES:
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
    """Pixels (H, W) or (H, W, channels) -> uint8 (H, W), and a text of what was done ("" for 8-bit
    grey).

    Colour: Rec. 601 luma, alpha dropped. 16-bit: value * 255 / white, white being the first of
    255, 511, ..., 4095, ..., 65535 to hold `peak`, the largest value of the whole set (default: of
    this image).
    Raises ValueError for anything but 1-, 8- or 16-bit whole numbers.
    """
    # channels: alpha is the last of two or four, three are colour, one is grey
    steps = []
    channels = pixels.shape[2:]  # () of grey pixels
    if channels in ((2,), (4,)):
        pixels = pixels[:, :, :-1]
        channels = pixels.shape[2:]
        steps.append("alpha dropped")
    if channels == (3,) and pixels.dtype == np.uint8:
        colour = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(colour.convert("L"))
        steps.append("colour converted to grey by Rec. 601 luma")
    if channels == (1,):
        pixels = pixels[:, :, 0]

    # only whole numbers of up to 16 bits are left
    whole = pixels.ndim == 2 and pixels.dtype.kind in "bui"
    if not whole or pixels.min() < 0 or pixels.max() > DEEPEST:
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}, expected 8- or 16-bit grey or 8-bit RGB"
        )

    # depth
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
        steps.append("1-bit image scaled to 0 and 255")
    elif pixels.dtype != np.uint8:
        largest = int(pixels.max()) if peak is None else int(peak)
        white = 2 ** max(8, largest.bit_length()) - 1
        scaled = np.rint(pixels * (255 / white))
        pixels = scaled.astype(np.uint8)
        steps.append(f"16-bit values scaled by 255/{white}")
    return pixels, "; ".join(steps)


def to_scan(pixels: np.ndarray, peak: float | None = None) -> np.ndarray:
    """Pixels -> uint8 (H, W), as `dme.data.images.to_grey_uint8`; also float grey values 0..255.

    peak: the largest value of the whole set (default: of this image). Raises ValueError.
    """
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"shape {pixels.shape}, expected (height, width) or (height, width, 3)")
    # floats are what arrays in memory and .npy files may hold; images are whole numbers
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise ValueError("holds NaN or infinity, expected grey values 0..255")
        largest = max(pixels.max(), peak or 0)
        if pixels.min() < 0 or not 1 < largest <= 255:
            found = f"float values {pixels.min():g}..{largest:g}"
            raise ValueError(f"{found}, expected grey values 0..255: scale them (0..1 times 255)")
        pixels = np.rint(pixels).astype(np.uint8)
    return to_grey_uint8(pixels, peak)[0]
