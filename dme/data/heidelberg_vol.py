"""Raw exports of the Heidelberg Spectralis (HSF-OCT, .vol), read B-scan by B-scan.

A header of 2048 bytes, the en-face picture (uint8), then of every B-scan a header of its own with
start, end and the device's layers, and its pixels (float32 reflectivity). All is little-endian.
"""

import datetime
import hashlib
import math
import os
import struct
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.volume_geometry import check_pattern, geometry_of, length_mm
from dme.data.volume_record import BScanPlace, Enface, VolumeRecord, check_sides

HEADER_BYTES = 2048
BSCAN_HEADER_BYTES = 256  # of what stands before the layers
VERSIONS = (b"HSF-OCT-", b"ep-v")  # of Heidelberg, of eyepy
BSCAN_VERSIONS = (b"HSF-BS-", b"ep-v")
PATTERNS = {1: "line", 2: "circle", 3: "raster", 4: "raster", 5: "radial"}
# the layers' numbers in a B-scan's header
LINE_NAMES = {
    0: "ILM",
    1: "BM",
    2: "RNFL",
    3: "GCL",
    4: "IPL",
    5: "INL",
    6: "OPL",
    8: "ELM",
    14: "PR1",
    15: "PR2",
    16: "RPE",
}
MOST_LINES = 64
INVALID = 1e38  # and above: pixels and rows that the device does not know; stored as 3.4e38
WHITE = 255
FEW = 0.01  # of the pixels may be brighter than 1, which is white
# Windows counts 100 ns from 1601, Office days from 1899-12-30
FIRST_TICK = datetime.datetime(1601, 1, 1)
FIRST_DAY = datetime.datetime(1899, 12, 30)
YEARS = range(1900, 2101)


@dataclass(frozen=True)
class _Header:
    """The first 2048 bytes, checked."""

    width: int
    bscans: int
    height: int
    scale_mm: tuple[float, float, float]  # across, between B-scans, down
    enface_shape: tuple[int, int]  # (height, width)
    enface_scale_mm: tuple[float, float]
    eye: str | None
    pattern: int
    bscan_header_bytes: int
    date: str | None = field(repr=False)
    private: tuple[str, ...] = field(repr=False)

    @property
    def pixel_bytes(self) -> int:
        """Of one B-scan."""
        return self.width * self.height * 4

    @property
    def first_bscan(self) -> int:
        """Bytes before the first B-scan's header."""
        height, width = self.enface_shape
        return HEADER_BYTES + height * width


@dataclass(frozen=True)
class _BScanHeader:
    bytes: int  # as it says itself, layers included
    place: BScanPlace
    lines: int
    lines_at: int  # bytes from its begin


def open_volume(path: Path) -> VolumeRecord:
    """The volume of a .vol file. Raises InputError for what no Spectralis writes."""
    size = path.stat().st_size
    content = _read(path, 0, HEADER_BYTES)
    header = _header(path, content)

    # B-scans follow each other at equal distances, which both kinds of header say
    first = _bscan_header(path, header, header.first_bscan, 0)
    stride = first.bytes + header.pixel_bytes
    end = header.first_bscan + header.bscans * stride
    agreed = first.bytes == header.bscan_header_bytes or end == size
    if end > size or not agreed:
        expected = f"{header.bscans} B-scans of {header.height} x {header.width} px"
        raise InputError(
            f"{path}: {size} bytes, expected {end} of {expected}: cut short or damaged; copy it "
            "again"
        )
    bscan_headers = [first]
    for index in range(1, header.bscans):
        at = header.first_bscan + index * stride
        bscan_headers.append(_bscan_header(path, header, at, index))
        if bscan_headers[-1].bytes != first.bytes:
            raise InputError(f"{path}: B-scan {index} does not begin where it should; copy again")

    return _record(path, header, bscan_headers, hashlib.sha256(content))


