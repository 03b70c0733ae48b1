"""B-scans of a folder of images, with masks, boundaries and index.csv."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.duke import DUKE_ANNOTATED, DUKE_NOTE, DUKE_SCALE_UM
from dme.data.images import mask_lookup, read_boundaries, read_grey, read_mask, read_pixels
from dme.data.source import IMAGE_SUFFIXES, Source, files_in, fingerprint, listing

SCALE_COLUMNS = ("axial_um", "lateral_um", "spacing_um")


class _Row(NamedTuple):
    subject: int
    position: int
    name: str
    scale_um: tuple[float, ...] | None = None


def open_folder(root: Path) -> Source:
    image_folder = root / "images" if (root / "images").is_dir() else root
    images = files_in(image_folder, IMAGE_SUFFIXES)
    if not images:
        inside = listing(sorted(f.name for f in root.iterdir())) or "nothing"
        raise InputError(
            f"no Subject_NN.mat and no images in {image_folder}; {root} holds {inside}"
        )
    mask_folders = [root / name for name in ("fluid", "masks") if (root / name).is_dir()]
    if len(mask_folders) == 2:
        raise InputError(f"{root} has both fluid/ and masks/: keep one")
    fluid = files_in(mask_folders[0], IMAGE_SUFFIXES) if mask_folders else {}
    layers = files_in(root / "boundaries", (".npy",)) if (root / "boundaries").is_dir() else {}
    index = [root / "index.csv"] if (root / "index.csv").is_file() else []
    notes = []
    if index:
        rows = read_index(index[0], images)
    elif all(re.fullmatch(r"subject_?\d+_\d+", name, re.IGNORECASE) for name in images):
        rows = [_Row(*map(int, re.findall(r"\d+", name)), name) for name in images]
        notes.append("no index.csv: subject and position come from the file names (subjectNN_MM)")
    else:
        rows = [_Row(1, i, name) for i, name in enumerate(images)]
        notes.append(
            "no index.csv: subjects unknown (all called 1: no split by subject), positions by name"
        )
    rows.sort()
    for a, b in zip(rows, rows[1:], strict=False):
        if a[:2] == b[:2]:
            raise InputError(
                f"{root}: {a.name} and {b.name} are both subject {a[0]}, B-scan {a[1]}"
            )
    names = {row.name for row in rows}
    if mask_folders and (missing := [row.name for row in rows if row.name not in fluid]):
        raise InputError(
            f"{mask_folders[0]}: no mask for {listing(missing)}; if it has no fluid, add zeros"
        )
    if lossy := [file for file in fluid.values() if file.suffix.lower() in (".jpg", ".jpeg")]:
        raise InputError(f"{lossy[0]}: JPEG changes labels; save masks as PNG")
    if not mask_folders:
        notes.append("no folder fluid/ or masks/: scans without fluid labels")
    used = index
    for label, files in [
        ("images not in index.csv", images),
        ("masks", fluid),
        ("boundaries", layers),
    ]:
        used = used + [files[name] for name in names if name in files]
        if extra := [name for name in files if name not in names]:
            notes.append(f"{label} without use, left out: {listing(extra)}")
    text = f"{len(rows)} B-scans from {root} (folder{'' if mask_folders else ', no fluid labels'})"

    def read(source: Source, labelled_only: bool) -> Iterator[BScan]:
        return _read_folder(source, rows, images, fluid, layers)

    return Source("folder", str(root), fingerprint(root, used, "folder\n"), text, read, notes)


def read_index(path: Path, images: dict[str, Path]) -> list[_Row]:
    """Rows of index.csv: name (extension or not), subject from 1, bscan from 0, optional scale in um."""
    rows, line, listed = [], 1, set()
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            table = csv.DictReader(f)
            found = table.fieldnames or []
            if missing := [key for key in ("name", "subject", "bscan") if key not in found]:
                raise InputError(f"{path}: no column {listing(missing)}; found {listing(found)}")
            for line, row in enumerate(table, start=2):
                name = row["name"] if row["name"] in images else Path(row["name"]).stem
                if name not in images:
                    raise InputError(f"{path} line {line}: there is no image {row['name']}")
                if name in listed:
                    raise InputError(f"{path} line {line}: {name} is listed twice; keep one line")
                listed.add(name)
                subject, position = int(row["subject"]), int(row["bscan"])
                scale_um = tuple(float(row[key]) for key in SCALE_COLUMNS if row.get(key))
                if (
                    subject < 1
                    or position < 0
                    or len(scale_um) % 3
                    or not all(0 < um < math.inf for um in scale_um)
                ):
                    raise ValueError
                rows.append(_Row(subject, position, name, scale_um or None))
    except (ValueError, TypeError, csv.Error) as e:  # UnicodeDecodeError is a ValueError
        wanted = (
            f"UTF-8, subject >= 1, bscan >= 0, and {', '.join(SCALE_COLUMNS)} > 0 or all empty"
        )
        raise InputError(f"{path} line {line}: expected {wanted}") from e
    if not rows:
        raise InputError(f"{path} has no rows: list one image per line or remove the file")
    return rows


def _read_folder(
    source, rows: list[_Row], images: dict, fluid: dict, layers: dict
) -> Iterator[BScan]:
    """Survey the whole set (grey range, meaning of mask values, whether it is the Duke set), then yield."""
    peak, sizes, values = 0, set(), set()
    for row in rows:
        pixels = read_pixels(images[row.name])
        sizes.add(pixels.shape[:2])
        peak = max(peak, int(pixels.max()) if pixels.dtype.kind in "ui" else 0)
        if fluid:
            mask = read_mask(fluid[row.name])
            values.update(np.unique(mask).tolist())
            if mask.shape != pixels.shape[:2]:
                raise InputError(
                    f"{fluid[row.name]}: mask is {mask.shape}, its image is {pixels.shape[:2]}"
                )
    if fluid:
        lookup, meaning = mask_lookup(values)
        source.note(f"masks: {meaning}")
    duke = {row[:2] for row in rows} == DUKE_ANNOTATED and sizes == {(496, 768)}
    if duke and not any(row.scale_um for row in rows):
        rows = [row._replace(scale_um=DUKE_SCALE_UM) for row in rows]
        source.note(f"recognised by its 110 subjects and positions: {DUKE_NOTE}")
    conversions, crossings = Counter(), []
    for row in rows:
        image, how = read_grey(images[row.name], peak)
        conversions[how] += 1
        scan = BScan(row.name, image, None, None, row.subject, row.position, row.scale_um)
        if fluid:
            scan.fluid = lookup[read_mask(fluid[row.name])]
        if row.name in layers:
            scan.layers, crossing = read_boundaries(layers[row.name], image.shape)
            crossings.append(crossing)
        yield scan
    for how, count in conversions.items():
        if how:
            source.note(f"{count} of {len(rows)} images: {how}")
    if crossed := [c for c in crossings if c.any()]:
        points, worst = sum(int((c > 0).sum()) for c in crossed), max(c.max() for c in crossed)
        files = f"{len(crossed)} of {len(crossings)} files"
        source.note(f"boundaries: {points} crossings in {files} repaired, largest {worst:.2f} px")
