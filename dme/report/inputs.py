"""What a user points `predict` at -> scans with names and places of their own."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dme.common.errors import InputError, with_flags
from dme.common.files import leads_nowhere, refuse_lost_link
from dme.common.words import IMAGE_SUFFIXES, SCAN_SUFFIXES
from dme.data.index import INDEX
from dme.data.layout import masks_beside
from dme.data.source import natural
from dme.data.volume_files import holds_volume, is_part, names_pictures, volume_reader
from dme.report.output_folder import RESULTS
from dme.report.privacy import Privacy
from dme.report.scans import (
    Scan,
    open_array,
    open_device_file,
    open_images,
    open_mat,
    open_phantom,
)

LONGEST_NAME = 150  # bytes
MOST_LISTED = 8  # files of a folder in a message
MOST_LEFT_OUT = 5  # in a note
DEEPEST = 3  # folders in folders: a hospital's, a patient's, a visit's
# folders that belong to the images beside them
COMPANIONS = ("images", "fluid", "masks", "boundaries", "vessels", "labelsTr", "ann_dir", "semseg")
# of layouts, the first that there is, in the order of `dme.data.layout.find_layout`
IMAGE_FOLDERS = ("imagesTr", "img_dir", "bscan", "images", "imagesTs")
ARRAY_OPENERS = {".npy": open_array, ".mat": open_mat}
RUN_FILES = (RESULTS, "results.json")  # of folders that this program made


class _NoScans(InputError):
    """A folder holds none, which among others is no fault."""


@dataclass
class Item:
    """Scans that are opened together: a folder's images, an array, a MATLAB file, the phantom."""

    source: str
    opener: Callable[[list[str]], list[Scan]]  # given the list to which it adds its notes
    files: list[Path] = field(default_factory=list)  # that it opens
    notes: list[str] = field(default_factory=list)
    prefix: str = ""  # of names: the folders in a folder that lead to them, such as anna/visit1

    def scans(self, names: set[str], privacy: Privacy | None = None) -> list[Scan]:
        """Its scans. names: those in use; the new ones are added. Raises InputError.

        privacy: of what may stand in names, and is told what files of devices call private.
        """
        scans = self.opener(self.notes)
        _check_places(scans)
        if self.prefix:
            for scan in scans:
                scan.name = f"{self.prefix}/{scan.name}".replace("/", "_")
                scan.volume = scan.volume and _prefixed(self.prefix, scan.volume)
        # a device's file is an item of its own
        privacy = privacy or Privacy()
        record = scans[0].record if scans else None
        if record and privacy.hides(record.path.relative_to(self.root).as_posix(), record):
            for scan in scans:
                scan.volume = scan.volume and "volume"
                scan.name = "scan"
        _make_unique(scans, names)

        # what results call their files
        if record:
            shown = privacy.shown(record, self.root, scans[0].volume or scans[0].name)
        for scan in scans:
            if record:
                scan.shown_source = shown
            elif os.path.isabs(scan.source):
                scan.shown_source = Path(scan.source).relative_to(self.root).as_posix()
        return scans

    @property
    def root(self) -> Path:
        """The folder that a user named, or that of a file."""
        path = Path(self.source)
        folder = path if path.is_dir() else path.parent
        return (folder / "_").parents[len(Path(self.prefix).parts)]


def list_items(inputs: list[str], volume: bool = False) -> tuple[list[Item], dict[str, str]]:
    """Items of files, folders and the word `phantom`; and of every input that has none the reason.

    Folders in a folder are read too, down to DEEPEST; masks beside images and the en-face picture
    of an export are left out. A folder's images are single scans unless its index.csv (as in
    `dme.data.folder`), their names (`dme.report.scans.VOLUME_NAMES`) or `volume` says that they
    are the B-scans of volumes; in the last case in natural order. An `.npy` array is (H, W),
    (H, W, 3) or a volume (N, H, W) or (N, H, W, 3); a `.mat` file is a volume. A path that is
    given again is taken once, which is noted; raises InputError for a file of two inputs.
    """
    items: list[Item] = []
    faults: dict[str, str] = {}
    loose: dict[Path, list[Path]] = {}  # images that were named one by one, by folder
    held: dict[str, list[Path]] = {}  # files of each input
    once, again = _given_again(inputs)
    for text in once:
        path = Path(text)
        held[text] = [path]
        try:
            refuse_lost_link(path)
            if text == "phantom" and not path.exists():
                items.append(Item("phantom", open_phantom))
            elif path.is_dir():
                inside = _folder_items(path, volume)
                items += inside
                held[text] = [file for item in inside for file in item.files]
            elif not path.exists():
                raise InputError(f"{path}: no such file or folder")
            elif not path.is_file():
                raise InputError(f"{path}: a pipe or a device, expected a file or a folder")
            elif _suffix(path) in IMAGE_SUFFIXES and not volume_reader(path):
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
    _refuse_shared_files(held)
    _note_unheeded(items, again, volume)
    return items, faults


