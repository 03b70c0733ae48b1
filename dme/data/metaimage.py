"""MetaImage volumes, .mhd beside .raw, as the RETOUCH challenge gives them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.binary_file import BinaryFile
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import identifier_of, stack_record

LONGEST_HEADER = 1 << 16  # bytes
TYPES = {"MET_UCHAR": "u1", "MET_USHORT": "u2", "MET_SHORT": "i2", "MET_FLOAT": "f4"}
MM_UM = 1e3  # ElementSpacing is in mm
SCAN = "oct.mhd"  # RETOUCH's names of a volume and its labels: 0, and three kinds of fluid
LABELS = "reference.mhd"


@dataclass(frozen=True)
class MetaImage:
    """What a header says, and the file of the numbers, which holds just these."""

    header: dict[str, str]
    raw: BinaryFile
    dtype: np.dtype
    shape: tuple[int, int, int]  # B-scans, height, width

    def stored(self, index: int) -> np.ndarray:
        """The values of a B-scan, (height, width)."""
        bscan = self.shape[1:]
        offset = index * math.prod(bscan) * self.dtype.itemsize
        return self.raw.array(offset, self.dtype, bscan, f"B-scan {index}")


def open_volume(path: Path) -> VolumeRecord:
    """Axes are columns, rows, B-scans, as SimpleITK writes an array (B-scans, rows, columns).

    Labels of RETOUCH beside it become the record's fluid.
    """
    if is_reference(path):
        raise InputError(f"{path}: holds labels of {SCAN}: give that file")

    # the scale, if there is one
    image = read_metaimage(path)
    spacing_um = None
    if "ElementSpacing" in image.header:
        spacing = _numbers(path, image.header, "ElementSpacing", float)
        spacing_um = [value * MM_UM for value in spacing]

    record = stack_record(path, "MetaImage .mhd", image.shape, image.stored, spacing_um)
    identifier = identifier_of(path, image.raw.path)
    return replace(record, identifier=identifier, fluid=_labels(path, image.shape))


def affine_of(path: Path) -> np.ndarray:
    """Voxels to mm (4, 4) as NIfTI counts them: ITK's x and y turned round."""
    header = read_metaimage(path).header
    affine = np.eye(4)
    spacing = _numbers(path, header, "ElementSpacing", float)
    directions = np.eye(3)
    if "TransformMatrix" in header:
        # a row of the file's matrix is the direction of an axis
        directions = np.reshape(_numbers(path, header, "TransformMatrix", float, 9), (3, 3)).T
    affine[:3, :3] = directions * spacing
    for key in ("Offset", "Origin", "Position"):
        if key in header:
            affine[:3, 3] = _numbers(path, header, key, float)
            break
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def is_reference(path: Path) -> bool:
    """Whether a file is RETOUCH's labels of the volume beside it."""
    return path.name == LABELS and path.with_name(SCAN).is_file()


def _labels(path: Path, shape: tuple[int, int, int]) -> Callable[[int], np.ndarray] | None:
    """What reads the mask uint8 (height, width) of a B-scan: all kinds of fluid are 1."""
    labels = path.with_name(LABELS)
    if path.name != SCAN or not labels.is_file():
        return None
    image = read_metaimage(labels)
    if image.shape != shape:
        raise InputError(f"{labels}: {image.shape}, expected {shape} as {SCAN}; copy both again")
    return lambda index: (image.stored(index) > 0).astype(np.uint8)


def read_metaimage(path: Path) -> MetaImage:
    """Raises InputError where header and numbers do not fit each other."""
    header = _header(path)
    width, height, bscans = _numbers(path, header, "DimSize", int)
    check_sides(path, "B-scans", height, width)
    raw = _raw_file(path, header)
    kind = header.get("ElementType", "")
    if kind not in TYPES:
        expected = f"expected one of {', '.join(TYPES)}"
        raise InputError(f"{path}: ElementType {kind[:80] or 'missing'}, {expected}")
    order = ">" if _is_true(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    dtype = np.dtype(order + TYPES[kind])
    described = height * width * bscans * dtype.itemsize
    if bscans < 1 or described != raw.size:
        found = f"DimSize describes {described} bytes, {raw.path.name} has {raw.size}"
        raise InputError(f"{path}: {found}: one of the two is damaged; copy both again")
    return MetaImage(header, raw, dtype, (bscans, height, width))


def _header(path: Path) -> dict[str, str]:
    """Its lines, KEY = VALUE."""
    file = BinaryFile.opened(path)
    text = file.part(0, min(file.size, LONGEST_HEADER), "header").decode("ascii", "replace")
    header = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":  # the last, whatever follows
            break
    if header.get("ObjectType", "Image") != "Image" or "ElementDataFile" not in header:
        raise InputError(f"{path}: no MetaImage header of an image; export it again")
    return header


def _raw_file(path: Path, header: dict[str, str]) -> BinaryFile:
    """The file of the numbers, which lies beside the header and nowhere else."""
    if _is_true(header, "CompressedData"):
        raise InputError(f"{path}: compressed numbers are not read; save it uncompressed")
    name = header["ElementDataFile"]
    if name != Path(name).name or name in ("", ".", "..", "LOCAL", "LIST") or "%" in name:
        expected = "expected the name of a .raw file beside it"
        raise InputError(f"{path}: ElementDataFile is {name[:80]!r}, {expected}; save it as such")
    raw = path.with_name(name)
    if not raw.is_file():
        raise InputError(f"{path}: {name} is not beside it; copy both")
    return BinaryFile.opened(raw)


def _is_true(header: dict[str, str], *keys: str) -> bool:
    return any(header.get(key, "").lower() == "true" for key in keys)


def _numbers(path: Path, header: dict[str, str], key: str, kind: type, count: int = 3) -> list:
    """The numbers of a line."""
    words = header.get(key, "").split()
    try:
        numbers = [kind(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        found = " ".join(words)[:80] or "missing"
        raise InputError(f"{path}: {key} is {found}, expected {count} numbers; export it again")
    return numbers
