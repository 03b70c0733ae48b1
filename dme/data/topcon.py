"""Topcon's .fda and .fds files: named parts, one of which holds the B-scans.

The layout is what others found out (uocte's description of the format, followed by OCT-Converter):
15 bytes, then parts of a name, a size and content. Of .fda the B-scans are JPEG 2000 pictures in
@IMG_JPEG or 16-bit numbers in @IMG_MOT_COMP_03, of .fds 16-bit numbers in @IMG_SCAN_03.
"""

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.data.binary_file import BinaryFile
from dme.data.codestreams import stated_size
from dme.data.volume_grey import grey_reader
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import identifier_of, stack_pattern

START = struct.Struct("<4s3sII")
MOST_PARTS = 1000
NAME = re.compile(r"@\w+", re.ASCII)
# scan mode, two unknown numbers, width, height, B-scans, an unknown number
PICTURES = struct.Struct("<B6I")
# scan mode, width, height, bits per pixel, B-scans, an unknown byte, size in bytes
NUMBERS = struct.Struct("<B4IBI")
NUMBER_PARTS = ("@IMG_MOT_COMP_03", "@IMG_SCAN_03")
# three whole numbers (with the older part two more before them), then mm, mm, um
SCALE_PARTS = {
    "@PARAM_SCAN_04": struct.Struct("<12x3d"),
    "@PARAM_SCAN_02": struct.Struct("<21x3d"),
}
# eye, and when it was taken
CAPTURE_PARTS = {
    "@CAPTURE_INFO_02": struct.Struct("<B105x6H"),
    "@CAPTURE_INFO": struct.Struct("<B6H"),
}
PATIENT_PARTS = ("@PATIENT_INFO_02", "@PATIENT_INFO_03")
PATIENT = struct.Struct("<32s32s32s8sx3H")  # identifier, names, birth
DEVICE_PARTS = ("@HW_INFO_03", "@HW_INFO_02", "@HW_INFO_01")
DEVICE = struct.Struct("16s16s16s")  # model, two serial numbers
EYES = {0: "OD", 1: "OS"}
PATTERNS = {2: "raster", 3: "radial"}  # of scan modes; 4 is a cross
LONGEST_PICTURE = 1 << 26  # bytes of one B-scan


@dataclass(frozen=True)
class Stack:
    """The B-scans of a file: how they lie, and what reads the stored values of one."""

    mode: int
    shape: tuple[int, int]  # (height, width)
    bscans: int
    stored: Callable[[int], np.ndarray]


def open_volume(path: Path) -> VolumeRecord:
    """Volume of a .fda or .fds file, its eye and scale where the file has them."""
    file = BinaryFile.opened(path)
    parts = _parts(file)
    stack = _pictures(file, parts) if "@IMG_JPEG" in parts else _numbers(file, parts)
    read, notes = grey_reader(path, stack.stored, range(stack.bscans))

    # the scale; a radial scan has no distances between its B-scans, a cross no pattern
    lateral_um, axial_um, spacing_um = _scale_um(file, parts, stack)
    pattern, gaps_um = stack_pattern(stack.bscans, spacing_um)
    if pattern == "raster" and stack.mode != 2:
        pattern, gaps_um = PATTERNS.get(stack.mode, "other"), None
    capture = _first_of(file, parts, CAPTURE_PARTS)

    # eye, day, and what must not be told
    eye = date = None
    device, private = _names(file, parts)
    if capture:
        eye = EYES.get(capture[0])
        date = "{:04d}-{:02d}-{:02d}".format(*capture[1:4])
        private += (date, "{:02d}:{:02d}:{:02d}".format(*capture[4:]))
    return VolumeRecord(
        path=path,
        kind=f"Topcon {path.suffix.lower()}",
        shape=stack.shape,
        bscans=stack.bscans,
        available=tuple(range(stack.bscans)),
        read=read,
        pattern=pattern,
        axial_um=axial_um,
        lateral_um=lateral_um,
        gaps_um=gaps_um,
        eye=eye,
        device=device,
        date=date,
        identifier=identifier_of(path),
        private=private,
        notes=tuple(notes),
    )


def _parts(file: BinaryFile) -> dict[str, tuple[int, int]]:
    """Name -> offset and size of its content; of several of one name the first."""
    magic, *_ = file.fields(0, START, "the header")
    if magic != b"FOCT":
        raise InputError(f"{file.path}: no Topcon file, whatever its name; export it again")
    parts: dict[str, tuple[int, int]] = {}
    offset = START.size
    for _ in range(MOST_PARTS):
        if offset == file.size:
            return parts
        length = file.part(offset, 1, "the name of a part")[0]
        if length == 0:
            return parts
        name = file.part(offset + 1, length, "the name of a part").decode("ascii", "replace")
        if not NAME.fullmatch(name):
            found = f"byte {offset} begins no part"
            raise InputError(f"{file.path}: {found}: it is damaged or ends early; copy it again")
        (size,) = file.fields(offset + 1 + length, struct.Struct("<I"), f"the size of {name}")
        offset += 5 + length
        if offset + size > file.size:
            found = f"part {name} takes {size} bytes, {file.size - offset} are left"
            raise InputError(f"{file.path}: {found}: it is damaged or ends early; copy it again")
        parts.setdefault(name, (offset, size))
        offset += size
    raise InputError(f"{file.path}: more than {MOST_PARTS} parts: it is damaged; copy it again")


