"""Heidelberg's .e2e files: directories of containers, some of which hold B-scans.

The layout is what others found out (uocte, LibE2E, eyepy). Places stand in it in degrees, so a
lateral scale in mm does not: it has to be given. Eye, depth scale and order of the B-scans are
read.
"""

import datetime
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.binary_file import BinaryFile
from dme.data.heidelberg_vol import to_display
from dme.data.index import MOST_BSCAN
from dme.data.volume_geometry import geometry_of
from dme.data.volume_record import BScanPlace, VolumeRecord, check_sides
from dme.data.volume_stack import identifier_of

MULTIPLE = b"E2EMultipleVolumeFile"  # before the file proper
SKIPPED = 64  # bytes, where it stands there
START = 36  # bytes before the first directory
# magic, number of entries, place of the last directory, of the one before
DIRECTORY = struct.Struct("<12s24x3I4x")
# place of the container, its size, patient, study, series, slice, type
ENTRY = struct.Struct("<4x2I4x3Ii4xI4x")
# magic, size, patient, study, series, slice, number among its kind, type
CONTAINER = struct.Struct("<12s12xI4x3IiH2xI4x")
MOST_DIRECTORIES = 10_000
IMAGE = 0x40000000  # types of containers
PLACE = 10004
EYE = 11
PATIENT = 9
BSCAN = 35652097  # kind of image; another is the picture of the eye's surface
PICTURE = struct.Struct("<4x4I")  # kind, number of values, height, width
# start and end in degrees, mm per px in depth, number of B-scans, moment in steps of 100 ns
PLACES = struct.Struct("<12x4f8xf24xI20xQ")
SIDE = struct.Struct("<14xc")
NAMES = struct.Struct("<31s66sIx25s")  # first, last, day of birth, identifier
DAY = 64  # steps of a day of birth in a day, from FIRST_BIRTH on
FIRST_BIRTH = 14558805 + 1721425  # days before the first of year 1
EYES = {b"R": "OD", b"L": "OS"}
EMPTY = 1.99  # values from here on are no reflectivity
FIRST_DAY = datetime.datetime(1601, 1, 1)
YEARS = range(1990, 2100)


@dataclass(frozen=True)
class Container:
    """A part of the file. key: patient, study and series. begin: of its content."""

    type: int
    key: tuple[int, int, int]
    slice: int  # twice the index of the B-scan
    begin: int
    size: int


@dataclass
class Series:
    """What a series holds of B-scans, by their index."""

    pictures: dict[int, tuple[int, tuple[int, int]]] = field(default_factory=dict)
    places: dict[int, tuple] = field(default_factory=dict)
    sides: set[bytes] = field(default_factory=set)


def open_volume(path: Path) -> VolumeRecord:
    """The volume of a file with one series of B-scans. Raises InputError for several."""
    file = BinaryFile.opened(path)
    series, private = _contents(file)
    with_bscans = [part for part in series.values() if part.pictures]
    if len(with_bscans) != 1:
        counts = ", ".join(str(len(part.pictures)) for part in with_bscans) or "no"
        raise InputError(
            f"{path}: {len(with_bscans)} series, of {counts} B-scans, expected one: export each "
            "volume alone, best as .vol, XML or DICOM, which have a scale"
        )
    return _record(file, with_bscans[0], private)


def _record(file: BinaryFile, series: Series, private: list[str]) -> VolumeRecord:
    # sizes and numbers
    shapes = {shape for _, shape in series.pictures.values()}
    if len(shapes) > 1:
        raise InputError(f"{file.path}: B-scans of different sizes; export them apart")
    (shape,) = shapes
    bscans = max(series.pictures) + 1
    stated = {values[5] for values in series.places.values()}
    if len(stated) == 1 and bscans < min(stated) <= MOST_BSCAN + 1:
        bscans = min(stated)

    # what is said of every B-scan must agree
    axial_um = {round(1e3 * values[4], 4) for values in series.places.values()}
    notes = ["an .e2e file has no lateral scale in mm: give it with --scale"]
    if len(axial_um) == 1:
        notes[0] += f" (axial {min(axial_um):.4g} um by the file)"
    if len(series.sides) > 1:
        notes.append("it names both eyes: eye unknown")
    eye = EYES.get(min(series.sides)) if len(series.sides) == 1 else None
    pattern = _pattern(series, bscans)
    moment = _moment(series)
    date = moment.date().isoformat() if moment else None
    if moment:
        private = [*private, date, f"{moment:%H:%M:%S}"]

    def read(index: int) -> np.ndarray:
        begin, _ = series.pictures[index]
        stored = file.array(begin, "<u2", shape, f"B-scan {index}")
        try:
            return to_display(_reflectivity(stored))
        except ValueError as e:
            raise InputError(f"{file.path}: B-scan {index}: {e}") from e

    return VolumeRecord(
        path=file.path,
        kind="Heidelberg .e2e",
        shape=shape,
        bscans=bscans,
        available=tuple(sorted(series.pictures)),
        read=read,
        pattern=pattern,
        axial_um=min(axial_um) if len(axial_um) == 1 else None,
        eye=eye,
        device="Heidelberg Spectralis",
        date=date,
        identifier=identifier_of(file.path),
        private=tuple(private),
        notes=tuple(notes),
    )


