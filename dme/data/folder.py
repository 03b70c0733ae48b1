"""B-scans of a folder of images, with masks, boundaries and index.csv."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.words import IMAGE_SUFFIXES
from dme.data.boundary_files import read_boundaries
from dme.data.duke import DUKE_RECOGNISED, DUKE_SCALE_UM, is_duke
from dme.data.images import Survey, read_grey, survey_images
from dme.data.index import MOST_BSCAN, MOST_SUBJECT, IndexRow, read_index
from dme.data.masks import mask_lookup, read_mask
from dme.data.source import Source, files_in, fingerprint, listing

MASK_FOLDERS = ("fluid", "masks")
# subject and position of an image without index.csv
PLACE_IN_NAME = re.compile(r"subject_?(\d+)_(\d+)", re.IGNORECASE)


@dataclass
class Files:
    """The files of a folder by stem, and the rows that say which images are read."""

    rows: list[IndexRow]
    images: dict[str, Path]
    masks: dict[str, Path] | None  # None when there is no folder of masks
    boundaries: dict[str, Path]


def open_folder(root: Path) -> Source:
    """Source of a folder laid out as `dme.data.opening.open_source` says. Raises InputError."""
    # what there is
    image_folder = root / "images" if (root / "images").is_dir() else root
    images = files_in(image_folder, IMAGE_SUFFIXES)
    if not images:
        names = sorted(file.name for file in root.iterdir())
        inside = listing(names) or "nothing"
        raise InputError(
            f"no Subject_NN.mat and no images in {image_folder}; {root} holds {inside}"
        )
    boundaries = {}
    if (root / "boundaries").is_dir():
        boundaries = files_in(root / "boundaries", (".npy",))
    mask_folder = _mask_folder(root)
    masks = None if mask_folder is None else files_in(mask_folder, IMAGE_SUFFIXES)

    # which images, and where they belong
    notes: list[str] = []
    index = root / "index.csv"
    if index.is_file():
        rows = read_index(index, images)
    else:
        rows = _rows_by_name(images, notes)
    rows.sort()
    _check_places(root, rows)
    if masks is None:
        notes.append("no folder fluid/ or masks/: scans without fluid labels")
    else:
        _check_masks(mask_folder, masks, rows)

    # what is read makes the fingerprint, what is not is named
    files = Files(rows, images, masks, boundaries)
    used = [index] if index.is_file() else []
    used += _used_files(files, notes)
    digest = fingerprint(root, used, "folder\n")
    labels = ", no fluid labels" if masks is None else ""
    text = f"{len(rows)} B-scans from {root} (folder{labels})"
    reader = partial(_read_folder, files)
    return Source("folder", str(root), digest, text, reader, notes)


def _mask_folder(root: Path) -> Path | None:
    named = [root / name for name in MASK_FOLDERS]
    folders = [folder for folder in named if folder.is_dir()]
    if len(folders) == 2:
        raise InputError(f"{root} has both fluid/ and masks/: keep one")
    return folders[0] if folders else None


def _rows_by_name(images: dict[str, Path], notes: list[str]) -> list[IndexRow]:
    """Rows without index.csv, from file names like subjectNN_MM, else of one subject in natural
    order.
    """
    named = []
    numbered = []
    for position, name in enumerate(images):
        numbered.append(IndexRow(1, position, name))
        match = PLACE_IN_NAME.fullmatch(name)
        if match and int(match[1]) <= MOST_SUBJECT and int(match[2]) <= MOST_BSCAN:
            named.append(IndexRow(int(match[1]), int(match[2]), name))
    if len(named) == len(images):
        notes.append("no index.csv: subject and position come from the file names (subjectNN_MM)")
        return named
    notes.append(
        "no index.csv: subjects unknown (all called 1: no split by subject), positions by name"
    )
    return numbered


def _check_places(root: Path, rows: list[IndexRow]) -> None:
    for row, following in zip(rows, rows[1:], strict=False):
        if row.place == following.place:
            place = f"subject {row.subject}, B-scan {row.position}"
            raise InputError(f"{root}: {row.name} and {following.name} are both {place}")


def _check_masks(folder: Path, masks: dict[str, Path], rows: list[IndexRow]) -> None:
    missing = [row.name for row in rows if row.name not in masks]
    if missing:
        raise InputError(
            f"{folder}: no mask for {listing(missing)}; if it has no fluid, add zeros"
        )
    for file in masks.values():
        if file.suffix.lower() in (".jpg", ".jpeg"):
            raise InputError(f"{file}: JPEG changes labels; save masks as PNG")


def _used_files(files: Files, notes: list[str]) -> list[Path]:
    """Files of the listed images; notes name the others."""
    names = {row.name for row in files.rows}
    kinds = {
        "images not in index.csv": files.images,
        "masks": files.masks or {},
        "boundaries": files.boundaries,
    }
    used = []
    for kind, by_name in kinds.items():
        used += [by_name[name] for name in names if name in by_name]
        extra = [name for name in by_name if name not in names]
        if extra:
            notes.append(f"{kind} without use, left out: {listing(extra)}")
    return used


def _read_folder(files: Files, source: Source, labelled_only: bool) -> Iterator[BScan]:
    """Survey the whole set, then yield its scans; `source` notes what was found and done."""
    rows = files.rows
    # of the whole set: white of 16-bit images, meaning of masks, whether it is Duke's
    survey = survey_images(files.images[row.name] for row in rows)
    lookup = None
    if files.masks is not None:
        lookup, meaning = mask_lookup(_mask_values(files, survey))
        source.note(f"masks: {meaning}")
    scale_known = any(row.scale_um for row in rows)
    places = [row.place for row in rows]
    if not scale_known and is_duke(places, survey.shapes.values()):
        rows = [row._replace(scale_um=DUKE_SCALE_UM) for row in rows]
        source.note(DUKE_RECOGNISED)

    # its scans
    conversions: Counter[str] = Counter()
    crossings = []
    for row in rows:
        image, conversion = read_grey(files.images[row.name], survey.peak)
        conversions[conversion] += 1
        scan = BScan(
            name=row.name,
            image=image,
            subject=row.subject,
            position=row.position,
            scale_um=row.scale_um,
        )
        if lookup is not None:
            scan.fluid = lookup[read_mask(files.masks[row.name])]
        if row.name in files.boundaries:
            file = files.boundaries[row.name]
            scan.layers, crossing = read_boundaries(file, image.shape)
            crossings.append(crossing)
        yield scan

    # what was changed in them
    for conversion, count in conversions.items():
        if conversion:
            source.note(f"{count} of {len(rows)} images: {conversion}")
    _note_crossings(source, crossings)


def _mask_values(files: Files, survey: Survey) -> set[int]:
    """All values of the masks. Raises InputError for a mask of another size than its image."""
    values = set()
    for row in files.rows:
        file = files.masks[row.name]
        mask = read_mask(file)
        values.update(np.unique(mask).tolist())
        image = files.images[row.name]
        shape = survey.shapes.get(image, mask.shape)
        if mask.shape != shape:
            raise InputError(f"{file}: mask is {mask.shape}, its image is {shape}")
    return values


def _note_crossings(source: Source, crossings: list[np.ndarray]) -> None:
    """Note how many boundary points were moved. crossings: (8, W) px of every file."""
    crossed = [crossing for crossing in crossings if crossing.any()]
    if not crossed:
        return
    points = sum(np.count_nonzero(crossing) for crossing in crossed)
    worst_px = max(crossing.max() for crossing in crossed)
    files = f"{len(crossed)} of {len(crossings)} files"
    source.note(f"boundaries: {points} crossings in {files} repaired, largest {worst_px:.2f} px")
