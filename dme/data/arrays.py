"""Arrays of numbers in .npy files, read part by part, and which axis of a volume is which."""

import io
import math
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dme.common.errors import InputError

NUMBERS = "buif"  # NumPy's kinds of numbers
SHAPES = "(H, W), (H, W, 3), (N, H, W) or (N, H, W, 3)"
MOST_BYTES = 1 << 31  # of what is read at once
COLOURS = (1, 3, 4)  # channels of an image
LONGEST_HEADER = 1 << 16  # bytes; of these arrays it has about a hundred

# what tells the axes of a volume apart
LEAST_SIDE = 32  # px
NARROW = 128  # px; a B-scan that is narrower is not
MOST_LONGER = 8  # times as long as wide
MOST_BSCANS = 1024
ROUGHER = 1.5  # times as much from B-scan to B-scan as from pixel to pixel
SAMPLE = 64  # places along each axis that are looked at


@dataclass(frozen=True)
class StoredArray:
    """The numbers of an .npy file, which stay on the disk."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes before the numbers
    by_column: bool  # Fortran's order

    def read(self) -> np.ndarray:
        """All of it. Raises InputError when it is too large, or the file is shorter by now."""
        return self._read(self.offset, self.shape)

    def read_part(self, index: int) -> np.ndarray:
        """What lies at an index of the first axis; raises as `read`."""
        if self.by_column:
            return self._whole[index]
        part = self.shape[1:]
        size = math.prod(part) * self.dtype.itemsize
        return self._read(self.offset + index * size, part)

    @cached_property
    def _whole(self) -> np.ndarray:
        """Stored by column, no part of the first axis lies together: all is kept."""
        return self.read()

    def _read(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape) * self.dtype.itemsize
        if size > MOST_BYTES:
            found = f"{self.dtype} {self.shape} takes {size >> 20} MiB at once"
            raise InputError(
                f"{self.path}: {found}, expected at most {MOST_BYTES >> 20}; "
                "save fewer B-scans in a file"
            )
        # not mapped into memory: a file that shrinks then would end the program
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as e:
            raise InputError(f"{self.path}: cannot be read ({e.strerror}); copy it again") from e
        if len(content) != size:
            raise InputError(
                f"{self.path}: ends early, expected {self.dtype} {self.shape}; save it again"
            )
        order = "F" if self.by_column else "C"
        return np.frombuffer(content, self.dtype).reshape(shape, order=order)


def open_npy(path: Path) -> StoredArray:
    """The array of an .npy file, numbers of SHAPES. Raises InputError for anything else."""
    if not path.is_file():
        raise InputError(f"{path}: expected a file; a folder, pipe or device holds no array")
    try:
        array = _stored(path)
    except InputError:
        raise
    except Exception as e:  # of NumPy: OSError, ValueError, TokenError, ...
        raise InputError(f"{path}: not a readable .npy array ({e}); save it again") from e
    if array.dtype.kind not in NUMBERS or len(array.shape) not in (2, 3, 4):
        found = f"{array.dtype} {array.shape}"
        raise InputError(f"{path}: holds {found}, expected numbers {SHAPES}")
    if len(array.shape) == 4 and array.shape[3] not in COLOURS:
        found = f"{array.dtype} {array.shape}"
        raise InputError(
            f"{path}: holds {found}, expected numbers {SHAPES}; put channels last by np.moveaxis"
        )
    if not math.prod(array.shape):
        raise InputError(f"{path}: shape {array.shape} holds no pixels")
    return array


def _stored(path: Path) -> StoredArray:
    if zipfile.is_zipfile(path):
        raise InputError(f"{path}: holds an archive of arrays, expected numbers {SHAPES}")
    with open(path, "rb") as file:
        start = io.BytesIO(file.read(LONGEST_HEADER))
        size = file.seek(0, io.SEEK_END)
    version = np.lib.format.read_magic(start)
    read_header = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read_header = np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read_header(start)
    array = StoredArray(path, shape, dtype, start.tell(), by_column)
    if size < array.offset + math.prod(shape) * dtype.itemsize:
        raise InputError(f"{path}: not a readable .npy array (it ends early); save it again")
    return array


def check_axes(path: Path, shape: tuple[int, ...], volume: np.ndarray | None = None) -> None:
    """Refuse a volume that is no (N, H, W): by its shape, or because its numbers say so.

    volume: some or all of it, (n, H, W). Neighbouring pixels of a B-scan are much alike,
    neighbouring B-scans less.
    """
    # sides that no B-scan has
    bscans, height, width = shape
    short, long = sorted((height, width))
    axis = 1 if height < width else 2  # of the shorter side
    strip = short < NARROW and long > MOST_LONGER * short
    if strip or short < LEAST_SIDE <= min(bscans, long):
        _refuse_axes(path, shape, axis)
    if volume is None or min(volume.shape) < 2:
        return

    # roughness along each axis
    rough = np.array([_roughness(volume, axis) for axis in range(3)])
    axis = int(rough.argmax())
    if axis > 0 and shape[axis] <= MOST_BSCANS:
        rest = np.delete(rough, axis)
        if rough[axis] > ROUGHER * rest.max() and rest.min() > 0:
            _refuse_axes(path, shape, axis)


def _roughness(volume: np.ndarray, axis: int) -> float:
    """Mean difference of neighbours along an axis, in the middle of a volume."""
    middle = []
    for side in volume.shape:
        start = max(0, (side - SAMPLE) // 2)
        middle.append(slice(start, start + SAMPLE))
    part = volume[tuple(middle)].astype(np.float64)
    return float(np.abs(np.diff(part, axis=axis)).mean())


def _refuse_axes(path: Path, shape: tuple[int, ...], axis: int) -> None:
    bscans, height, width = shape
    read = f"{bscans} B-scans of {height} x {width} px"
    order = ["height", "width"]
    order.insert(axis, "B-scans")
    fits = f"it looks like ({', '.join(order)})"
    raise InputError(
        f"{path}: shape {shape} would be {read}, expected (B-scans, height, width); {fits}: "
        f"save np.moveaxis(array, {axis - 3}, 0)"
    )