# ---- containers ---------------------------------------------------------------------------------
def _contents(file: BinaryFile) -> tuple[dict[tuple, Series], list[str]]:
    """What is known of each series, and what is said of the patient."""
    series: dict[tuple, Series] = {}
    private: set[str] = set()
    for container in _containers(file):
        part = series.setdefault(container.key, Series())
        index = container.slice // 2
        if container.type == IMAGE:
            _add_picture(file, container, part)
        elif container.type == PLACE and container.size >= PLACES.size:
            part.places[index] = file.fields(container.begin, PLACES, "a B-scan's place")
        elif container.type == EYE and container.size >= SIDE.size:
            (side,) = file.fields(container.begin, SIDE, "the eye")
            if side in EYES:
                part.sides.add(side)
        elif container.type == PATIENT and container.size >= NAMES.size:
            private.update(_private(file.fields(container.begin, NAMES, "the patient")))
    return series, sorted(private - {""})


def _containers(file: BinaryFile) -> Iterator[Container]:
    """All containers of the kinds that are read."""
    begin = file.part(0, min(file.size, len(MULTIPLE)), "the header")
    skipped = SKIPPED if begin == MULTIPLE else 0
    magic, _, place, _ = file.fields(skipped + START, DIRECTORY, "the first directory")
    if not magic.startswith(b"MDbMDir"):
        raise InputError(f"{file.path}: no .e2e file, whatever its name; export it again")
    seen: set[int] = set()
    while place:
        if place in seen or len(seen) == MOST_DIRECTORIES:
            raise InputError(f"{file.path}: directories without end: damaged; copy it again")
        seen.add(place)
        magic, entries, _, before = file.fields(skipped + place, DIRECTORY, "a directory")
        if not magic.startswith(b"MDbDir"):
            raise InputError(f"{file.path}: byte {place} is no directory: damaged; copy it again")
        at = skipped + place + DIRECTORY.size
        content = file.part(at, entries * ENTRY.size, "a directory")
        for entry in ENTRY.iter_unpack(content):
            container = _container(file, skipped, entry)
            if container:
                yield container
        place = before


def _container(file: BinaryFile, skipped: int, entry: tuple) -> Container | None:
    """The container of an entry; None for one of a kind that is not read, and for an empty one."""
    begin, size, *key, number, kind = entry
    if kind not in (IMAGE, PLACE, EYE, PATIENT) or not begin or not size:
        return None
    head = file.fields(skipped + begin, CONTAINER, "a container")
    magic, stated, *head_key, head_number, _, head_kind = head
    agrees = (head_key, head_number, head_kind) == (key, number, kind)
    end = skipped + begin + CONTAINER.size + stated
    if not magic.startswith(b"MDbData") or not agrees or end > file.size:
        raise InputError(f"{file.path}: the container at byte {begin} is damaged; copy it again")
    return Container(kind, tuple(key), number, skipped + begin + CONTAINER.size, stated)


def _add_picture(file: BinaryFile, container: Container, series: Series) -> None:
    """Where the values of a B-scan begin; other pictures are left out."""
    kind, values, height, width = file.fields(container.begin, PICTURE, "a picture")
    if kind != BSCAN:
        return
    index = container.slice // 2
    check_sides(file.path, "B-scans", height, width)
    fits = values == height * width and PICTURE.size + 2 * values <= container.size
    if not fits or not 0 <= index <= MOST_BSCAN or index in series.pictures:
        found = f"B-scan {index} of {height} x {width} px in {container.size} bytes"
        raise InputError(f"{file.path}: {found}: it is damaged; copy it again")
    series.pictures[index] = (container.begin + PICTURE.size, (height, width))


# ---- what they say ------------------------------------------------------------------------------
def _reflectivity(stored: np.ndarray) -> np.ndarray:
    """Values of 16 bits without a sign, of 6 bits exponent and 10 bits mantissa, as float32."""
    exponent = (stored >> 10).astype(np.int32) - 63
    values = np.ldexp(1 + (stored & 1023) / 1024, exponent).astype(np.float32)
    values[values >= EMPTY] = np.nan
    return values


def _pattern(series: Series, bscans: int) -> str:
    """How the B-scans lie, by their places in degrees."""
    if bscans == 1:
        return "line"
    if len(series.places) < bscans or min(series.places) < 0 or max(series.places) >= bscans:
        return "other"
    places = []
    for index in range(bscans):
        start_x, start_y, end_x, end_y, *_ = series.places[index]
        places.append(BScanPlace((start_x, start_y), (end_x, end_y)))
    if not np.isfinite([place.start_mm + place.end_mm for place in places]).all():
        return "other"
    return geometry_of(places, 0).pattern  # the width is looked at of one alone


def _private(patient: tuple) -> Iterator[str]:
    """The patient's names, identifier and day of birth."""
    first, last, birth, identifier = patient
    for content in (first, last, identifier):
        yield content.split(b"\0")[0].decode("latin-1").strip()
    day = round(birth / DAY) - FIRST_BIRTH
    if 0 < day <= datetime.date.max.toordinal():
        yield datetime.date.fromordinal(day).isoformat()


def _moment(series: Series) -> datetime.datetime | None:
    """When the first B-scan that says it was taken."""
    for _, values in sorted(series.places.items()):
        try:
            day = FIRST_DAY + datetime.timedelta(microseconds=values[6] // 10)
        except OverflowError:
            continue
        if day.year in YEARS:
            return day
    return None
