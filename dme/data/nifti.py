"""NIfTI-1 files: volumes read from .nii and .nii.gz, label maps written as .nii.gz.

Axes are columns, rows, B-scans, as SimpleITK writes an array (B-scans, rows, columns). Only the
348 bytes of the header that matter here are known: sizes, type, scale, place.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.data.binary_file import BinaryFile
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import stack_record

HEADER = 348  # bytes
DATA = 352  # where the numbers of the files written here begin: header, four bytes of extensions
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
UNITS_UM = {0: 1e3, 1: 1e6, 2: 1e3, 3: 1.0}  # code -> um; without a code mm, as all tools take it
MM = 2
SINGLE_FILE = b"n+1\0"
MOST_BYTES = 1 << 31  # of one volume
MOST_DEFLATED = 1032  # times as large as its gzip file can a file be
CHUNK = 1 << 20
UNSET = (1.0, 1.0, 1.0)  # sizes of voxels in a header that nobody filled in
AGREE = 0.01  # of a scale; between two places of the header that state it


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says. shape: (B-scans, height, width). affine: voxels to mm, (4, 4)."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    spacing_um: tuple[float, float, float] | None  # of columns, rows, B-scans; None where unset
    affine: np.ndarray

    @property
    def bscan_bytes(self) -> int:
        return self.shape[1] * self.shape[2] * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Bytes of the whole file."""
        return self.offset + self.shape[0] * self.bscan_bytes


# ---- reading ------------------------------------------------------------------------------------
def open_volume(path: Path) -> VolumeRecord:
    """A volume whose second axis is depth; its scale is the one of the header, if it is set."""
    header = read_header(path)
    return stack_record(path, "NIfTI", header.shape, _stored(path, header), header.spacing_um)


def read_numbers(path: Path) -> list[np.ndarray]:
    """The numbers of all B-scans (H, W) as they are stored. Raises InputError as `read_header`."""
    header = read_header(path)
    stored = _stored(path, header)
    return [stored(index) for index in range(header.shape[0])]


def _stored(path: Path, header: NiftiHeader) -> Callable[[int], np.ndarray]:
    """What gives the numbers (H, W) of a B-scan."""
    part = _parts(path, header)

    def stored(index: int) -> np.ndarray:
        content = part(header.offset + index * header.bscan_bytes, header.bscan_bytes)
        pixels = np.frombuffer(content, header.dtype).reshape(header.shape[1:])
        if (header.slope, header.intercept) in ((0.0, 0.0), (1.0, 0.0)):
            return pixels
        return (pixels * header.slope + header.intercept).astype(np.float32)

    return stored


def read_header(path: Path) -> NiftiHeader:
    """Raises InputError for another file, and for one that contradicts itself or its size."""
    # whatever byte order it has
    content = _start(path)
    order = _byte_order(path, content)

    def numbers(kind: str, offset: int) -> tuple:
        return struct.unpack_from(order + kind, content, offset)

    # sizes and type
    if content[344:348] != SINGLE_FILE:
        raise InputError(f"{path}: header and numbers in two files; save it as one .nii file")
    (code, bits) = numbers("2h", 70)
    if code not in TYPES or np.dtype(TYPES[code]).itemsize * 8 != bits:
        found = f"numbers of type {code} with {bits} bits"
        raise InputError(f"{path}: {found}, expected whole numbers or floats; save it as such")
    shape = _shape(path, numbers("8h", 40))
    (offset,) = numbers("f", 108)
    if not HEADER <= offset <= HEADER + CHUNK or offset % 1:
        raise InputError(f"{path}: numbers at byte {offset:g}, a damaged header; export it again")

    # scale and place
    slope, intercept = numbers("2f", 112)
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope < 0:
        found = f"values times {slope:g} plus {intercept:g}"
        raise InputError(f"{path}: {found}, expected a positive factor; export it again")
    (units,) = numbers("B", 123)
    spacing = numbers("3f", 80)
    unit_um = UNITS_UM.get(units & 7, math.nan)
    affine = _affine(path, numbers, spacing)
    stated = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    spacing_um = None
    if stated != UNSET:
        spacing_um = tuple(value * unit_um for value in stated)
    dtype = np.dtype(order + TYPES[code])
    header = NiftiHeader(shape, dtype, int(offset), slope, intercept, spacing_um, affine)
    _check_size(path, header)
    return header


def _start(path: Path) -> bytes:
    """The bytes of the header, unpacked."""
    file = BinaryFile.opened(path)
    if _is_packed(path):
        content = _unpacked(path, HEADER)
    else:
        content = file.part(0, min(file.size, HEADER), "header")
    if len(content) < HEADER:
        raise InputError(f"{path}: ends within its header; export it again")
    return content


def _byte_order(path: Path, content: bytes) -> str:
    for order in "<>":
        if struct.unpack_from(order + "i", content)[0] == HEADER:
            return order
    raise InputError(f"{path}: no NIfTI-1 header; save it as NIfTI-1, one file")


