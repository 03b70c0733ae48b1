"""Files -> B-scans to predict, listed by names and headers, their pixels read one at a time.

Of the images of a folder, of one array, of a MATLAB file, and of the phantom. Openers add notes to
a list.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.words import EYES, IMAGE_SUFFIXES
from dme.data import phantom
from dme.data.duke import DUKE_RECOGNISED, DUKE_SCALE_UM, is_duke
from dme.data.images import read_grey, survey_images, to_scan
from dme.data.index import MOST_BSCAN, IndexRow, read_index
from dme.data.opening import open_source
from dme.data.source import files_in, natural

# names that say which volume and which B-scan of it a file is
VOLUME_NAMES = (r"(subject_?\d+)_(\d+)", r"(.*?)[ _-]?b-?scan[ _-]?(\d+)")
NUMBERS = "buif"  # NumPy's kinds of numbers
ARRAY_SHAPES = "(H, W), (H, W, 3) or (N, H, W)"
PHANTOM_BSCANS = 20


@dataclass
class Scan:
    """One B-scan to predict. `read` gives uint8 (H, W), or raises InputError."""

    name: str
    source: str  # the file
    read: Callable[[], np.ndarray]
    volume: str | None = None  # name of the volume it belongs to
    position: int | None = None  # index of the B-scan in it
    scale_um: tuple[float, ...] | None = None  # axial, lateral, spacing, as far as they are known
    eye: str | None = None  # OD or OS
    fovea: tuple[float, ...] | None = None  # column, B-scan


# ---- the images of a folder ---------------------------------------------------------------------
def open_images(
    folder: Path, files: list[Path], index: Path | None, volume: bool, notes: list[str]
) -> list[Scan]:
    """index: a table of volumes and scales. volume: without one, all are B-scans of one volume."""
    label = folder.resolve().name or "scans"
    survey = survey_images(files)  # the largest value of 16-bit images becomes the white of all
    scans = []
    for file in sorted(files, key=natural):
        scans.append(Scan(file.stem, str(file), partial(_read_image, file, survey.peak)))

    # which B-scan of which volume each of them is
    if index:
        _place_by_index(scans, index, label, set(survey.shapes.values()), notes)
        return [scan for scan in scans if scan.volume]
    if volume:
        for position, scan in enumerate(scans):
            scan.volume = label
            scan.position = position
    else:
        _place_by_name(scans, label, notes)
    return scans


def _place_by_index(
    scans: list[Scan], index: Path, label: str, shapes: set, notes: list[str]
) -> None:
    """What index.csv says of each image; those that it does not list get no volume."""
    by_name = {scan.name: scan for scan in scans}
    images = files_in(Path(scans[0].source).parent, IMAGE_SUFFIXES)
    rows = read_index(index, images)
    for row in rows:
        scan = by_name[row.name]
        scan.volume = f"{label}_subject{row.subject:02d}"
        scan.position = row.position
        scan.scale_um = row.scale_um
        scan.eye = row.eye
        scan.fovea = row.fovea
    _part_eyes(scans, rows)
    _spread(scans, index)
    extra = len(scans) - len(rows)
    if extra:
        notes.append(f"{index}: {extra} images without a line in it left out")

    # the Duke set is known by its subjects and positions; its scale is not in its files
    scale_given = any(row.scale_um for row in rows)
    row_places = [row.place for row in rows]
    if not scale_given and is_duke(row_places, shapes):
        notes.append(f"{index}: {DUKE_RECOGNISED}")
        for scan in scans:
            scan.scale_um = DUKE_SCALE_UM


def _part_eyes(scans: list[Scan], rows: list[IndexRow]) -> None:
    """Both eyes of a subject are two volumes."""
    eyes: dict[int, set[str | None]] = {}
    for row in rows:
        eyes.setdefault(row.subject, set()).add(row.eye)
    both = {row.name for row in rows if set(EYES) <= eyes[row.subject]}
    for scan in scans:
        if scan.name in both and scan.eye:
            scan.volume += f"_{scan.eye}"


def _spread(scans: list[Scan], index: Path) -> None:
    """What one line says of a volume's eye and fovea holds for all its B-scans."""
    for key in ("eye", "fovea"):
        known: dict[str, object] = {}
        for scan in scans:
            value = getattr(scan, key)
            if value is not None and known.setdefault(scan.volume, value) != value:
                found = f"{known[scan.volume]} and {value}"
                raise InputError(f"{index}: {key} of volume {scan.volume} is {found}: keep one")
        for scan in scans:
            setattr(scan, key, known.get(scan.volume))


