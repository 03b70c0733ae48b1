"""Files -> B-scans to predict, listed by names and headers, their pixels read one at a time.

Of the images of a folder, of one array, of a MATLAB file, of a device's file, and of the phantom.
Openers add notes to a list.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError, with_flags
from dme.common.words import EYES
from dme.data import phantom
from dme.data.arrays import COLOURS, StoredArray, open_npy
from dme.data.duke import DUKE_RECOGNISED, DUKE_SCALE_UM, is_duke
from dme.data.images import (
    Survey,
    brightest,
    read_as_seen,
    survey_images,
    to_grey_uint8,
    to_scan,
    white_of,
)
from dme.data.index import MOST_BSCAN, IndexRow, read_index
from dme.data.layout import enface_pictures, images_by_name
from dme.data.matlab import open_mat as open_mat_source
from dme.data.source import natural
from dme.data.volume_files import open_volume
from dme.data.volume_record import VolumeRecord
from dme.data.volume_scale import scale_fault, spacing_fault
from dme.data.volume_stack import check_stack
from dme.report.truth import Truth, folder_truth
from dme.retina.recognise import has_colours

# names that say which volume and which B-scan of it a file is
VOLUME_NAMES = (r"(subject_?\d+)_(\d+)", r"(.*?)[ _-]?b-?scan[ _-]?(\d+)")
PHANTOM_BSCANS = 20


@dataclass
class Scan:
    """One B-scan to predict.

    `read` gives uint8 (H, W), in colours (H, W, 3), or raises InputError.
    """

    name: str
    source: str  # the file
    read: Callable[[], np.ndarray]
    volume: str | None = None  # name of the volume it belongs to
    position: int | None = None  # index of the B-scan in it
    scale_um: tuple[float, ...] | None = None  # axial, lateral, spacing, as far as they are known
    eye: str | None = None  # OD or OS
    fovea: tuple[float, ...] | None = None  # column, B-scan
    record: VolumeRecord | None = None  # of the device's file it comes from
    index: int = 0  # in that file
    shown_source: str | None = None  # what results call that file
    truth: Callable[[tuple[int, int]], Truth] | None = None  # given the shape (H, W)

    def read_grey(self) -> np.ndarray:
        """Its pixels, uint8 (H, W), those of pictures in colours too."""
        return to_grey_uint8(self.read())[0]


def take_scale(scans: Sequence[Scan], given: Sequence[float] | None) -> list[str]:
    """Scans get the scale that was given, as far as it goes, in place of their source's.

    given: um, axial, lateral and maybe spacing. Returns notes on files whose scale is replaced;
    raises InputError for scans whose file has a scale that cannot be, unless one was given.
    """
    given = tuple(given or ())
    notes = []
    for record in {scan.record.path: scan.record for scan in scans if scan.record}.values():
        fault = scale_fault(record)
        replaced = len(given) == 3 or (given and not spacing_fault(record))
        if fault and not replaced:
            raise InputError(f"{record.path}: {fault}; give the right one with `scale`")
        if given and record.scale_um:
            scale = ", ".join(f"{value:.4g}" for value in record.scale_um)
            note = f"{record.path}: its scale, {scale} um, replaced by `scale`"
            notes.append(f"{note} ({fault})" if fault else note)
    for scan in scans:
        known = scan.scale_um or ()
        scan.scale_um = (*given, *known[len(given) :]) or None
    return [with_flags(note) for note in notes]


# ---- the images of a folder ---------------------------------------------------------------------
def open_images(
    folder: Path, files: list[Path], index: Path | None, volume: bool, notes: list[str]
) -> list[Scan]:
    """index: a table of volumes and scales. volume: without one, all are B-scans of one volume."""
    label = folder.resolve().name or "scans"

    # those that the index lists are the set
    rows: dict[Path, IndexRow] = {}
    unlisted = 0
    if index:
        by_name = images_by_name(files)
        rows = {by_name[row.name]: row for row in read_index(index, by_name)}
        unlisted = len(files) - len(rows)
        files = [file for file in files if file in rows]
    survey = survey_images(files)  # the largest value of 16-bit images becomes the white of all
    if survey.peak:
        notes.append(f"{folder}: 16-bit values scaled by 255/{white_of(survey.peak)}")
    notes += [f"{folder}: {note}" for note in survey.notes]

    # the picture of the surface that an export puts beside its B-scans
    if not index:
        for picture in enface_pictures(survey.shapes):
            height, width = survey.shapes[picture]
            found = f"{picture.name} left out, {height} x {width} px beside the B-scans"
            notes.append(f"{folder}: {found}: taken for the en-face picture")
            files = [file for file in files if file != picture]
    scans = []
    for file in sorted(files, key=natural):
        scans.append(Scan(file.stem, str(file), partial(_read_image, file, survey.peak)))
    truth = folder_truth(folder, [scan.name for scan in scans], notes)
    if truth:
        for scan in scans:
            scan.truth = partial(truth.read, scan.name)

    # which B-scan of which volume each of them is
    if index:
        _place_by_index(scans, rows, index, label)
        if unlisted:
            notes.append(f"{index}: {unlisted} images without a line in it left out")
        _recognise_duke(scans, rows, index, survey, notes)
    elif volume:
        _place_in_order(scans, label, notes)
    else:
        _place_by_name(scans, label, notes)
    return scans


def _place_by_index(
    scans: list[Scan], rows: dict[Path, IndexRow], index: Path, label: str
) -> None:
    """What index.csv says of each image. rows: by the scans' files."""
    for scan in scans:
        row = rows[Path(scan.source)]
        if row.subject is not None:  # else a single scan
            scan.volume = f"{label}_subject{row.subject:02d}"
            scan.position = row.position
        scan.scale_um = row.scale_um
        scan.eye = row.eye
        scan.fovea = row.fovea
    _part_eyes(scans, rows)
    _spread(scans, index)


