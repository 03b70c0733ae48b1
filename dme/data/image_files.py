"""Stored pixels of one image file: formats, limits, checksums, orientation, 16-bit colour."""

import io
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dme.common.errors import InputError
from dme.common.files import refuse_lost_link

# Pillow knows more, some of which run programs: an image file is opened as one of these or not
FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
MOST_PIXELS = 1 << 24  # of an image: a B-scan has one or two million
MOST_BYTES = 1 << 28  # of a file
# kinds of pixels that Pillow turns into RGB
CONVERTED_MODES = ("CMYK", "YCbCr", "LAB", "HSV", "PA")
ORIENTATION = 0x112  # tag of EXIF and TIFF: how a picture is to be turned
WHITE_IS_ZERO = {262: 0}  # tag of TIFF, Photometric Interpretation
SEPARATE_PLANES = {284: 2}  # tag of TIFF, Planar Configuration
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """Stored pixels (H, W) or (H, W, channels), upright, and what must be known of them."""

    pixels: np.ndarray
    format: str
    white_is_zero: bool  # a 16-bit TIFF whose largest value is black


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded."""

    shape: tuple[int, int]  # (height, width), upright
    deep: bool  # more than 8 bits
    turned: bool


def read_header(path: Path) -> Header:
    """Size, depth and orientation of an image file. Whatever is wrong with it raises."""
    with Image.open(path, formats=FORMATS) as image:
        orientation = _orientation(image)
        height, width = image.height, image.width
        # Pillow swaps the sides of a TIFF itself
        if orientation >= 5 and image.format != "TIFF":
            height, width = width, height
        deep = image.mode.startswith("I") or _deep_colour(image)
    return Header((height, width), deep, orientation > 1)


def read_picture(path: Path, palette_colours: bool = True) -> Picture:
    """Pixels as stored; of a palette image its colours, or its indices.

    Raises InputError for what is no image of FORMATS, is damaged or too large, and for several
    pages in one file.
    """
    content = read_content(path)
    try:
        return _decoded(path, content, palette_colours)
    except InputError:
        raise
    except UnidentifiedImageError as e:
        reason = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, whatever its name"
        raise InputError(
            f"{path}: not a readable image ({reason}); copy or export it again"
        ) from e
    except Exception as e:  # Pillow raises OSError, SyntaxError, ValueError, ... on broken files
        raise InputError(f"{path}: not a readable image ({e}); copy or export it again") from e


def read_pixels(path: Path) -> np.ndarray:
    """Pixels alone, (H, W) or (H, W, channels); raises as `read_picture`."""
    return read_picture(path).pixels


def read_content(path: Path) -> bytes:
    """A file's bytes: what happens to the file later cannot change them.

    Raises InputError for what is too large, or a damaged PNG file.
    """
    try:
        refuse_lost_link(path)
        if not path.is_file():
            raise InputError(f"{path}: expected a file; a folder, pipe or device holds no image")
        size = path.stat().st_size
        if size > MOST_BYTES:
            found = f"{size >> 20} MiB"
            expected = f"expected at most {MOST_BYTES >> 20} MiB for one B-scan"
            raise InputError(f"{path}: {found}, {expected}; export it alone, as PNG")
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: not a readable image ({e.strerror}); copy it again") from e
    if content.startswith(PNG_SIGNATURE):
        try:
            _check_png(content)
        except ValueError as e:
            raise InputError(f"{path}: not a readable image ({e}); copy or export it again") from e
    return content


def refuse_large(path: Path, image: Image.Image) -> None:
    """Raise InputError for more pixels than a scan has, before any of them is decoded."""
    if image.width * image.height > MOST_PIXELS:
        found = f"{image.height} x {image.width} px"
        expected = f"expected at most {MOST_PIXELS >> 20} million for one B-scan"
        raise InputError(f"{path}: {found}, {expected}; export it at its own size")


def _check_png(content: bytes) -> None:
    """Compare the checksum of every chunk, of which Pillow leaves out those of the pixels."""
    view = memoryview(content)
    start = len(PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(view[start : start + 4], "big")
        end = start + 8 + length  # of the chunk's data
        if end + 4 > len(content):
            raise ValueError("the file ends early")
        kind = bytes(view[start + 4 : start + 8])
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(f"damaged: the checksum of {kind!r} differs")
        start = end + 4


def _decoded(path: Path, content: bytes, palette_colours: bool) -> Picture:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        # what can be refused before anything is decoded
        refuse_large(path, image)
        pages = getattr(image, "n_frames", 1)
        if pages != 1:
            raise InputError(
                f"{path}: holds {pages} pages, expected one B-scan per file: split it"
            )

        # pixels
        file_format = image.format
        tags = getattr(image, "tag_v2", {})
        white_is_zero = image.mode.startswith("I") and WHITE_IS_ZERO.items() <= dict(tags).items()
        orientation = _orientation(image)
        if _deep_colour(image):
            pixels = _deep_pixels(path, image, content)
        else:
            image.load()
            palette = image.mode == "P" and palette_colours
            if palette or image.mode in CONVERTED_MODES:
                pixels = np.asarray(image.convert("RGB"))
            else:
                pixels = np.asarray(image)
            orientation = max(orientation, _orientation(image))

    # upright, as every viewer shows it; of a TIFF Pillow has done it
    if file_format != "TIFF":
        pixels = _upright(pixels, orientation)
    return Picture(pixels, file_format, white_is_zero)


def _orientation(image: Image.Image) -> int:
    """EXIF's number from 1, upright, to 8. Asking for it must not decode a PNG."""
    known = "exif" in image.info or "Raw profile type exif" in image.info
    if image.format == "PNG" and not known:
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data say nothing
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turns = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: np.rot90,
    }
    return np.ascontiguousarray(turns[orientation](pixels))


