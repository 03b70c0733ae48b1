"""What a user points `predict` at -> scans, listed by names and headers, their pixels read one at a time."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data import phantom
from dme.data.duke import DUKE_RECOGNISED, DUKE_SCALE_UM, is_duke
from dme.data.images import read_grey, survey_images, to_scan
from dme.data.index import read_index
from dme.data.opening import open_source
from dme.data.source import IMAGE_SUFFIXES, files_in, natural

SUFFIXES = (*IMAGE_SUFFIXES, ".npy", ".mat")
# names that say which volume and which B-scan of it a file is
VOLUME_NAMES = (r"(subject_?\d+)_(\d+)", r"(.*?)[ _-]?b-?scan[ _-]?(\d+)")


@dataclass
class Scan:
    """One B-scan to predict. `read` gives uint8 (H, W), or raises InputError."""

    name: str
    source: str  # the file
    read: Callable[[], np.ndarray]
    volume: str | None = None  # name of the volume it belongs to
    position: int | None = None  # index of the B-scan in it
    scale_um: tuple[float, ...] | None = (
        None  # axial, lateral, spacing, as far as the source knows
    )


@dataclass
class Item:
    """Scans that are opened together: the images of a folder, one array, one MATLAB file, the phantom."""

    source: str
    opener: Callable[[list[str]], list[Scan]]  # given the list to which it adds its notes
    notes: list[str] = field(default_factory=list)

    def scans(self, taken: set[str]) -> list[Scan]:
        """Its scans; names that are in `taken` get a number, those given are added. Raises InputError."""
        scans = self.opener(self.notes)
        _check_places(scans)
        volumes = {
            name: _unique(name, "volume", taken)
            for name in dict.fromkeys(s.volume for s in scans)
            if name
        }
        for scan in scans:
            if scan.volume:
                scan.volume = volumes[scan.volume]
                scan.name = f"{scan.volume}_bscan{scan.position:03d}"
            scan.name = _unique(scan.name, "scan", taken)
        return scans


def list_items(inputs: list[str], volume: bool = False) -> tuple[list[Item], dict[str, str]]:
    """Items of files, folders and the word `phantom`; and of every input that has none the reason.

    A folder's images are single scans unless its index.csv (as in `dme.data.folder`), their names
    (VOLUME_NAMES) or `volume` says that they are the B-scans of volumes; in the last case in natural order.
    An `.npy` array is (H, W), (H, W, 3) or a volume (N, H, W); a `.mat` file is a volume.
    """
    items, faults, loose = [], {}, {}
    for text in inputs:
        path = Path(text)
        try:
            if text == "phantom" and not path.exists():
                items.append(Item("phantom", _open_phantom))
            elif path.is_dir():
                items += _folder_items(path, volume)
            elif not path.exists():
                raise InputError(f"{path}: no such file or folder")
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                if (
                    path.parent not in loose
                ):  # the files of a folder, named one by one, are one set
                    loose[path.parent] = []
                    items.append(_image_item(path.parent, loose[path.parent], None, volume))
                loose[path.parent].append(path)
            else:
                items.append(_file_item(path))
        except (InputError, OSError) as e:
            faults[str(path)] = f"{path}: {e.strerror}" if isinstance(e, OSError) else str(e)
    return items, faults


# ---- the kinds of items ---------------------------------------------------------------------------------
def _folder_items(root: Path, volume: bool) -> list[Item]:
    folder = root / "images" if (root / "images").is_dir() else root
    inside = sorted((f for f in folder.iterdir() if f.name[0] != "." and f.is_file()), key=natural)
    usable = [f for f in inside if f.suffix.lower() in SUFFIXES]
    if not usable:
        found = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
        raise InputError(
            f"{root}: no scans, it holds {found}; expected files {' '.join(SUFFIXES)}"
        )
    images = [f for f in usable if f.suffix.lower() in IMAGE_SUFFIXES]
    index = root / "index.csv"
    if volume and (index.is_file() or len(images) < len(usable)):
        other = index if index.is_file() else next(f for f in usable if f not in images)
        raise InputError(
            f"{root}: --volume is for a folder of nothing but images, found {other.name}"
        )
    items = (
        [_image_item(root, images, index if index.is_file() else None, volume)] if images else []
    )
    items += [_file_item(f) for f in usable if f.suffix.lower() not in IMAGE_SUFFIXES]
    if others := [f.name for f in inside if f.suffix.lower() not in SUFFIXES and f != index]:
        some = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
        items[0].notes.append(f"{folder}: {len(others)} files of other kinds left out: {some}")
    return items


def _file_item(path: Path) -> Item:
    openers = {".npy": _open_array, ".mat": _open_mat}
    if path.suffix.lower() not in openers:
        raise InputError(
            f"{path}: unknown kind of file; expected one of {' '.join(SUFFIXES)}, or a folder"
        )
    return Item(str(path), partial(openers[path.suffix.lower()], path))


def _image_item(folder: Path, files: list[Path], index: Path | None, volume: bool) -> Item:
    return Item(str(folder), partial(_open_images, folder, files, index, volume))


def _open_images(
    folder: Path, files: list[Path], index: Path | None, volume: bool, notes: list[str]
) -> list[Scan]:
    label = folder.resolve().name or "scans"
    survey = survey_images(files)
    scans = [
        Scan(f.stem, str(f), partial(_read_image, f, survey.peak))
        for f in sorted(files, key=natural)
    ]
    if index:
        _place_by_index(scans, index, label, set(survey.shapes.values()), notes)
        scans = [scan for scan in scans if scan.volume]
    elif volume:
        for position, scan in enumerate(scans):
            scan.volume, scan.position = label, position
    else:
        for pattern in VOLUME_NAMES:
            found = [re.fullmatch(pattern, scan.name, re.IGNORECASE) for scan in scans]
            if all(found):
                for scan, match in zip(scans, found, strict=True):
                    scan.volume = "_".join(filter(None, (label, match[1])))
                    scan.position = int(match[2])
                break
    return scans


def _place_by_index(
    scans: list[Scan], index: Path, label: str, shapes: set, notes: list[str]
) -> None:
    """Volume, B-scan and scale from index.csv; images that it does not list stay without a volume."""
    by_name = {scan.name: scan for scan in scans}
    rows = read_index(index, files_in(Path(scans[0].source).parent, IMAGE_SUFFIXES))
    for row in rows:
        scan = by_name[row.name]
        scan.volume, scan.position = f"{label}_subject{row.subject:02d}", row.position
        scan.scale_um = row.scale_um
    if extra := len(scans) - len(rows):
        notes.append(f"{index}: {extra} images without a line in it left out")
    if is_duke((row.place for row in rows), shapes):
        if not any(row.scale_um for row in rows):
            notes.append(f"{index}: {DUKE_RECOGNISED}")
            for scan in scans:
                scan.scale_um = DUKE_SCALE_UM


def _check_places(scans: list[Scan]) -> None:
    """Refuse two scans at one place; the only scan of a volume is a single scan."""
    places: dict[str, dict[int, Scan]] = {}
    for scan in scans:
        if scan.volume:
            other = places.setdefault(scan.volume, {}).setdefault(scan.position, scan)
            if other is not scan:
                place = f"B-scan {scan.position} of volume {scan.volume}"
                raise InputError(f"{other.source} and {scan.source} are both {place}: keep one")
    for scan in scans:
        if scan.volume and len(places[scan.volume]) == 1:
            scan.volume = scan.position = None


def _unique(name: str, kind: str, taken: set[str]) -> str:
    """A name for files: valid text, of moderate length, used once also where a disk ignores case."""
    base = os.fsencode(name)[:150].decode("utf-8", "ignore") or kind
    name, number = base, 1
    while f"{kind} {name.casefold()}" in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(f"{kind} {name.casefold()}")
    return name


def _read_image(path: Path, peak: int) -> np.ndarray:
    return read_grey(path, peak)[0]


def _open_array(path: Path, notes: list[str]) -> list[Scan]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (
        Exception
    ) as e:  # NumPy raises OSError, ValueError, TokenError, BadZipFile, ... on broken files
        raise InputError(f"{path}: not a readable .npy array ({e}); save it again") from e
    if (
        not isinstance(array, np.ndarray)
        or array.ndim not in (2, 3)
        or array.dtype.kind not in "buif"
    ):
        found = (
            f"{array.dtype} {array.shape}"
            if isinstance(array, np.ndarray)
            else "an archive of arrays"
        )
        raise InputError(f"{path}: holds {found}, expected numbers (H, W), (H, W, 3) or (N, H, W)")
    if array.ndim == 2 or array.shape[2] in (1, 3, 4):
        return [Scan(path.stem, str(path), partial(_read_array, path, array, None))]
    if not array.size:
        raise InputError(f"{path}: shape {array.shape} holds no pixels")
    notes.append(f"{path}: {len(array)} B-scans of {array.shape[1]} x {array.shape[2]} px")
    peak = max(float(pixels.max(where=np.isfinite(pixels), initial=0)) for pixels in array)
    return [
        Scan(path.stem, str(path), partial(_read_array, path, pixels, peak), path.stem, i)
        for i, pixels in enumerate(array)
    ]


def _read_array(path: Path, pixels: np.ndarray, peak: float | None) -> np.ndarray:
    try:
        return to_scan(pixels, peak)
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def _open_mat(path: Path, notes: list[str]) -> list[Scan]:
    source = open_source(path)
    scans = [
        Scan(b.name, str(path), b.image.copy, path.stem, b.position, b.scale_um)
        for b in source.scans(labelled_only=False)
    ]
    notes += [note for note in source.notes if "scale" in note]
    return scans


def _open_phantom(notes: list[str]) -> list[Scan]:
    notes.append("SYNTHETIC phantom B-scans: results say nothing about real scans")
    return [
        Scan(b.name, "phantom", b.image.copy, "phantom", b.position, b.scale_um)
        for b in phantom.phantom_set(subjects=1, scans_per_subject=20)
    ]