def _part_eyes(scans: list[Scan], rows: dict[Path, IndexRow]) -> None:
    """Both eyes of a subject are two volumes."""
    eyes: dict[int, set[str | None]] = {}
    for row in rows.values():
        eyes.setdefault(row.subject, set()).add(row.eye)
    for scan in scans:
        both = set(EYES) <= eyes[rows[Path(scan.source)].subject]
        if scan.volume and both and scan.eye:
            scan.volume += f"_{scan.eye}"


def _spread(scans: list[Scan], index: Path) -> None:
    """What one line says of a volume's eye and fovea holds for all its B-scans."""
    for key in ("eye", "fovea"):
        known: dict[str, object] = {}
        of_volumes = [scan for scan in scans if scan.volume]
        for scan in of_volumes:
            value = getattr(scan, key)
            if value is not None and known.setdefault(scan.volume, value) != value:
                found = f"{known[scan.volume]} and {value}"
                raise InputError(f"{index}: {key} of volume {scan.volume} is {found}: keep one")
        for scan in of_volumes:
            setattr(scan, key, known.get(scan.volume))


def _recognise_duke(
    scans: list[Scan], rows: dict[Path, IndexRow], index: Path, survey: Survey, notes: list[str]
) -> None:
    """The Duke set is known by its subjects and positions; its scale is not in its files."""
    scale_given = any(row.scale_um for row in rows.values())
    places = [row.place for row in rows.values()]
    if not scale_given and is_duke(places, survey.shapes.values()):
        notes.append(f"{index}: {DUKE_RECOGNISED}")
        for scan in scans:
            scan.scale_um = DUKE_SCALE_UM


def _place_in_order(scans: list[Scan], label: str, notes: list[str]) -> None:
    """All scans are one volume, in the order of their names, whose numbers count for nothing."""
    for position, scan in enumerate(scans):
        scan.volume = label
        scan.position = position
    if len(scans) == 1:
        reason = "one image is no volume, and images of several folders are not put together"
        notes.append(with_flags(f"{label}: {reason}: `volume` has no effect"))
        return
    numbers = [re.search(r"(\d+)\D*$", scan.name) for scan in scans]
    if all(numbers) and [int(number[1]) for number in numbers] != list(range(len(scans))):
        ends = f"{scans[0].name} is B-scan 0, {scans[-1].name} B-scan {len(scans) - 1}"
        notes.append(with_flags(f"{label}: by `volume` B-scans lie in order of names: {ends}"))


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
    return read_as_seen(path, peak)