def _record(
    path: Path, header: _Header, bscan_headers: list[_BScanHeader], digest: "hashlib._Hash"
) -> VolumeRecord:
    """Put together what the headers say. digest: of the header."""
    # how the B-scans lie: by their places, without these as the header states
    across_mm, between_mm, down_mm = header.scale_mm
    places = tuple(bscan.place for bscan in bscan_headers)
    placed = any(place != places[0] or length_mm(place) for place in places)
    notes = []
    stated = PATTERNS.get(header.pattern)
    if placed:
        geometry = geometry_of(places, header.width * across_mm)
        pattern = geometry.pattern
        gaps_um = geometry.gaps_um
        superior_first = geometry.superior_first
        if geometry.note:
            notes.append(geometry.note)
        check_pattern(path, stated, geometry)
    else:
        pattern = stated or "other"
        gaps_um = None
        superior_first = False
        if pattern == "raster" and between_mm > 0:
            gaps_um = (between_mm * 1e3,) * (header.bscans - 1)
        notes.append("B-scans without places")

    # a number for the volume, and its en-face picture
    for bscan in bscan_headers:
        digest.update(repr(bscan).encode())
    read_enface = partial(_read_enface, path, header.enface_shape)
    enface_scale_um = tuple(scale * 1e3 for scale in header.enface_scale_mm)
    return VolumeRecord(
        path=path,
        kind="Heidelberg .vol",
        shape=(header.height, header.width),
        bscans=header.bscans,
        available=tuple(range(header.bscans)),
        read=partial(_read_bscan, path, header, bscan_headers[0].bytes),
        pattern=pattern,
        axial_um=down_mm * 1e3,
        lateral_um=across_mm * 1e3,
        gaps_um=gaps_um,
        stated_spacing_um=between_mm * 1e3 if pattern == "raster" else None,
        places=places if placed else None,
        superior_first=superior_first,
        eye=header.eye,
        enface=Enface(header.enface_shape, enface_scale_um, read_enface),
        lines=partial(_read_lines, path, header, bscan_headers),
        device="Heidelberg Spectralis",
        date=header.date,
        identifier=digest.hexdigest()[:12],
        private=header.private,
        notes=tuple(notes),
    )


# ---- headers ------------------------------------------------------------------------------------
def _read(path: Path, at: int, size: int) -> bytes:
    """So many bytes of a file. Raises InputError where it ends before."""
    try:
        with open(path, "rb") as file:
            if at + size <= os.fstat(file.fileno()).st_size:
                file.seek(at)
                return file.read(size)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); copy it again") from e
    raise InputError(f"{path}: ends before byte {at + size}: cut short; copy it again")


def _header(path: Path, content: bytes) -> _Header:
    """Of the first 2048 bytes. Raises InputError for what cannot be."""
    if not content.startswith(VERSIONS):
        raise InputError(
            f"{path}: begins with {content[:8]!r}, expected {VERSIONS[0].decode()}: no raw export "
            "of a Spectralis; give the file as the device wrote it"
        )
    width, bscans, height = struct.unpack_from("<3i", content, 12)
    scale_mm = struct.unpack_from("<3d", content, 24)
    enface_width, enface_height = struct.unpack_from("<2i", content, 48)
    enface_scale_mm = struct.unpack_from("<2d", content, 56)
    side = content[84:88].rstrip(b"\0 ")
    pattern, bscan_header_bytes = struct.unpack_from("<2i", content, 96)

    # counts and sizes before anything is read by them
    check_sides(path, "B-scans", height, width)
    check_sides(path, "en-face picture", enface_height, enface_width)
    numbers = (*scale_mm, *enface_scale_mm)
    if bscans < 1 or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"{path}: {bscans} B-scans, scale {numbers} mm: damaged; copy it again")
    return _Header(
        width=width,
        bscans=bscans,
        height=height,
        scale_mm=scale_mm,
        enface_shape=(enface_height, enface_width),
        enface_scale_mm=enface_scale_mm,
        eye={b"OD": "OD", b"OS": "OS"}.get(side),
        pattern=pattern,
        bscan_header_bytes=bscan_header_bytes,
        date=_date(content),
        private=_private(content),
    )


def _bscan_header(path: Path, header: _Header, at: int, index: int) -> _BScanHeader:
    """Of the B-scan whose header begins at a byte. Raises InputError for what cannot be."""
    content = _read(path, at, BSCAN_HEADER_BYTES)
    (size,) = struct.unpack_from("<i", content, 12)
    numbers = struct.unpack_from("<4d", content, 16)
    lines, lines_at = struct.unpack_from("<2i", content, 48)
    whole = content.startswith(BSCAN_VERSIONS) and size >= BSCAN_HEADER_BYTES
    known = all(math.isfinite(number) and abs(number) < 1e3 for number in numbers)
    fits = 0 <= lines <= MOST_LINES and 0 <= lines_at
    fits = fits and lines_at + lines * header.width * 4 <= size
    if not (whole and known and fits):
        raise InputError(f"{path}: the header of B-scan {index} is damaged; copy the file again")
    place = BScanPlace(numbers[:2], numbers[2:])
    return _BScanHeader(size, place, lines, lines_at)