def _given_again(inputs: list[str]) -> tuple[list[str], list[str]]:
    """The inputs, each once; and those that lead where an earlier one does, by links too."""
    by_place: dict[str, str] = {}
    again = []
    for text in inputs:
        place = os.path.realpath(text)
        if place in by_place:
            again.append(text)
        else:
            by_place[place] = text
    return list(by_place.values()), again


def _refuse_shared_files(held: dict[str, list[Path]]) -> None:
    """Raise InputError for a file that two inputs hold: it would be measured twice.

    held: the files of each input. Links within one input are as the user arranged them.
    """
    holders: dict[str, str] = {}
    for text, files in held.items():
        for file in files:
            holder = holders.setdefault(os.path.realpath(file), text)
            if holder != text:
                raise InputError(
                    f"{holder} and {text} hold the same file, {file.name}: give one of them"
                )


def _note_unheeded(items: list[Item], again: list[str], volume: bool) -> None:
    """Say which inputs were left out, given again, and where `volume` has no effect."""
    if items:
        items[0].notes += [f"{text}: given more than once, taken once" for text in again]
    for item in items:
        of_a_folder = item.files and Path(item.source) not in item.files
        if volume and not of_a_folder:
            item.notes.append(with_flags(f"{item.source}: no images, `volume` has no effect"))


def _suffix(file: Path) -> str:
    return file.suffix.lower()


def _prefixed(prefix: str, volume: str) -> str:
    """The name of a volume below a folder, which is not repeated if it is the volume's name."""
    last = prefix.split("/")[-1]
    if volume == last or volume.startswith(f"{last}_"):
        volume = volume[len(last) + 1 :]
    parts = [*prefix.split("/"), volume]
    return "_".join(part for part in parts if part)


def _folder_items(root: Path, volume: bool, depth: int = 0) -> list[Item]:
    """The images of a folder, or of images/ in it, as one item, and one for each other file; of
    what holds no scans itself, those of its folders.
    """
    # its own files, or those of the one folder in it that is for images
    folder = root
    for name in IMAGE_FOLDERS:
        if folder == root and (root / name).is_dir():
            folder = root / name
    index = None
    if (root / INDEX).is_file():
        index = root / INDEX
    images, others, rest = _sorted_out(folder)
    if any(map(names_pictures, others)):  # an export, whose reader says which pictures are its
        images = []
    masks = list(masks_beside(images).values())
    images = [file for file in images if file not in masks]

    # refuse what cannot be meant
    below = _folders_in(folder)
    if not images and not others:
        items = _items_below(folder, below, volume, depth) + _lost_items(root, folder)
        if items:
            if index:
                items[0].notes.append(f"{index}: not read, it is for the images of one folder")
            return items
        names = sorted(file.name for file in folder.iterdir())
        found = ", ".join(names[:MOST_LISTED]) or "nothing"
        expected = f"expected files {' '.join(SCAN_SUFFIXES)}"
        raise _NoScans(f"{root}: no scans, it holds {found}; {expected}")
    if volume and (index or others):
        other = index or others[0]
        expected = "`volume` is for a folder of nothing but images"
        raise InputError(f"{root}: {expected}, found {other.name}")

    # one item for all images, since their index, their names or `volume` place them together
    items = []
    if images:
        items.append(_image_item(root, images, index, volume))
    items += map(_file_item, others)
    items += _lost_items(root, folder)

    # what is not read is said
    notes = items[0].notes
    rest = [file for file in rest if file != index]
    unread = [path for path in below if path.name not in COMPANIONS]
    _note_left_out(notes, folder, rest, "files of other kinds")
    _note_left_out(notes, folder, masks, "masks beside their images")
    _note_left_out(notes, folder, unread, "folders beside the files")
    if folder != root:
        beside, others_beside, _ = _sorted_out(root)
        kind = f"files of scans beside {folder.name}/"
        _note_left_out(notes, root, beside + others_beside, kind)
    if index and not images:
        notes.append(f"{index}: not read, it is for images")
    return items


