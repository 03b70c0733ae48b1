"""XML exports of the Heidelberg Spectralis: a file that names the pictures beside it."""

import math
import re
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from dme.common.errors import InputError
from dme.common.files import sha256_file
from dme.common.words import IMAGE_SUFFIXES
from dme.data.images import read_grey
from dme.data.index import MOST_BSCAN
from dme.data.source import listing
from dme.data.volume_geometry import check_pattern, geometry_of
from dme.data.volume_record import BScanPlace, Enface, VolumeRecord, check_sides
from dme.data.xml_elements import read_elements

LOOKED_AT = 1 << 12  # bytes of a file that tell what it is
MOST_PRIVATE = 200  # texts about patient and study
LONGEST_PRIVATE = 200  # characters of one
# elements of a picture, from Image on
CONTEXT = "OphthalmicAcquisitionContext"
NUMBERS = {
    "ImageNumber": "number",
    f"{CONTEXT}/Width": "width",
    f"{CONTEXT}/Height": "height",
    f"{CONTEXT}/ScaleX": "across_mm",
    f"{CONTEXT}/ScaleY": "down_mm",
    f"{CONTEXT}/Start/Coord/X": "start_x",
    f"{CONTEXT}/Start/Coord/Y": "start_y",
    f"{CONTEXT}/End/Coord/X": "end_x",
    f"{CONTEXT}/End/Coord/Y": "end_y",
}
TEXTS = {
    "ImageType/Type": "type",
    "Laterality": "eye",
    "ImageData/Extension": "extension",
    "ImageData/ExamURL": "url",
    "AcquisitionTime/Time/Hour": "hour",
    "AcquisitionTime/Time/Minute": "minute",
    "AcquisitionTime/Time/Second": "second",
}
LINE_NAME = "Segmentation/SegLine/Name"
LINE_ROWS = "Segmentation/SegLine/Array"
LINES = ("ILM", "BM", "RNFL", "GCL", "IPL", "INL", "OPL", "ELM", "PR1", "PR2", "RPE")
PLACE = ("start_x", "start_y", "end_x", "end_y")
WHOLE = ("number", "width", "height")
PATTERNS = {"Volume": "raster"}
EYES = {"R": "OD", "L": "OS", "OD": "OD", "OS": "OS", "": None}
# texts outside of pictures that are about the patient, or the machine that the eye was seen with
PRIVATE = re.compile(r".*/Patient/(?!.*Series).*|.*UID|.*(Serial|Station|Institution).*")
DATES = ("StudyDate/Date", "ExamDate/Date", "Birthdate/Date")
DATE_PARTS = ("Year", "Month", "Day")

Image = dict[str, float | str | dict[str, np.ndarray]]


class _Export:
    """What the elements of an export say, one after the other."""

    def __init__(self) -> None:
        self.images: list[Image] = []
        self.image: Image = {"lines": {}}
        self.line = ""
        self.series = 0  # with pictures
        self.earlier = 0  # pictures of series that have ended
        self.pattern: str | None = None  # as the export states it
        self.pictures = 0  # as the export counts them
        self.private: list[str] = []
        self.dates: dict[str, dict[str, str]] = {name: {} for name in DATES}

    def wanted(self, path: str) -> bool:
        """Whether a text is looked at."""
        if "/Image/" in path:
            inner = path.split("/Image/", 1)[1]
            return inner in NUMBERS or inner in TEXTS or inner in (LINE_NAME, LINE_ROWS)
        kept = ("/Image", "/Series", "/Series/Type", "/NumImages")
        return path.endswith(kept + DATE_PARTS) or PRIVATE.fullmatch(path) is not None

    def element(self, path: str, text: str) -> None:
        """Take the text of an element that ended. Raises ValueError for what cannot be."""
        if "/Image/" in path:
            self._of_image(path.split("/Image/", 1)[1], text)
        elif path.endswith("/Image"):
            # a picture is complete
            if len(self.images) > MOST_BSCAN:
                raise ValueError(f"over {MOST_BSCAN} pictures")
            self.images.append(self.image)
            self.image = {"lines": {}}
        elif path.endswith("/Series"):
            self.series += len(self.images) > self.earlier
            self.earlier = len(self.images)
        elif path.endswith("/Series/Type"):
            self.pattern = PATTERNS.get(text)
        elif path.endswith("/NumImages"):
            self.pictures += _whole(text, "NumImages")
        else:
            self._of_patient(path, text)

    def _of_image(self, path: str, text: str) -> None:
        if path in NUMBERS:
            key = NUMBERS[path]
            read = _whole if key in WHOLE else _number
            self.image[key] = read(text, path)
        elif path in TEXTS:
            self.image[TEXTS[path]] = text
        elif path == LINE_NAME:
            self.line = text
        elif self.line in LINES:
            words = text.split()
            if len(words) != self.image.get("width"):
                found = f"{self.line} has {len(words)} rows"
                raise ValueError(f"{found}, expected one of each column of the picture")
            rows = np.array([_number(word, path) for word in words], np.float32)
            self.image["lines"][self.line] = rows

    def _of_patient(self, path: str, text: str) -> None:
        for name, parts in self.dates.items():
            date, _, part = path.rpartition("/")
            if date.endswith(name) and part in DATE_PARTS:
                parts.setdefault(part, text)
                return
        if text and len(text) <= LONGEST_PRIVATE and len(self.private) < MOST_PRIVATE:
            self.private.append(text)

    def date(self, name: str) -> str | None:
        """One of DATES as YYYY-MM-DD; None where it is not given or none."""
        parts = [self.dates[name].get(part, "") for part in DATE_PARTS]
        if not all(part.isdecimal() for part in parts):
            return None
        year, month, day = parts
        return f"{int(year):04d}-{int(month):02d}-{int(day):02d}"