def _shape(path: Path, dim: tuple[int, ...]) -> tuple[int, int, int]:
    """(B-scans, height, width)."""
    axes = dim[0]
    sizes = dim[1 : axes + 1]
    if axes not in (2, 3, 4, 5) or min(sizes) < 1 or any(size != 1 for size in sizes[3:]):
        found = f"axes {tuple(sizes)}"
        raise InputError(f"{path}: {found}, expected (columns, rows, B-scans); save it as such")
    width, height = sizes[:2]
    check_sides(path, "B-scans", height, width)
    return (sizes[2] if axes > 2 else 1), height, width


def _affine(
    path: Path, numbers: Callable[[str, int], tuple], spacing: tuple[float, ...]
) -> np.ndarray:
    """Voxels to mm (4, 4): the header's matrix, else its quaternion, else the scale alone."""
    qform, sform = numbers("2h", 252)
    affine = np.diag([*spacing, 1.0])
    if sform > 0:
        affine[:3] = np.reshape(numbers("12f", 280), (3, 4))
        stated = np.linalg.norm(affine[:3, :3], axis=0)
        agree = np.allclose(stated, np.abs(spacing), rtol=AGREE)
        if not agree and spacing != UNSET:
            found = f"voxels of {stated} by its matrix and {np.array(spacing)} by its sizes"
            raise InputError(f"{path}: {found}: it contradicts itself; export it again")
    elif qform > 0:
        b, c, d, *origin = numbers("6f", 256)
        (handed,) = numbers("f", 76)
        affine[:3, :3] = _rotation(b, c, d) * [*spacing[:2], spacing[2] * (-1) ** (handed < 0)]
        affine[:3, 3] = origin
    return affine


def _rotation(b: float, c: float, d: float) -> np.ndarray:
    """The matrix of a quaternion whose first part makes its length 1."""
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _check_size(path: Path, header: NiftiHeader) -> None:
    """The file must hold the numbers that the header describes, no more and no fewer."""
    size = path.stat().st_size
    described = header.end
    fits = described == size
    if _is_packed(path):
        fits = described <= size * MOST_DEFLATED
    if described > MOST_BYTES:
        found = f"{header.shape} takes {described >> 20} MiB"
        expected = f"expected at most {MOST_BYTES >> 20}"
        raise InputError(f"{path}: {found}, {expected}; save fewer B-scans in a file")
    if not fits:
        found = f"its header describes {described} bytes, the file has {size}"
        raise InputError(f"{path}: {found}: it is damaged or ends early; copy it again")


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _parts(path: Path, header: NiftiHeader) -> Callable[[int, int], bytes]:
    """What gives so many bytes from an offset."""
    if not _is_packed(path):
        file = BinaryFile.opened(path)
        return lambda offset, count: file.part(offset, count, "a B-scan")
    packed = _Packed(path, header.end)
    _content(packed)
    return lambda offset, count: _content(packed)[offset : offset + count]


@dataclass(frozen=True, eq=False)
class _Packed:
    """A gzip file, and how many bytes it has to hold."""

    path: Path
    end: int


@lru_cache(maxsize=1)  # of the volume that is read, not of those before it
def _content(packed: _Packed) -> bytes:
    """All bytes of a gzip file. Raises InputError where they are not as many as described."""
    content = _unpacked(packed.path, packed.end + 1)
    if len(content) != packed.end:
        described = f"its header describes {packed.end} bytes"
        found = f"{described}, unpacked it has {len(content)} or more"
        raise InputError(f"{packed.path}: {found}: it is damaged; copy it again")
    return content


def _unpacked(path: Path, most: int) -> bytes:
    """The first bytes of a gzip file, fewer where it ends before; its checksum is looked at."""
    content = bytearray()
    try:
        with gzip.open(path) as file:
            while len(content) < most:
                block = file.read(min(CHUNK, most - len(content)))
                if not block:
                    break
                content += block
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(f"{path}: not a whole gzip file ({e}); copy it again") from e
    return bytes(content)


# ---- writing ------------------------------------------------------------------------------------
def itk_affine(scale_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels to mm (4, 4) of a volume that SimpleITK shows upright, from its corner on.

    scale_mm: of columns, rows, B-scans. NIfTI counts to the right and to the front of a patient,
    ITK to the left and to the back: hence the signs.
    """
    columns, rows, bscans = scale_mm
    return np.diag([-columns, -rows, bscans, 1.0])


def write_nifti(path: Path, labels: np.ndarray, affine: np.ndarray, in_mm: bool) -> None:
    """Write uint8 labels (B-scans, height, width) as .nii.gz, without names or times.

    in_mm: whether the affine (4, 4) is in mm; otherwise its unit stays unset.
    """
    bscans, height, width = labels.shape
    header = bytearray(DATA)
    struct.pack_into("<i", header, 0, HEADER)
    struct.pack_into("<8h", header, 40, 3, width, height, bscans, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # unsigned bytes
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into("<3f", header, 108, DATA, 1.0, 0.0)
    struct.pack_into("<B", header, 123, MM if in_mm else 0)
    struct.pack_into("<2h", header, 252, 0, 1)  # the place is that of a scanner, by the matrix
    struct.pack_into("<12f", header, 280, *affine[:3].ravel())
    struct.pack_into("4s", header, 344, SINGLE_FILE)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            packed.write(bytes(header))
            packed.write(np.ascontiguousarray(labels, np.uint8).tobytes())
