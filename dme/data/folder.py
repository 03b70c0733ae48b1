"""B-scans of a folder of images, with masks, boundaries and index.csv."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import refuse_lost_links
from dme.common.labels import IGNORE
from dme.common.words import EYES
from dme.data.boundary_files import read_boundaries
from dme.data.duke import DUKE_RECOGNISED, DUKE_SCALE_UM, is_duke
from dme.data.images import Survey, image_shapes, read_grey, survey_images
from dme.data.index import INDEX, MOST_BSCAN, MOST_SUBJECT, IndexRow, read_index
from dme.data.layout import Layout, enface_pictures, find_layout, image_folder
from dme.data.masks import INSTANCES, MaskValues, check_meaning, mask_lookup, read_mask
from dme.data.mirage import INFO, class_lookup
from dme.data.source import SUBJECTS_UNKNOWN, Source, files_in, fingerprint, listing, readable

# subject and position of an image without index.csv
PLACE_IN_NAME = re.compile(r"subject_?(\d+)_(\d+)", re.IGNORECASE)


@dataclass
class Files:
    """The files of a folder by stem, and the rows that say which images are read."""

    rows: list[IndexRow]
    images: dict[str, Path]
    masks: dict[str, Path] | None  # None when there are none
    mask_place: str  # where they lie, for messages
    boundaries: dict[str, Path]
    fluid_value: tuple[int, ...]  # values of masks that are fluid, () to find out
    classes: Path | None  # folder with MIRAGE's list of values


def open_folder(root: Path, fluid_value: tuple[int, ...] = ()) -> Source:
    """Source of a folder laid out as `dme.data.opening.open_source` says. Raises InputError."""
    # what there is
    layout = find_layout(root)
    if not layout.images:
        raise InputError(_nothing_in(root))
    files = [*layout.images.values(), *(layout.masks or {}).values()]
    for folder in dict.fromkeys(file.parent for file in files):
        refuse_lost_links(folder)
    boundaries = {}
    if (root / "boundaries").is_dir():
        refuse_lost_links(root / "boundaries")
        boundaries = files_in(root / "boundaries", (".npy",))
    if fluid_value and layout.masks is None:
        raise InputError(f"`fluid_value` is for masks, and {root} has none; leave it out")

    # which images, and where they belong
    notes = [layout.note] if layout.note else []
    index = root / INDEX
    if index.is_file():
        rows = _placed(read_index(index, layout.images), layout.images, notes)
    else:
        if layout.masks is None and not boundaries:
            layout = _without_enface(layout, notes)
        rows = _rows_by_name(layout.images, notes)
    rows.sort()
    _check_places(root, rows)
    if layout.masks is None:
        notes.append("no folder fluid/ or masks/: scans without fluid labels")
    else:
        _check_masks(layout.mask_place, layout.masks, rows)

    # what is read makes the fingerprint, what is not is named
    files = Files(
        rows,
        layout.images,
        layout.masks,
        layout.mask_place,
        boundaries,
        fluid_value,
        layout.classes,
    )
    used = [index] if index.is_file() else []
    if layout.classes and (layout.classes / INFO).is_file():
        used.append(layout.classes / INFO)
    used += _used_files(files, notes)
    settings = f"folder fluid {fluid_value}\n" if fluid_value else "folder\n"
    digest = fingerprint(root, used, settings)
    labels = ", no fluid labels" if layout.masks is None else ""
    text = f"{len(rows)} B-scans from {readable(root)} (folder{labels})"
    reader = partial(_read_folder, files)
    return Source("folder", str(root), digest, text, reader, notes)


def _nothing_in(root: Path) -> str:
    """What to say of a folder without images."""
    names = sorted(file.name for file in root.iterdir())
    inside = listing(names) or "nothing"
    message = f"no Subject_NN.mat and no images in {image_folder(root)}; {root} holds {inside}"
    folders = [folder for folder in root.iterdir() if folder.is_dir() and folder.name[0] != "."]
    if any(find_layout(folder).images for folder in folders):
        message += (
            "; its folders hold images: give one of them, or put all images into images/, masks "
            "of the same names into fluid/, and the eyes into index.csv (name,subject,bscan)"
        )
    return message


def _without_enface(layout: Layout, notes: list[str]) -> Layout:
    """The layout without images that show the surface of the eye, as in an export of a device."""
    pictures = enface_pictures(image_shapes(layout.images.values()))
    if pictures:
        left_out = listing([picture.name for picture in pictures])
        notes.append(f"taken for en-face pictures, left out: {left_out}")
    images = {name: file for name, file in layout.images.items() if file not in pictures}
    return replace(layout, images=images)


def _placed(rows: list[IndexRow], images: dict[str, Path], notes: list[str]) -> list[IndexRow]:
    """The rows, those of unknown eyes as one subject that no other is, in the images' order."""
    subjects = {row.subject for row in rows}
    if None not in subjects:
        return rows
    subject = 1
    while subject in subjects:
        subject += 1
    unknown = {row.name for row in rows if row.subject is None}
    ordered = [name for name in images if name in unknown]
    positions = {name: position for position, name in enumerate(ordered)}
    notes.append(
        f"index.csv: {SUBJECTS_UNKNOWN} of {len(unknown)} of {len(rows)} scans (all called "
        f"{subject}: no split by subject), positions by name"
    )
    placed = []
    for row in rows:
        if row.subject is None:
            row = row._replace(subject=subject, position=positions[row.name])
        placed.append(row)
    return placed