def _pictures(file: BinaryFile, parts: dict[str, tuple[int, int]]) -> Stack:
    """B-scans that are JPEG 2000 pictures, each after its size in bytes."""
    start, size = parts["@IMG_JPEG"]
    mode, _, _, width, height, bscans, _ = file.fields(start, PICTURES, "@IMG_JPEG")
    check_sides(file.path, "B-scans", height, width)
    offset = start + PICTURES.size
    places = []
    while offset < start + size and len(places) < bscans:
        (length,) = file.fields(offset, struct.Struct("<I"), "the size of a B-scan")
        places.append((offset + 4, length))
        offset += 4 + length
    if len(places) != bscans or offset != start + size:
        found = f"@IMG_JPEG names {bscans} B-scans, its {size} bytes hold others"
        raise InputError(f"{file.path}: {found}: it is damaged; copy it again")

    def stored(index: int) -> np.ndarray:
        where, length = places[index]
        content = file.part(where, min(length, LONGEST_PICTURE), f"B-scan {index}")
        return _picture(file.path, content, (height, width), index)

    return Stack(mode, (height, width), bscans, stored)


def _picture(path: Path, content: bytes, shape: tuple[int, int], index: int) -> np.ndarray:
    """The pixels of a JPEG 2000 picture, whose size is looked at before it is decoded."""
    size = stated_size(content)
    if size != shape:
        found = f"B-scan {index} is {size or 'no picture'} px"
        expected = f"expected a JPEG 2000 picture of {shape} as its header says"
        raise InputError(f"{path}: {found}, {expected}: it is damaged; copy it again")
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG2000",)) as image:
            return np.asarray(image)
    except Exception as e:  # whatever Pillow raises on a damaged picture
        raise InputError(f"{path}: B-scan {index} cannot be decoded ({e}); copy it again") from e


def _numbers(file: BinaryFile, parts: dict[str, tuple[int, int]]) -> Stack:
    """B-scans that are 16-bit numbers."""
    name = next((name for name in NUMBER_PARTS if name in parts), None)
    if name is None:
        expected = "expected @IMG_JPEG, " + " or ".join(NUMBER_PARTS)
        raise InputError(
            f"{file.path}: no part with B-scans, {expected} (angiography is not read); "
            "export the B-scans as DICOM or TIFF"
        )
    start, size = parts[name]
    mode, width, height, bits, bscans, _, _ = file.fields(start, NUMBERS, name)
    check_sides(file.path, "B-scans", height, width)
    described = width * height * bscans * 2
    if bits != 16 or bscans < 1 or described != size - NUMBERS.size:
        found = f"{name} has {size - NUMBERS.size} bytes for {bscans} B-scans of {bits} bits"
        raise InputError(
            f"{file.path}: {found}, expected {described} of 16 bits: it is damaged; copy it again"
        )

    def stored(index: int) -> np.ndarray:
        offset = start + NUMBERS.size + index * width * height * 2
        return file.array(offset, "<u2", (height, width), f"B-scan {index}")

    return Stack(mode, (height, width), bscans, stored)


def _scale_um(
    file: BinaryFile, parts: dict[str, tuple[int, int]], stack: Stack
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Lateral, axial, spacing, from the size of the field."""
    values = _first_of(file, parts, SCALE_PARTS)
    if values is None:
        return None, None, None
    wide_mm, high_mm, axial_um = values
    return wide_mm * 1e3 / stack.shape[1], axial_um, high_mm * 1e3 / stack.bscans


def _first_of(
    file: BinaryFile, parts: dict[str, tuple[int, int]], layouts: dict[str, struct.Struct]
) -> tuple | None:
    """The values of the first of some parts that the file has, None without any."""
    for name, layout in layouts.items():
        if name in parts and parts[name][1] >= layout.size:
            return file.fields(parts[name][0], layout, name)
    return None


def _names(
    file: BinaryFile, parts: dict[str, tuple[int, int]]
) -> tuple[str | None, tuple[str, ...]]:
    """Model of the device; and what must not be told: patient, serial numbers."""
    patient = _first_of(file, parts, dict.fromkeys(PATIENT_PARTS, PATIENT))
    model, *serials = _first_of(file, parts, dict.fromkeys(DEVICE_PARTS, DEVICE)) or (b"",)
    private = [_text(content) for content in serials]
    if patient:
        private += [_text(content) for content in patient[:4]]
        private.append("{:04d}{:02d}{:02d}".format(*patient[4:]))
    return _text(model) or None, tuple(text for text in private if text)


def _text(content: bytes) -> str:
    return content.split(b"\0")[0].decode("ascii", "replace").strip()
