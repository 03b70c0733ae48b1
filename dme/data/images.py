"""Pixels of one image file, and grey values of any kind as the uint8 that networks see."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.data.image_files import Picture, read_header, read_picture
from dme.retina.recognise import INVERTED, has_colours, is_inverted

DEEPEST = 65535  # largest 16-bit value
LUMA = np.array([19595, 38470, 7471])  # of red, green and blue, in 65536ths, as Pillow has them
HALF = 1 << 15
RARE = 1000  # one pixel in so many may be brighter than all else without being the white
FAR_BELOW = 8  # a white that is so many times smaller than another is of another depth


@dataclass(frozen=True)
class Survey:
    """What must be known of all images of a set before the first is read.

    peak: largest value of the 16-bit images, 0 without any. shapes: (height, width) by file,
    without broken files: reading them will say what is wrong. notes: what is to be said.
    """

    peak: int
    shapes: dict[Path, tuple[int, int]]
    notes: list[str]


def survey_images(files: Iterable[Path]) -> Survey:
    """Look at the headers of image files; only those of more than 8 bits are decoded."""
    peaks: dict[Path, int] = {}
    shapes = {}
    turned = []
    for file in files:
        try:
            header = read_header(file)
            shapes[file] = header.shape
            if header.turned:
                turned.append(file)
            if header.deep:
                values, _ = _one_channel(read_picture(file).pixels)
                peaks[file] = peak_of(values)
        except Exception:  # whatever Pillow raises: reading the file itself will say it
            continue

    # what was found beside sizes
    notes = []
    if turned:
        notes.append(f"{_files(turned)} turned as EXIF orientation says")
    peak = max(peaks.values(), default=0)
    dark = [file for file in peaks if white_of(peaks[file]) <= white_of(peak) // FAR_BELOW]
    if dark:
        white = f"white is {white_of(peak)}, that of the brightest"
        remedy = "are they of another depth, read them apart from the others"
        notes.append(f"{_files(dark)} dark beside the other 16-bit images, {white}: {remedy}")
    return Survey(peak, shapes, notes)


def image_shapes(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """(height, width) of image files by their headers, as `Survey.shapes`."""
    shapes = {}
    for file in files:
        with contextlib.suppress(Exception):  # of Pillow: reading the file itself will say it
            shapes[file] = read_header(file).shape
    return shapes


def _files(files: list[Path]) -> str:
    if len(files) == 1:
        return f"1 image ({files[0].name}) is"
    return f"{len(files)} images ({files[0].name}, ...) are"


def peak_of(pixels: np.ndarray) -> int:
    """The largest value, but for a few pixels that are far brighter than all others."""
    largest = int(pixels.max())
    rare = pixels.size // RARE
    usual = int(np.partition(pixels, -1 - rare, axis=None)[-1 - rare])
    if white_of(usual) <= white_of(largest) // FAR_BELOW:
        return usual
    return largest


def brightest(pixels: np.ndarray) -> float:
    """The largest finite value, at least 0; of whole numbers as `peak_of` has it."""
    if pixels.dtype == np.uint8:
        return int(pixels.max())
    if pixels.dtype.kind in "ui":
        return max(0, peak_of(pixels))
    return float(pixels.max(where=np.isfinite(pixels), initial=0))


def white_of(peak: int) -> int:
    """The first of 255, 511, ..., 4095, ..., 65535 to hold a value."""
    return 2 ** max(8, int(peak).bit_length()) - 1


def read_grey(path: str | Path, peak: int | None = None) -> tuple[np.ndarray, str]:
    """Read one image file as `to_grey_uint8` does, upright and white on black.

    Raises InputError naming the file, also for a scan that is black on white.
    """
    picture = read_picture(Path(path))
    try:
        grey, how = grey_of(picture, peak)
        refuse_inverted(grey)
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e
    return grey, how


def read_as_seen(path: str | Path, peak: int | None = None) -> np.ndarray:
    """uint8 (H, W) of one image file, (H, W, 3) if it is in colours; black on white stays so."""
    picture = read_picture(Path(path))
    if has_colours(picture.pixels):
        return picture.pixels[:, :, :3]
    try:
        return grey_of(picture, peak)[0]
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def grey_of(picture: Picture, peak: int | None) -> tuple[np.ndarray, str]:
    """Grey uint8 (H, W) of a picture and what was done, as `to_grey_uint8`."""
    grey, how = to_grey_uint8(picture.pixels, peak)
    if picture.white_is_zero:
        grey = 255 - grey
        how += ", white is zero: inverted"
    return grey, how


def refuse_inverted(grey: np.ndarray) -> None:
    """Raise ValueError for a B-scan uint8 (H, W) whose background is brighter than its retina."""
    if is_inverted(grey):
        found = f"{INVERTED.seen} (median {np.median(grey):g} of 255)"
        raise ValueError(f"{found}, expected white on black; {INVERTED.remedy}")


def to_grey_uint8(pixels: np.ndarray, peak: int | None = None) -> tuple[np.ndarray, str]:
    """Pixels (H, W) or (H, W, channels) -> uint8 (H, W), and a text of what was done ("" for 8-bit
    grey).

    Colour: Rec. 601 luma, alpha dropped. 16-bit: value * 255 / white, white being the first of
    255, 511, ..., 4095, ..., 65535 to hold `peak`, that of the whole set by `peak_of` (default: of
    this image). Raises ValueError for anything but 1-, 8- or 16-bit whole numbers.
    """
    pixels, steps = _one_channel(pixels)

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
        white = white_of(peak_of(pixels) if peak is None else peak)
        scaled = np.minimum(np.rint(pixels * (255 / white)), 255)
        pixels = scaled.astype(np.uint8)
        steps.append(f"16-bit values scaled by 255/{white}")
    return pixels, "; ".join(steps)


def _one_channel(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W) of grey or colour, with or without alpha, and what was done."""
    # channels: alpha is the last of two or four, three are colour, one is grey
    steps: list[str] = []
    channels = pixels.shape[2:]  # () of grey pixels
    if channels in ((2,), (4,)):
        pixels = pixels[:, :, :-1]
        channels = pixels.shape[2:]
        steps.append("alpha dropped")
    if channels == (3,) and pixels.dtype == np.uint8:
        colour = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(colour.convert("L"))
        steps.append("colour converted to grey by Rec. 601 luma")
    elif channels == (3,) and pixels.dtype == np.uint16:
        pixels = (pixels @ LUMA + HALF) >> 16
        steps.append("colour converted to grey by Rec. 601 luma")
    if channels == (1,):
        pixels = pixels[:, :, 0]
    return pixels, steps


def to_scan(pixels: np.ndarray, peak: float | None = None) -> np.ndarray:
    """Pixels -> uint8 (H, W), as `dme.data.images.to_grey_uint8`; also float grey values 0..255.

    peak: the largest value of the whole set (default: of this image). Raises ValueError.
    """
    if pixels.dtype == bool:
        raise ValueError("holds true and false, a mask? Expected grey values 0..255")
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(f"shape {pixels.shape}, expected (height, width) or (height, width, 3)")
    # floats are what arrays in memory and .npy files may hold; images are whole numbers
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all():
            raise ValueError("holds NaN or infinity, expected grey values 0..255")
        largest = max(pixels.max(), peak or 0)
        if pixels.min() < 0 or not 1 < largest <= 255:
            found = f"float values {pixels.min():g}..{largest:g}"
            raise ValueError(
                f"{found}, expected grey values 0..255: scale them (0..1 times 255), or give "
                "whole numbers of up to 16 bits"
            )
        pixels = np.rint(pixels).astype(np.uint8)
    return to_grey_uint8(pixels, peak)[0]