def _folders_in(folder: Path) -> list[Path]:
    """Folders of a folder that may hold scans: no hidden ones, none of this program's results."""
    folders = []
    for path in sorted(folder.iterdir(), key=natural):
        made_here = any((path / name).exists() for name in RUN_FILES)
        if path.name[0] != "." and path.is_dir() and not made_here:
            folders.append(path)
    return folders


def _items_below(root: Path, folders: list[Path], volume: bool, depth: int) -> list[Item]:
    """The items of folders in a folder, their names beginning with the folder's."""
    items = []
    empty = []
    for folder in folders:
        if depth == DEEPEST or folder.name in COMPANIONS:
            continue
        try:
            below = _folder_items(folder, volume, depth + 1)
        except _NoScans:
            empty.append(folder)
            continue
        for item in below:
            item.prefix = f"{folder.name}/{item.prefix}" if item.prefix else folder.name
        items += below
    if items:
        _note_left_out(items[0].notes, root, empty, "folders without scans")
    return items


def _lost_items(*folders: Path) -> list[Item]:
    """Links that lead nowhere, which may have been scans: they are skipped, not left out.

    Without those of images, which keep their places.
    """
    items = []
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.iterdir(), key=natural):
            is_image = _suffix(path) in IMAGE_SUFFIXES
            if path.name[0] != "." and leads_nowhere(path) and not is_image:
                items.append(Item(str(path), partial(_refuse_link, path), [path]))
    return items


def _refuse_link(link: Path, notes: list[str]) -> list[Scan]:
    refuse_lost_link(link)
    return []


def _sorted_out(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files in natural order, hidden ones apart: images, others that hold scans, and the rest.

    Links of images that lead nowhere are images, which reading them refuses one by one.
    """
    images = []
    others = []
    rest = []
    for file in sorted(folder.iterdir(), key=natural):
        lost_image = _suffix(file) in IMAGE_SUFFIXES and leads_nowhere(file)
        if file.name[0] == "." or is_part(file) or not (file.is_file() or lost_image):
            continue
        if _suffix(file) in ARRAY_OPENERS or holds_volume(file):
            others.append(file)
        elif _suffix(file) in IMAGE_SUFFIXES:
            images.append(file)
        else:
            rest.append(file)
    return images, others, rest


def _note_left_out(notes: list[str], folder: Path, paths: list[Path], kind: str) -> None:
    """Add a note on what is left out of a folder, if anything is."""
    if not paths:
        return
    shown = ", ".join(path.name for path in paths[:MOST_LEFT_OUT])
    if len(paths) > MOST_LEFT_OUT:
        shown += ", ..."
    notes.append(f"{folder}: {len(paths)} {kind} left out: {shown}")


def _file_item(path: Path) -> Item:
    if _suffix(path) == ".npz":
        raise InputError(
            f"{path}: an archive of arrays; save the one that holds the scans as .npy: "
            "numpy.save('scans.npy', numpy.load(FILE)[NAME])"
        )
    if volume_reader(path):
        return Item(str(path), partial(open_device_file, path), [path])
    if _suffix(path) not in ARRAY_OPENERS:
        expected = f"expected one of {' '.join(SCAN_SUFFIXES)}, or a folder"
        raise InputError(f"{path}: unknown kind of file; {expected}")
    return Item(str(path), partial(ARRAY_OPENERS[_suffix(path)], path), [path])


def _image_item(folder: Path, files: list[Path], index: Path | None, volume: bool) -> Item:
    return Item(str(folder), partial(open_images, folder, files, index, volume), files)


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


def _make_unique(scans: list[Scan], names: set[str]) -> None:
    """Give volumes and scans names that no other has; they are added to `names`."""
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