def _date(content: bytes) -> str | None:
    """Of the examination, else of the visit."""
    (ticks,) = struct.unpack_from("<Q", content, 88)
    (days,) = struct.unpack_from("<d", content, 200)
    return _day(FIRST_TICK, ticks / 1e7 / 86400) or _day(FIRST_DAY, days)


def _day(first: datetime.datetime, days: float) -> str | None:
    """The date so many days after another; None of 0 and of what is no date."""
    if not days:
        return None
    try:
        day = first + datetime.timedelta(days=days)
    except (OverflowError, ValueError):
        return None
    return day.date().isoformat() if day.year in YEARS else None


def _time(content: bytes) -> str:
    """Of the day of the examination, HH:MM:SS; nothing where it is not given."""
    (ticks,) = struct.unpack_from("<Q", content, 88)
    seconds = ticks // 10**7 % 86400
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if ticks else ""


def _private(content: bytes) -> tuple[str, ...]:
    """Texts of the header that say who the patient is, and when he was examined."""
    texts = []
    for start, length in ((104, 16), (120, 16), (140, 21), (176, 24)):
        raw = content[start : start + length].split(b"\0")[0]
        texts.append(raw.decode("latin-1").strip())
    (number,) = struct.unpack_from("<i", content, 136)
    texts.append(str(number))
    (birth,) = struct.unpack_from("<d", content, 164)
    texts.append(_day(FIRST_DAY, birth) or "")
    texts.append(_date(content) or "")
    texts.append(_time(content))
    return tuple(text for text in texts if text.strip("0"))


# ---- pixels -------------------------------------------------------------------------------------
def _read_bscan(path: Path, header: _Header, header_bytes: int, index: int) -> np.ndarray:
    """Grey values uint8 (H, W) of a B-scan."""
    stride = header_bytes + header.pixel_bytes
    at = header.first_bscan + index * stride + header_bytes
    pixels = np.frombuffer(_read(path, at, header.pixel_bytes), "<f4")
    try:
        return to_display(pixels.reshape(header.height, header.width))
    except ValueError as e:
        raise InputError(f"{path}: B-scan {index}: {e}") from e


def to_display(reflectivity: np.ndarray) -> np.ndarray:
    """Reflectivity float32 (H, W), 0 to 1 -> grey uint8 (H, W): its fourth root times 255.

    Pixels without data, at INVALID or above, become white, so that those at the border are a
    saturated wedge as `dme.retina.wedge` has it. Raises ValueError for what is no reflectivity.
    """
    # NaN is no number below INVALID either
    unknown = ~(np.abs(reflectivity) < INVALID)
    known = reflectivity[~unknown]
    if (known < 0).any() or (known > 1).sum() > FEW * known.size:
        found = f"pixels {known.min():g} to {known.max():g}"
        raise ValueError(f"{found}, expected reflectivity 0 to 1; export it again")
    grey = np.where(unknown, 1, reflectivity).clip(0, 1) ** 0.25 * WHITE
    return np.rint(grey).astype(np.uint8)


def _read_enface(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W)"""
    height, width = shape
    content = _read(path, HEADER_BYTES, height * width)
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_lines(
    path: Path, header: _Header, bscan_headers: list[_BScanHeader], index: int
) -> dict[str, np.ndarray]:
    """Rows float32 (W,) of the device's layers by name, NaN where it does not know them."""
    bscan = bscan_headers[index]
    stride = bscan.bytes + header.pixel_bytes
    at = header.first_bscan + index * stride + bscan.lines_at
    content = _read(path, at, bscan.lines * header.width * 4)
    rows = np.frombuffer(content, "<f4").reshape(bscan.lines, header.width)
    known = (rows >= 0) & (rows < header.height)
    rows = np.where(known, rows, np.nan).astype(np.float32)
    lines = {}
    for number, name in LINE_NAMES.items():
        if number < len(rows) and np.isfinite(rows[number]).any():
            lines[name] = rows[number]
    return lines