# ---- 16-bit colour, of which Pillow keeps the upper byte ----------------------------------------
def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of how the pixels lie in the file, such as RGB;16B."""
    if not getattr(image, "tile", None):
        return ""
    arguments = image.tile[0].args
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _deep_colour(image: Image.Image) -> bool:
    return ";16" in _raw_mode(image) and not image.mode.startswith("I")


def _deep_pixels(path: Path, image: Image.Image, content: bytes) -> np.ndarray:
    """uint16 (H, W, 3) of colour, with a fourth channel for alpha; (H, W, 2) of grey and alpha."""
    mode, order = _raw_mode(image).split(";16")
    tags = dict(getattr(image, "tag_v2", {}))
    if mode not in ("RGB", "RGBA", "RGBX", "LA") or SEPARATE_PLANES.items() <= tags.items():
        raise InputError(
            f"{path}: 16-bit {mode} pixels, expected grey or RGB; save it as 16-bit grey PNG"
        )

    # grey and alpha of 16 bits lie in a file as red, green, blue and alpha of 8 do
    if mode == "LA":
        image._mode = "RGBA"
        halves = _load_as(image, "RGBA").astype(np.uint16)
        return 256 * halves[:, :, ::2] + halves[:, :, 1::2]

    # read in the other order of bytes, the lower byte is the one that Pillow keeps
    upper = _load_as(image, f"{mode};16{order}").astype(np.uint16)
    native = "L" if sys.byteorder == "little" else "B"
    other = {"L": "B", "B": "L"}[native if order == "N" else order]
    with Image.open(io.BytesIO(content), formats=FORMATS) as again:
        lower = _load_as(again, f"{mode};16{other}")
    return 256 * upper + lower


def _load_as(image: Image.Image, raw_mode: str) -> np.ndarray:
    """The pixels, read as if they lay in the file in another way."""
    tiles = []
    for tile in image.tile:
        arguments = raw_mode
        if isinstance(tile.args, tuple):
            arguments = (raw_mode, *tile.args[1:])
        tiles.append(tile._replace(args=arguments))
    image.tile = tiles
    image.load()
    return np.asarray(image)
