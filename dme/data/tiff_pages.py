"""TIFF files of several pages, each a B-scan of one volume."""

from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.data.image_files import WHITE_IS_ZERO
from dme.data.volume_grey import grey_reader
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import check_stack, identifier_of

STORED = (279, 325)  # tags of TIFF: bytes of strips, of tiles
SUFFIXES = (".tif", ".tiff")


def page_count(path: Path) -> int:
    """Pages of a TIFF file; 1 of anything that cannot be read as one: reading it will say why."""
    if not path.is_file():  # a pipe, on which opening would wait
        return 1
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            return image.n_frames
    except Exception:  # whatever Pillow raises
        return 1


def open_volume(path: Path) -> VolumeRecord:
    """Pages of one size, in their order. A TIFF file has no scale that could be trusted."""
    # a damaged list of pages ends early: their pixels would be left over in the file
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            bscans = image.n_frames
            height, width = image.height, image.width
            sizes = [_bytes(image, index) for index in range(bscans)]
    except Exception as e:  # whatever Pillow raises on a damaged file
        raise InputError(f"{path}: not a readable TIFF file ({e}); export it again") from e
    check_sides(path, "pages", height, width)
    left = path.stat().st_size - sum(map(sum, sizes))
    if left >= min(pixels for pixels, _ in sizes):
        found = f"{left} bytes beside those of its {bscans} pages"
        raise InputError(f"{path}: {found}: pages are lost in it; export it again")

    def stored(index: int) -> np.ndarray:
        return _page(path, index, (height, width))

    # one grey scale for all
    if bscans > 1:
        check_stack(path, (bscans, height, width), lambda index: _grey_values(stored(index)))
    read, notes = grey_reader(path, stored, range(bscans))
    return VolumeRecord(
        path=path,
        kind="TIFF",
        shape=(height, width),
        bscans=bscans,
        available=tuple(range(bscans)),
        read=read,
        pattern="raster" if bscans > 1 else "line",
        identifier=identifier_of(path),
        notes=tuple(notes),
    )


def _bytes(image: Image.Image, index: int) -> tuple[int, int]:
    """What the pixels of a page take in the file, and its directory with all values at most."""
    image.seek(index)
    directory = 6
    for value in image.tag_v2.values():
        each = 1 if isinstance(value, (str, bytes)) else 8
        directory += 12 + each * (len(value) if hasattr(value, "__len__") else 1)
    return sum(sum(image.tag_v2.get(tag, ())) for tag in STORED), directory


def _page(path: Path, index: int, shape: tuple[int, int]) -> np.ndarray:
    """The values of a page, (H, W) or (H, W, channels)."""
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            image.seek(index)
            if (image.height, image.width) != shape:
                found = f"page {index} is {image.height} x {image.width} px"
                expected = f"the first is {shape[0]} x {shape[1]}"
                raise InputError(f"{path}: {found}, {expected}; export B-scans of one size")
            deep = image.mode.startswith("I")
            if deep and WHITE_IS_ZERO.items() <= dict(image.tag_v2).items():
                raise InputError(f"{path}: white is zero; export it with black as zero")
            return np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except InputError:
        raise
    except Exception as e:  # whatever Pillow raises on a damaged page
        raise InputError(f"{path}: page {index} cannot be read ({e}); export it again") from e


def _grey_values(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels[:, :, 0]