def _place_by_name(scans: list[Scan], label: str, notes: list[str]) -> None:
    """Volume and B-scan from names, if those of all scans follow one of VOLUME_NAMES.

    Numbers that no volume reaches, of dates and times, only tell the order.
    """
    for pattern in VOLUME_NAMES:
        matches = [re.fullmatch(pattern, scan.name, re.IGNORECASE) for scan in scans]
        if not all(matches):
            continue
        numbers: dict[str, dict[str, int]] = {}  # volume -> scan -> its number
        for scan, match in zip(scans, matches, strict=True):
            volume, number = match.groups()
            scan.volume = f"{label}_{volume}" if volume else label
            scan.position = int(number)
            numbers.setdefault(scan.volume, {})[scan.name] = scan.position

        # ranks in place of numbers that cannot be
        for volume, by_scan in numbers.items():
            largest = max(by_scan.values())
            if largest <= MOST_BSCAN:
                continue
            notes.append(f"{volume}: {largest} is no B-scan's number: B-scans counted in order")
            ranks = {number: rank for rank, number in enumerate(sorted(set(by_scan.values())))}
            for scan in scans:
                if scan.volume == volume:
                    scan.position = ranks[scan.position]
        return


def _read_image(path: Path, peak: int) -> np.ndarray:
    return read_grey(path, peak)[0]


# ---- one array ----------------------------------------------------------------------------------
def open_array(path: Path, notes: list[str]) -> list[Scan]:
    """A scan, grey or in colour, or the B-scans of a volume; the pixels stay on the disk."""
    array = _mapped(path)
    if array.ndim == 2 or array.shape[2] in (1, 3, 4):
        return [Scan(path.stem, str(path), partial(_read_array, path, array, None))]

    if not array.size:
        raise InputError(f"{path}: shape {array.shape} holds no pixels")
    bscans, height, width = array.shape
    notes.append(f"{path}: {bscans} B-scans of {height} x {width} px")
    # the largest value of all B-scans becomes their white; they are read one at a time
    peak = max(map(_largest, array))
    scans = []
    for position, pixels in enumerate(array):
        read = partial(_read_array, path, pixels, peak)
        scans.append(Scan(path.stem, str(path), read, path.stem, position))
    return scans


def _mapped(path: Path) -> np.ndarray:
    """An .npy file's numbers, of two or three dimensions. Raises InputError for anything else."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as e:  # of NumPy: OSError, ValueError, TokenError, BadZipFile, ...
        raise InputError(f"{path}: not a readable .npy array ({e}); save it again") from e
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: holds an archive of arrays, expected numbers {ARRAY_SHAPES}")
    if array.ndim not in (2, 3) or array.dtype.kind not in NUMBERS:
        found = f"{array.dtype} {array.shape}"
        raise InputError(f"{path}: holds {found}, expected numbers {ARRAY_SHAPES}")
    return array


def _largest(pixels: np.ndarray) -> float:
    """The largest finite value, at least 0."""
    return float(pixels.max(where=np.isfinite(pixels), initial=0))


def _read_array(path: Path, pixels: np.ndarray, peak: float | None) -> np.ndarray:
    try:
        return to_scan(pixels, peak)
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


# ---- volumes that bring positions and scale -----------------------------------------------------
def open_mat(path: Path, notes: list[str]) -> list[Scan]:
    """All B-scans of a MATLAB file, annotated or not."""
    source = open_source(path)
    bscans = source.scans(labelled_only=False)
    scans = [_scan_of(bscan, str(path), path.stem) for bscan in bscans]
    notes += [note for note in source.notes if "scale" in note]
    return scans


def open_phantom(notes: list[str]) -> list[Scan]:
    """A volume that was made up."""
    notes.append("SYNTHETIC phantom B-scans: results say nothing about real scans")
    bscans = phantom.phantom_set(subjects=1, scans_per_subject=PHANTOM_BSCANS)
    return [_scan_of(bscan, "phantom", "phantom") for bscan in bscans]


def _scan_of(bscan: BScan, source: str, volume: str) -> Scan:
    position = bscan.position
    return Scan(bscan.name, source, bscan.image.copy, volume, position, bscan.scale_um)
