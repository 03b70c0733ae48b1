"""Bioptigen's .OCT files: fields of a name, a size and content, then frames of 16-bit numbers.

The layout is what others found out (OCT-Converter). Optovue's files have the same ending; the
range of their floats is known to nobody outside, so they are refused.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.binary_file import BinaryFile
from dme.data.index import MOST_BSCAN
from dme.data.volume_grey import grey_reader
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import identifier_of, stack_pattern

START = 6  # bytes: a number that tells such files, a version
FIRST = b"\x0b\0\0\0FRAMEHEADER"
LENGTH = struct.Struct("<I")
MOST_FIELDS = 64  # of the header, and of one frame
LONGEST_NAME = 64  # bytes
NUMBERS = {4: struct.Struct("<I"), 2: struct.Struct("<H"), 1: struct.Struct("<B")}
FLOAT = struct.Struct("<d")
MOMENT = struct.Struct("<7H")  # year, month, day of the week, day, hour, minute, second
PATTERNS = {1: "raster", 3: "radial"}  # of SCANTYPE; 0, linear, may repeat one place
MM_UM = 1e3


@dataclass(frozen=True)
class Fields:
    """Name -> offset and size of the content. end: where the next thing begins."""

    places: dict[str, tuple[int, int]]
    end: int


def open_volume(path: Path) -> VolumeRecord:
    """Volume of a file; what repeats its B-scans is no raster."""
    file = BinaryFile.opened(path)
    start = file.part(0, min(file.size, START + len(FIRST)), "the header")
    if start[START:] != FIRST:
        raise InputError(
            f"{path}: no Bioptigen file; Optovue's .oct is not read (the range of its values is "
            "unknown): export the B-scans as TIFF or PNG"
        )

    # sizes, and where the frames lie
    header = _fields(file, START, "CONFIG")
    bscans = _number(file, header, "FRAMECOUNT")
    width = _number(file, header, "LINECOUNT")
    height = _number(file, header, "LINELENGTH")
    check_sides(path, "B-scans", height, width)
    if _number(file, header, "DOPPLERFLAG"):
        raise InputError(f"{path}: a Doppler scan, which is not read; export its B-scans as TIFF")
    places, moment = _frames(file, header.end, bscans, 2 * height * width)
    date = "{:04d}-{:02d}-{:02d}".format(*moment[:2], moment[3])
    time = "{:02d}:{:02d}:{:02d}".format(*moment[4:])

    def stored(index: int) -> np.ndarray:
        a_scans = file.array(places[index], "<u2", (width, height), f"B-scan {index}")
        return np.ascontiguousarray(a_scans.T)

    # one grey scale for all; repeated B-scans lie in one place
    read, notes = grey_reader(path, stored, range(bscans))
    spacing_um = MM_UM * _float(file, header, "ELSCANLENGTH") / bscans
    pattern, gaps_um = stack_pattern(bscans, spacing_um)
    repeated = min(_number(file, header, "FRAMES"), _number(file, header, "SCANS")) > 1
    kind = PATTERNS.get(_number(file, header, "SCANTYPE"), "other")
    if bscans > 1 and (repeated or kind != "raster"):
        pattern, gaps_um = ("other" if repeated else kind), None
    return VolumeRecord(
        path=path,
        kind="Bioptigen .oct",
        shape=(height, width),
        bscans=bscans,
        available=tuple(range(bscans)),
        read=read,
        pattern=pattern,
        axial_um=MM_UM * _float(file, header, "SCANDEPTH") / height,
        lateral_um=MM_UM * _float(file, header, "AZSCANLENGTH") / width,
        gaps_um=gaps_um,
        device="Bioptigen",
        identifier=identifier_of(path),
        date=date,
        private=tuple(filter(None, [_text(file, header, "DESCRIPTION"), date, time])),
        notes=tuple(notes),
    )


def _fields(file: BinaryFile, offset: int, last: str) -> Fields:
    """The fields from an offset to the one of a name, which comes last."""
    places: dict[str, tuple[int, int]] = {}
    for _ in range(MOST_FIELDS):
        (length,) = file.fields(offset, LENGTH, "a field's name")
        if length > LONGEST_NAME:
            raise InputError(
                f"{file.path}: a name of {length} bytes: it is damaged; copy it again"
            )
        name = file.part(offset + 4, length, "a field's name").decode("ascii", "replace")
        (size,) = file.fields(offset + 4 + length, LENGTH, f"the size of {name}")
        offset += 8 + length
        places[name] = (offset, size)
        if name in ("FRAMEHEADER", "FRAMEDATA"):  # begins a list of fields
            continue
        if name == last:
            return Fields(places, offset)
        offset += size
    raise InputError(f"{file.path}: no field {last}: it is damaged; copy it again")


def _frames(
    file: BinaryFile, config: int, bscans: int, size: int
) -> tuple[list[int], tuple[int, ...]]:
    """Where the numbers of each frame begin, and when the first was taken, as of MOMENT.

    config: where the header's last field begins.
    """
    if not 1 <= bscans <= MOST_BSCAN + 1 or bscans * size > file.size:
        found = f"{bscans} B-scans of {size} bytes in a file of {file.size}"
        raise InputError(f"{file.path}: {found}: it is damaged or ends early; copy it again")

    # each frame begins where the one before ended
    (length,) = file.fields(config - 4, LENGTH, "the size of CONFIG")
    offset = config + length + 4  # a zero ends each list
    places = []
    moment = ()
    for index in range(bscans):
        frame = _fields(file, offset, "FRAMESAMPLES")
        start, stated = frame.places["FRAMESAMPLES"]
        if stated != size:
            found = f"B-scan {index} takes {stated} bytes, expected {size}"
            raise InputError(f"{file.path}: {found}: it is damaged; copy it again")
        places.append(start)
        if index == 0:
            taken, _ = _place(file, frame, "FRAMEDATETIME")
            moment = file.fields(taken, MOMENT, "FRAMEDATETIME")
        offset = start + size + 4
    if offset != file.size:
        found = f"{bscans} B-scans end at byte {offset} of {file.size}"
        raise InputError(f"{file.path}: {found}: it is damaged or ends early; copy it again")
    return places, moment


def _number(file: BinaryFile, fields: Fields, name: str) -> int:
    offset, size = _place(file, fields, name)
    if size not in NUMBERS:
        raise InputError(f"{file.path}: {name} takes {size} bytes: it is damaged; copy it again")
    return file.fields(offset, NUMBERS[size], name)[0]


def _float(file: BinaryFile, fields: Fields, name: str) -> float:
    offset, _ = _place(file, fields, name)
    return file.fields(offset, FLOAT, name)[0]


def _text(file: BinaryFile, fields: Fields, name: str) -> str:
    offset, size = _place(file, fields, name)
    return file.part(offset, size, name).split(b"\0")[0].decode("ascii", "replace").strip()


def _place(file: BinaryFile, fields: Fields, name: str) -> tuple[int, int]:
    if name not in fields.places:
        raise InputError(f"{file.path}: no field {name}: it is damaged; copy it again")
    return fields.places[name]