def is_export(path: Path) -> bool:
    """Whether a file begins as an export does, and is no other XML."""
    try:
        with open(path, "rb") as file:
            begin = file.read(LOOKED_AT)
    except OSError:
        return False
    return b"<BODY>" in begin and b"<Patient>" in begin


def open_volume(path: Path) -> VolumeRecord:
    """The volume of an export, its pictures looked for in its folder. Raises InputError."""
    # all that is asked for of the file, and whether that is a volume
    export = _Export()
    read_elements(path, export.element, export.wanted)
    if export.series > 1:
        raise InputError(f"{path}: holds {export.series} series; export them one by one")
    if export.pictures and export.pictures != len(export.images):
        found = f"{len(export.images)} pictures, but counts {export.pictures}"
        raise InputError(f"{path}: holds {found}; export it again")

    # B-scans have a begin and an end, the picture of the surface has none
    bscans = []
    surfaces = []
    for image in export.images:
        is_bscan = all(key in image for key in PLACE) and image.get("type") != "LOCALIZER"
        (bscans if is_bscan else surfaces).append(image)
    if not bscans:
        raise InputError(
            f"{path}: no B-scans with start and end; give an XML export of a Spectralis"
        )
    for image in export.images:
        _check_image(path, image)
    _check_alike(path, bscans)
    return _record(path, export, bscans, surfaces)


def _record(
    path: Path, export: _Export, bscans: list[Image], surfaces: list[Image]
) -> VolumeRecord:
    """Put together what the checked export says."""
    # files of pictures
    first = bscans[0]
    width = first["width"]
    pictures = _Pictures(path)
    files = [pictures.find(image) for image in bscans]
    enface = None
    if surfaces:
        enface = _enface(surfaces[0], pictures.find(surfaces[0]))
    notes = pictures.notes()

    # how the B-scans lie
    places = []
    for image in bscans:
        x, y, end_x, end_y = (image[key] for key in PLACE)
        places.append(BScanPlace((x, y), (end_x, end_y)))
    geometry = geometry_of(places, width * first["across_mm"])
    check_pattern(path, export.pattern, geometry)
    if geometry.note:
        notes.append(geometry.note)
    # what nobody is to be told
    dates = [export.date(name) for name in DATES]
    private = [*export.private, *filter(None, dates), *_times(bscans)]

    shape = (first["height"], width)
    return VolumeRecord(
        path=path,
        kind="Spectralis XML",
        shape=shape,
        bscans=len(bscans),
        available=tuple(index for index, file in enumerate(files) if file),
        read=partial(_read_picture, files, shape),
        pattern=geometry.pattern,
        axial_um=first["down_mm"] * 1e3,
        lateral_um=first["across_mm"] * 1e3,
        gaps_um=geometry.gaps_um,
        places=tuple(places),
        superior_first=geometry.superior_first,
        eye=_eye(path, bscans),
        enface=enface,
        lines=partial(_read_lines, bscans, shape[0]),
        device="Heidelberg Spectralis",
        date=export.date("StudyDate/Date") or export.date("ExamDate/Date"),
        identifier=sha256_file(path)[:12],
        private=tuple(dict.fromkeys(private)),
        notes=tuple(notes),
    )


# ---- numbers ------------------------------------------------------------------------------------
def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is {text[:20]!r}, expected a number")
    return value


def _whole(text: str, name: str) -> int:
    value = _number(text, name)
    if value % 1 or not 0 <= value < 1 << 31:
        raise ValueError(f"{name} is {text[:20]!r}, expected a whole number from 0")
    return int(value)