def _rows_by_name(images: dict[str, Path], notes: list[str]) -> list[IndexRow]:
    """Rows without index.csv, from file names like subjectNN_MM, else of one subject in natural
    order.
    """
    named = []
    numbered = []
    for position, name in enumerate(images):
        numbered.append(IndexRow(1, position, name))
        match = PLACE_IN_NAME.fullmatch(name)
        if match:
            named.append(IndexRow(int(match[1]), int(match[2]), name))
    if len(named) == len(images):
        notes.append("no index.csv: subject and position come from the file names (subjectNN_MM)")
        return _plausible(named, notes)
    notes.append(
        f"no index.csv: {SUBJECTS_UNKNOWN} (all called 1: no split by subject), positions by name"
    )
    return numbered


def _plausible(rows: list[IndexRow], notes: list[str]) -> list[IndexRow]:
    """The rows with ranks in place of numbers that no subject or no B-scan has, as dates are."""
    subjects = sorted({row.subject for row in rows})
    if subjects[0] < 1 or subjects[-1] > MOST_SUBJECT:
        notes.append("subject numbers of the file names are out of range: counted in order")
        rows = [row._replace(subject=1 + subjects.index(row.subject)) for row in rows]
    if all(row.position <= MOST_BSCAN for row in rows):
        return rows

    # the order of each subject's B-scans is all that such numbers tell
    notes.append("numbers of the file names are no B-scan's: B-scans counted in order")
    positions: dict[int, set[int]] = {}
    for row in rows:
        positions.setdefault(row.subject, set()).add(row.position)
    ranks = {subject: sorted(numbers) for subject, numbers in positions.items()}
    return [row._replace(position=ranks[row.subject].index(row.position)) for row in rows]


def _check_places(root: Path, rows: list[IndexRow]) -> None:
    """Raise InputError for two images at one place, unless they are of the two eyes."""
    at_place: dict[tuple, list[IndexRow]] = {}
    for row in rows:
        for earlier in at_place.setdefault(row.place, []):
            if {row.eye, earlier.eye} != set(EYES):
                place = f"subject {row.subject}, B-scan {row.position}"
                raise InputError(f"{root}: {earlier.name} and {row.name} are both {place}")
        at_place[row.place].append(row)


def _check_masks(place: str, masks: dict[str, Path], rows: list[IndexRow]) -> None:
    missing = [row.name for row in rows if row.name not in masks]
    if missing:
        raise InputError(f"{place}: no mask for {listing(missing)}; if it has no fluid, add zeros")
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
    numbered = False  # masks that tell one region from another
    if files.masks is not None:
        values = _mask_values(files, survey)
        if files.classes and not files.fluid_value:
            lookup, meaning = class_lookup(files.classes, values)
        else:
            lookup, meaning = mask_lookup(values, files.fluid_value)
        numbered = meaning.startswith(INSTANCES)
        if not files.fluid_value and not files.classes:
            check_meaning(values, lookup, files.mask_place)
        source.note(f"masks: {meaning}")
        source.note(f"masks hold {values.described()} of all pixels")
    for note in survey.notes:
        source.note(note)
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
            name=readable(row.name),
            image=image,
            subject=row.subject,
            position=row.position,
            scale_um=row.scale_um,
        )
        if lookup is not None:
            mask = read_mask(files.masks[row.name])
            scan.fluid = lookup[mask]
            if numbered:
                scan.regions = np.where(scan.fluid == 1, mask, 0).astype(np.uint8)
        if row.name in files.boundaries:
            file = files.boundaries[row.name]
            scan.layers, crossing = read_boundaries(file, image.shape)
            crossings.append(crossing)
        _leave_ungraded(scan, row)
        yield scan

    # what was changed in them
    for conversion, count in conversions.items():
        if conversion:
            source.note(f"{count} of {len(rows)} images: {conversion}")
    _note_crossings(source, crossings)


def _leave_ungraded(scan: BScan, row: IndexRow) -> None:
    """Make unknown what the index says that nobody graded. Raises InputError beyond the image."""
    width = scan.image.shape[1]
    for first, last in row.ungraded:
        if last >= width:
            raise InputError(
                f"index.csv: ungraded columns {first}-{last} of {row.name} leave the image, "
                f"{width} px wide: columns count from 0 to {width - 1}"
            )
        if scan.fluid is not None:
            scan.fluid[:, first : last + 1] = IGNORE
        if scan.layers is not None:
            scan.layers[:, first : last + 1] = np.nan


def _mask_values(files: Files, survey: Survey) -> MaskValues:
    """All values of the masks. Raises InputError for a mask of another size than its image."""
    values = MaskValues()
    for row in files.rows:
        file = files.masks[row.name]
        mask = read_mask(file)
        image = files.images[row.name]
        shape = survey.shapes.get(image, mask.shape)
        if mask.shape != shape:
            raise InputError(f"{file}: mask is {mask.shape}, its image is {shape}")
        values.add(mask)
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
