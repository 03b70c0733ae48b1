"""What a user points `predict` at -> scans with names and places of their own."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dme.common.errors import InputError
from dme.common.words import IMAGE_SUFFIXES, SCAN_SUFFIXES
from dme.data.source import natural
from dme.report.scans import Scan, open_array, open_images, open_mat, open_phantom

LONGEST_NAME = 150  # bytes
MOST_LISTED = 8  # files of a folder in a message
MOST_LEFT_OUT = 5  # in a note


@dataclass
class Item:
    """Scans that are opened together: a folder's images, an array, a MATLAB file, the phantom."""

    source: str
    opener: Callable[[list[str]], list[Scan]]  # given the list to which it adds its notes
    notes: list[str] = field(default_factory=list)

    def scans(self, names: set[str]) -> list[Scan]:
        """Its scans. names: those in use; the new ones are added. Raises InputError."""
        scans = self.opener(self.notes)
        _check_places(scans)

        # names of volumes first, since those of their scans are made of them
        volumes: dict[str, str] = {}  # name of a volume -> one that no other has
        for scan in scans:
            if scan.volume and scan.volume not in volumes:
                volumes[scan.volume] = _unique(scan.volume, "volume", names)
        for scan in scans:
            if scan.volume:
                scan.volume = volumes[scan.volume]
                scan.name = f"{scan.volume}_bscan{scan.position:03d}"
            scan.name = _unique(scan.name, "scan", names)
        return scans


def list_items(inputs: list[str], volume: bool = False) -> tuple[list[Item], dict[str, str]]:
    """Items of files, folders and the word `phantom`; and of every input that has none the reason.

    A folder's images are single scans unless its index.csv (as in `dme.data.folder`), their names
    (`dme.report.scans.VOLUME_NAMES`) or `volume` says that they are the B-scans of volumes; in the
    last case in natural order. An `.npy` array is (H, W), (H, W, 3) or a volume (N, H, W); a
    `.mat` file is a volume.
    """
    items: list[Item] = []
    faults: dict[str, str] = {}
    loose: dict[Path, list[Path]] = {}  # images that were named one by one, by folder
    for text in inputs:
        path = Path(text)
        try:
            if text == "phantom" and not path.exists():
                items.append(Item("phantom", open_phantom))
            elif path.is_dir():
                items += _folder_items(path, volume)
            elif not path.exists():
                raise InputError(f"{path}: no such file or folder")
            elif _suffix(path) in IMAGE_SUFFIXES:
                # those of one folder are one set, to which later ones are added
                if path.parent not in loose:
                    loose[path.parent] = []
                    items.append(_image_item(path.parent, loose[path.parent], None, volume))
                loose[path.parent].append(path)
            else:
                items.append(_file_item(path))
        except InputError as e:
            faults[str(path)] = str(e)
        except OSError as e:
            faults[str(path)] = f"{path}: {e.strerror}"
    return items, faults


def _suffix(file: Path) -> str:
    return file.suffix.lower()


def _folder_items(root: Path, volume: bool) -> list[Item]:
    """The images of a folder, or of images/ in it, as one item, and one for each other file."""
    folder = root
    if (root / "images").is_dir():
        folder = root / "images"
    index = None
    if (root / "index.csv").is_file():
        index = root / "index.csv"
    images, others, rest = _sorted_out(folder)

    # refuse what cannot be meant
    if not images and not others:
        names = sorted(file.name for file in folder.iterdir())
        found = ", ".join(names[:MOST_LISTED]) or "nothing"
        expected = f"expected files {' '.join(SCAN_SUFFIXES)}"
        raise InputError(f"{root}: no scans, it holds {found}; {expected}")
    if volume and (index or others):
        other = index or others[0]
        expected = "`volume` is for a folder of nothing but images"
        raise InputError(f"{root}: {expected}, found {other.name}")

    # one item for all images, since their index, their names or `volume` place them together
    items = []
    if images:
        items.append(_image_item(root, images, index, volume))
    items += map(_file_item, others)
    left_out = [file.name for file in rest if file != index]
    if left_out:
        items[0].notes.append(f"{folder}: {_left_out(left_out)}")
    return items


def _sorted_out(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files in natural order, hidden ones apart: images, others that hold scans, and the rest."""
    images = []
    others = []
    rest = []
    for file in sorted(folder.iterdir(), key=natural):
        if file.name[0] == "." or not file.is_file():
            continue
        if _suffix(file) in IMAGE_SUFFIXES:
            images.append(file)
        elif _suffix(file) in SCAN_SUFFIXES:
            others.append(file)
        else:
            rest.append(file)
    return images, others, rest


def _left_out(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_LEFT_OUT])
    if len(names) > MOST_LEFT_OUT:
        shown += ", ..."
    return f"{len(names)} files of other kinds left out: {shown}"


def _file_item(path: Path) -> Item:
    openers = {".npy": open_array, ".mat": open_mat}
    if _suffix(path) not in openers:
        expected = f"expected one of {' '.join(SCAN_SUFFIXES)}, or a folder"
        raise InputError(f"{path}: unknown kind of file; {expected}")
    return Item(str(path), partial(openers[_suffix(path)], path))


def _image_item(folder: Path, files: list[Path], index: Path | None, volume: bool) -> Item:
    return Item(str(folder), partial(open_images, folder, files, index, volume))


def _check_places(scans: list[Scan]) -> None:
    """Refuse two scans at one place; the only scan of a volume is a single scan."""
    # volume -> position -> the scan there
    places: dict[str, dict[int, Scan]] = {}
    for scan in scans:
        if scan.volume:
            other = places.setdefault(scan.volume, {}).setdefault(scan.position, scan)
            if other is not scan:
                place = f"B-scan {scan.position} of volume {scan.volume}"
                raise InputError(f"{other.source} and {scan.source} are both {place}: keep one")
    for scan in scans:
        if scan.volume and len(places[scan.volume]) == 1:
            scan.volume = None
            scan.position = None


def _unique(name: str, kind: str, names: set[str]) -> str:
    """A name for files: valid text, of moderate length, unique where a disk ignores case."""
    base = os.fsencode(name)[:LONGEST_NAME].decode("utf-8", "ignore") or kind
    name = base
    number = 1
    while f"{kind} {name.casefold()}" in names:
        number += 1
        name = f"{base}_{number}"
    names.add(f"{kind} {name.casefold()}")
    return name