def _check_image(path: Path, image: Image) -> None:
    """Refuse a picture without size or scale, and one of a size that cannot be."""
    missing = [key for key in ("width", "height", "across_mm", "down_mm") if key not in image]
    if missing:
        raise InputError(f"{path}: a picture has no {listing(missing)}; export it again")
    check_sides(path, "a picture", image["height"], image["width"])


def _check_alike(path: Path, bscans: list[Image]) -> None:
    """Refuse B-scans of several sizes or scales, and numbers that do not rise."""
    alike = ("width", "height", "across_mm", "down_mm")
    for image in bscans:
        for key in alike:
            if image[key] != bscans[0][key]:
                found = f"{bscans[0][key]:g} and {image[key]:g}"
                raise InputError(f"{path}: B-scans of different {key}: {found}; export them apart")
    numbers = [image.get("number", index) for index, image in enumerate(bscans)]
    if any(after <= before for before, after in zip(numbers, numbers[1:], strict=False)):
        raise InputError(f"{path}: numbers of B-scans do not rise: {listing(numbers)}")


def _eye(path: Path, bscans: list[Image]) -> str | None:
    """The one that all B-scans are of."""
    sides = {image.get("eye", "") for image in bscans}
    if len(sides) > 1:
        raise InputError(f"{path}: B-scans of several eyes: {listing(sorted(sides))}")
    return EYES.get(sides.pop())


def _times(bscans: list[Image]) -> set[str]:
    """Of the day at which B-scans were taken, HH:MM:SS."""
    times = set()
    for image in bscans:
        parts = [image.get(key, "").partition(".")[0] for key in ("hour", "minute", "second")]
        if all(part.isdecimal() for part in parts):
            times.add(":".join(part.zfill(2) for part in parts))
    return times


# ---- pictures -----------------------------------------------------------------------------------
class _Pictures:
    """The image files in the folder of an export, and no others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent.resolve()
        self.files: dict[str, Path] = {}  # by name, which Windows writes in any case
        for file in path.parent.iterdir():
            inside = file.resolve().parent == self.folder
            if inside and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                self.files[file.name.casefold()] = file
        self.used: set[str] = set()
        self.by_number = False

    def find(self, image: Image) -> Path | None:
        """The file of a picture; None where it is not there."""
        url = image.get("url")
        if url:
            name = re.split(r"[/\\]", unquote(url))[-1].casefold()
        else:
            name = self._numbered(image)
        if name in self.used:
            raise InputError(f"{self.path}: two pictures have the file {name}; export it again")
        if name not in self.files:
            return None
        self.used.add(name)
        return self.files[name]

    def _numbered(self, image: Image) -> str:
        """The one file with the picture's ending whose name holds its number and no other."""
        number = str(image.get("number", ""))
        extension = image.get("extension", "").casefold()
        names = []
        for name in self.files:
            stem, _, ending = name.rpartition(".")
            if ending.startswith(extension) and re.findall(r"\d+", stem) == [number]:
                names.append(name)
        if len(names) > 1:
            found = f"{listing(sorted(names))} all have the number {number}"
            raise InputError(f"{self.path}: {found}: keep the picture")
        self.by_number = True
        return names[0] if names else ""

    def notes(self) -> list[str]:
        """What has to be said of the files."""
        notes = []
        if self.by_number and self.used:
            notes.append("names no files: pictures taken by the numbers in their names")
        rest = [file.name for name, file in self.files.items() if name not in self.used]
        if rest:
            notes.append(f"pictures beside it that are not of it: {listing(sorted(rest))}")
        return notes


def _enface(image: Image, file: Path | None) -> Enface:
    shape = (image["height"], image["width"])
    read = partial(_read_picture, [file], shape, 0) if file else None
    scale_um = (image["across_mm"] * 1e3, image["down_mm"] * 1e3)
    return Enface(shape, scale_um, read)


def _read_picture(files: list[Path | None], shape: tuple[int, int], index: int) -> np.ndarray:
    """uint8 (H, W)"""
    file = files[index]
    if file is None:
        raise InputError(f"B-scan {index} has no picture")
    grey, _ = read_grey(file)
    if grey.shape != shape:
        found = f"{grey.shape[0]} x {grey.shape[1]} px"
        expected = f"{shape[0]} x {shape[1]} px"
        raise InputError(f"{file}: {found}, but its export says {expected}; export it again")
    return grey


def _read_lines(bscans: list[Image], height: int, index: int) -> dict[str, np.ndarray]:
    """Rows float32 (W,) of the device's layers by name, NaN where it does not know them."""
    lines = {}
    for name, rows in bscans[index]["lines"].items():
        known = (rows >= 0) & (rows < height)
        if known.any():
            lines[name] = np.where(known, rows, np.float32(np.nan))
    return lines
