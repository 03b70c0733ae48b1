"""Zeiss Cirrus research exports, NAME_cube_z.img: bytes without a header.

The layout is what others found out: B-scans of A-scans by depth, each turned by 180 degrees, the
superior B-scan first. Width and number stand in the file's name, as in "Macular Cube 512x128".
"""

import re
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.words import EYES
from dme.data.binary_file import BinaryFile
from dme.data.volume_grey import grey_reader
from dme.data.volume_record import VolumeRecord, check_sides
from dme.data.volume_stack import check_stack, identifier_of

DEPTH = 1024  # px
CUBES = ((512, 128), (200, 200))  # A-scans, B-scans; known by the size of the file
CUBE_MM = (2, 6, 6)  # depth, width, height of the field of both
SIZE_IN_NAME = re.compile(r"(\d{2,4})x(\d{1,4})(?!\d)")
# what a name tells of the patient and the device: identifier, date, time, serial number
PRIVATE = re.compile(r"^[^_]+(?=_)|\d{1,2}-\d{1,2}-\d{4}|(?<=_)\d{1,2}-\d{1,2}-\d{1,2}|sn\d+")
EYE = re.compile(r"(?:^|_)(O[DS])(?=_|$)")


def open_volume(path: Path) -> VolumeRecord:
    """A cube. Its scale is not in the file, its eye only in the name."""
    if path.with_suffix(".hdr").is_file():
        raise InputError(f"{path}: with .hdr it is an Analyze file; save it as NIfTI, one file")
    file = BinaryFile.opened(path)
    width, bscans = _cube(file)
    check_sides(path, "B-scans", DEPTH, width)
    size = DEPTH * width

    # they were stored upside down and mirrored
    def stored(index: int) -> np.ndarray:
        turned = file.array(index * size, np.uint8, (DEPTH, width), f"B-scan {index}")
        return np.ascontiguousarray(turned[::-1, ::-1])

    check_stack(path, (bscans, DEPTH, width), stored)
    read, notes = grey_reader(path, stored, range(bscans))

    # what the name says, and what nothing says
    eye = EYE.search(path.stem)
    deep, wide, high = (1e3 * mm for mm in CUBE_MM)
    cube = f"{deep / DEPTH:.2f},{wide / width:.2f},{high / bscans:.2f}"
    notes.append(
        "a .img file holds no scale: if the cube measures 6 x 6 x 2 mm, "
        f"as Cirrus cubes mostly do, it is --scale {cube}"
    )
    return VolumeRecord(
        path=path,
        kind="Zeiss .img",
        shape=(DEPTH, width),
        bscans=bscans,
        available=tuple(range(bscans)),
        read=read,
        pattern="raster" if bscans > 1 else "line",
        superior_first=bscans > 1,
        eye=eye[1] if eye and eye[1] in EYES else None,
        device="Zeiss Cirrus",
        identifier=identifier_of(path),
        private=tuple(PRIVATE.findall(path.stem)),
        notes=tuple(notes),
    )


def _cube(file: BinaryFile) -> tuple[int, int]:
    """A-scans and B-scans that fill the file: those of its name, else of a cube of its size."""
    named = SIZE_IN_NAME.search(file.path.name)
    cubes = [(int(named[1]), int(named[2]))] if named else CUBES
    for width, bscans in cubes:
        if width * bscans * DEPTH == file.size:
            return width, bscans
    sizes = " or ".join(f"{width}x{bscans}" for width, bscans in cubes)
    expected = f"expected those of {sizes} A-scans of {DEPTH} px"
    raise InputError(
        f"{file.path}: {file.size} bytes, {expected}: it is damaged or of another kind; "
        "export it as DICOM, or save the B-scans as .npy"
    )