# ---- one array ----------------------------------------------------------------------------------
def open_array(path: Path, notes: list[str]) -> list[Scan]:
    """A scan, grey or in colour, or the B-scans of a volume; the pixels stay on the disk."""
    array = open_npy(path)
    if len(array.shape) == 2 or len(array.shape) == 3 and array.shape[2] in COLOURS:
        return [Scan(path.stem, str(path), partial(_read_array, array, None, None))]

    # which axis is which
    bscans, height, width = array.shape[:3]
    if len(array.shape) == 3:
        check_stack(path, array.shape, array.read_part)
    notes.append(f"{path}: {bscans} B-scans of {height} x {width} px")

    # one grey rule for all B-scans, which are read one at a time
    peak = None
    if array.dtype != np.uint8:
        last = 3 if len(array.shape) == 4 else width  # without alpha
        peak = max(brightest(array.read_part(i)[..., :last]) for i in range(bscans))
        if array.dtype.kind != "f":
            notes.append(f"{path}: {array.dtype} values scaled by 255/{white_of(peak)}")
    scans = []
    for position in range(bscans):
        read = partial(_read_array, array, position, peak)
        scans.append(Scan(path.stem, str(path), read, path.stem, position))
    return scans


def _read_array(array: StoredArray, position: int | None, peak: float | None) -> np.ndarray:
    """The B-scan at a position of a volume, or the only one."""
    pixels = array.read() if position is None else array.read_part(position)
    if has_colours(pixels):
        return pixels[:, :, :3]
    try:
        return to_scan(pixels, peak)
    except ValueError as e:
        raise InputError(f"{array.path}: {e}") from e


# ---- volumes that bring positions and scale -----------------------------------------------------
def open_mat(path: Path, notes: list[str]) -> list[Scan]:
    """All B-scans of a MATLAB file, annotated or not."""
    source = open_mat_source(path, grader=1, any_name=True)
    bscans = source.scans(labelled_only=False)
    scans = [_scan_of(bscan, str(path), path.stem) for bscan in bscans]
    notes += [note for note in source.notes if "scale" in note]
    return scans


def open_device_file(path: Path, notes: list[str]) -> list[Scan]:
    """All B-scans of a device's file; those of a raster are a volume, counted from inferior."""
    record = open_volume(path)
    stem = Path(path.name.removesuffix(".gz")).stem
    scans = []
    for index in record.available:
        read = partial(record.read, index)
        scan = Scan(stem, str(path), read, scale_um=record.scale_um, record=record, index=index)
        if record.pattern == "raster":
            scan.volume = stem
            scan.position = record.bscans - 1 - index if record.superior_first else index
            scan.eye = record.eye
        elif record.bscans > 1:
            scan.name = f"{stem}_bscan{index:03d}"
        if record.fluid:
            scan.truth = partial(_record_truth, record, index)
        scans.append(scan)
    notes += [f"{path}: {note}" for note in notes_of(record)]
    return scans


def _record_truth(record: VolumeRecord, index: int, shape: tuple[int, int]) -> Truth:
    """Masks that came along with a file; readers see to it that they have its shape."""
    return Truth(record.fluid(index))


def notes_of(record: VolumeRecord) -> list[str]:
    """What was recognised in a device's file."""
    height, width = record.shape
    kind = f"{record.kind}, {record.pattern} of {record.bscans} B-scans"
    if record.bscans == 1:
        kind = f"{record.kind}, {record.pattern} scan"
    eye = record.eye or "eye unknown"
    notes = [f"{kind} of {height} x {width} px, {eye}"]
    if record.superior_first:
        notes.append("its first B-scan is the superior one: B-scans counted from the last")
    missing = record.bscans - len(record.available)
    if missing:
        notes.append(f"{missing} of its {record.bscans} B-scans have no picture")
    if record.fluid:
        notes.append("masks of graders came along and are shown beside")
    return notes + list(record.notes)


def open_phantom(notes: list[str]) -> list[Scan]:
    """A volume that was made up."""
    notes.append("SYNTHETIC phantom B-scans: results say nothing about real scans")
    bscans = phantom.phantom_set(subjects=1, scans_per_subject=PHANTOM_BSCANS)
    return [_scan_of(bscan, "phantom", "phantom") for bscan in bscans]


def _scan_of(bscan: BScan, source: str, volume: str) -> Scan:
    scan = Scan(bscan.name, source, bscan.image.copy, volume, bscan.position, bscan.scale_um)
    truth = Truth(bscan.fluid, bscan.layers)
    scan.truth = lambda shape: truth
    return scan
