"""Everything the project can read -> BScan records: Duke `.mat` files, a folder of images, the phantom.

`open_source` looks at names, index and fingerprint; `Source.scans` reads, checks and cleans the pixels, one
file in memory at a time, and every detection or cleaning step leaves a line in `Source.notes`.
"""

import csv
import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.io

from dme import anatomy, phantom
from dme.bscan import BScan
from dme.errors import InputError
from dme.files import sha256_file
from dme.pixels import (
    MAX_CROSSING_PX,
    mask_lookup,
    read_boundaries,
    read_grey,
    read_mask,
    read_pixels,
    repair_boundaries,
)

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
SCALE_COLUMNS = ("axial_um", "lateral_um", "spacing_um")
DUKE_SCALE_UM = (3.87, 11.33, 123.0)  # axial, lateral, spacing of Duke 2015_BOE_Chiu, the values eyepy uses
DUKE_NOTE = "scale 3.87/11.33/123 um (axial, lateral, spacing) supplied for Duke 2015_BOE_Chiu"
_SHIFTS = {4: -4, 5: -2, 7: 1, 8: -2}
# (subject, position) of the 110 published annotations: to recognise the set, never to read it.
DUKE_ANNOTATED = frozenset(
    (s, p + _SHIFTS.get(s, 0)) for s in range(1, 11) for p in (10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50)
)


@dataclass
class Source:
    """Where B-scans come from. `notes` is complete once `scans` has run to its end."""

    kind: str  # "mat" | "folder" | "phantom", or what another opener calls itself
    path: str  # "" for the phantom
    sha256: str  # of file names, bytes and grader
    description: str  # the line that every script prints first
    reader: Callable[["Source", bool], Iterator[BScan]] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def scans(self, labelled_only: bool = True) -> Iterator[BScan]:
        """Yield the records ordered by (subject, position). Raises InputError for what is wrong with a file.

        `labelled_only=False` also yields the B-scans of `.mat` volumes that nobody annotated (fluid None).
        """
        return self.reader(self, labelled_only)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def open_source(path: str | Path | None = None, grader: int = 1) -> Source:
    """Open `path`, else what the environment variable DME_DATA names, else the synthetic phantom.

    The word `phantom` asks for the latter.
    `.mat`: one `Subject_NN.mat` of the Duke / Kaggle set or a folder of them, annotations of grader 1 or 2.
    Folder: `images/`, or images directly in it; beside them, optional and same-named, `fluid/` or `masks/`
    and `boundaries/*.npy` (float (8, W)); and `index.csv`: name, subject, bscan and, if the scale is known,
    axial_um, lateral_um, spacing_um.
    """
    path = path or os.environ.get("DME_DATA")
    if grader not in (1, 2):
        raise InputError(f"grader {grader} does not exist: expected 1 or 2")
    if not path or path == "phantom":
        code = b"".join(Path(module.__file__).read_bytes() for module in (anatomy, phantom))
        digest = hashlib.sha256(b"phantom_set()\n" + code).hexdigest()
        why = "as asked" if path else "no DME_DATA given"
        text = f"SYNTHETIC phantom B-scans, {why} (results say nothing about real scans)"
        return Source("phantom", "", digest, text, lambda source, labelled_only: phantom.phantom_set())
    root = Path(path)
    if not root.exists():
        raise InputError(f"no such file or folder: {root}; give a .mat file or a folder (--data or DME_DATA)")
    if root.is_file() and root.suffix.lower() != ".mat":
        raise InputError(
            f"{root} is neither a .mat file nor a folder: unpack archives, put images in a folder"
        )
    if root.is_file() or files_in(root, (".mat",)):
        return _open_mat(root, grader)
    if grader != 1:
        raise InputError(f"no grader {grader} in {root}: only .mat files have two; a folder has grader 1")
    return _open_folder(root)


def files_in(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by stem, in natural order (2 before 10), without hidden ones (._x of macOS)."""
    found = [f for f in folder.iterdir() if f.suffix.lower() in suffixes and f.is_file() and f.name[0] != "."]
    found.sort(key=lambda f: [int(t) if k % 2 else t for k, t in enumerate(re.split(r"(\d+)", f.name))])
    by_stem = {f.stem: f for f in found}
    for f in found:
        if by_stem[f.stem] != f:
            raise InputError(f"{f} and {by_stem[f.stem].name} have the same name: keep one")
    return by_stem


def _fingerprint(root: Path, files: list[Path], settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    try:
        for name, file in sorted((f.relative_to(root).as_posix(), f) for f in files):
            digest.update(f"{name}\0{sha256_file(file)}\n".encode())
    except OSError as e:
        raise InputError(f"cannot read {e.filename}: {e.strerror}") from e
    return digest.hexdigest()


# ---- MATLAB files ---------------------------------------------------------------------------------------


def _open_mat(path: Path, grader: int) -> Source:
    files = {path.stem: path} if path.is_file() else files_in(path, (".mat",))
    subjects: dict[int, Path] = {}
    for stem, file in files.items():
        if number := re.fullmatch(r"subject_?(\d+)", stem, re.IGNORECASE):
            if int(number[1]) in subjects:
                raise InputError(f"{subjects[int(number[1])]} and {file.name} are the same subject: keep one")
            subjects[int(number[1])] = file
    if not subjects:
        raise InputError(f"{file}: the subject number comes from the file name; rename it to Subject_NN.mat")

    def read(source: Source, labelled_only: bool) -> Iterator[BScan]:
        for subject in sorted(subjects):
            yield from _read_mat(source, subjects[subject], subject, grader, labelled_only)

    digest = _fingerprint(file.parent, list(subjects.values()), f"mat grader {grader}\n")
    many = "s" if len(subjects) > 1 else ""
    text = f"real B-scans of {len(subjects)} subject{many} from {path} (mat, grader {grader})"
    return Source("mat", str(path), digest, text, read)


def _load_mat(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    """Those of the keys that the file has. HDF5 (MATLAB v7.3) holds the axes in reverse order."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as f:
                return {key: f[key][()].T for key in keys if key in f}
        return scipy.io.loadmat(path, variable_names=keys)
    except Exception as e:  # scipy and h5py raise nearly anything on a broken file
        raise InputError(f"{path}: not a readable MATLAB file ({e}); copy or download it again") from e


def _read_mat(source: Source, path: Path, subject: int, grader: int, labelled_only: bool) -> Iterator[BScan]:
    """B-scans of one volume. Annotated ones are found: those whose fluid map is not all NaN."""
    fluid_key, layers_key = f"manualFluid{grader}", f"manualLayers{grader}"
    mat = _load_mat(path, ["images", fluid_key, layers_key])
    for key in ["images", fluid_key] if labelled_only else ["images"]:
        if key not in mat:
            raise InputError(f"{path}: no variable {key}; expected images, {fluid_key}, {layers_key}")
    images, fluid, layers = mat["images"], mat.get(fluid_key), mat.get(layers_key)
    shapes = {"images": ("height", "width", "B-scans")}
    if images.ndim == 3 and images.size:
        shapes = {"images": images.shape, fluid_key: images.shape, layers_key: (8, *images.shape[1:])}
    for key, shape in shapes.items():
        if key in mat and (mat[key].shape != shape or mat[key].dtype.kind not in "uif"):
            got, wanted = f"{mat[key].dtype} {mat[key].shape}", f"numbers ({', '.join(map(str, shape))})"
            raise InputError(f"{path}: {key} is {got}, expected {wanted}")
    if images.dtype.kind == "f" and images.max() <= 1:
        raise InputError(f"{path}: images lie within 0..1, expected grey values 0..255: multiply them by 255")

    count = images.shape[2]
    annotated = [i for i in range(count) if fluid is not None and not np.isnan(fluid[:, :, i]).all()]
    if labelled_only and not annotated:
        raise InputError(f"{path}: no B-scan is annotated, {fluid_key} is all NaN; check grader and file")
    source.note(f"{path.name}: {len(annotated)} of {count} B-scans annotated, positions {_listed(annotated)}")
    scale_um = DUKE_SCALE_UM if images.shape == (496, 768, 61) else None
    source.note(DUKE_NOTE if scale_um else f"{path.name}: {images.shape} is not a Duke volume, scale unknown")
    nan_px = repaired = blanked = 0
    for i in annotated if labelled_only else range(count):
        image = images[:, :, i]
        if not (image.min() >= 0 and image.max() <= 255):  # also false for NaN
            raise InputError(f"{path}: images of B-scan {i} leave 0..255 or hold NaN, expected grey values")
        image = np.ascontiguousarray(np.rint(image), np.uint8)
        scan = BScan(f"subject{subject:02d}_bscan{i:02d}", image, None, None, subject, i, scale_um)
        if i in annotated:
            ids = np.nan_to_num(fluid[:, :, i])
            if (ids < 0).any() or (ids % 1).any():
                raise InputError(f"{path}: {fluid_key} of B-scan {i} holds values other than ids 0, 1, 2 ...")
            scan.fluid = np.ascontiguousarray(ids > 0, np.uint8)
            nan_px += int(np.isnan(fluid[:, :, i]).sum())
        if layers is not None:
            rows = np.where(np.isinf(layers[:, :, i]), -1.0, layers[:, :, i])  # outside the image
            scan.layers, crossing = repair_boundaries(rows)
            wrong = (crossing > MAX_CROSSING_PX).any(axis=0)
            wrong |= ((scan.layers < 0) | (scan.layers > len(image))).any(axis=0)
            scan.layers[:, wrong] = np.nan  # not worth refusing a volume whose fluid is sound
            repaired, blanked = repaired + int((crossing[:, ~wrong] > 0).sum()), blanked + int(wrong.sum())
        yield scan
    if nan_px:
        source.note(f"{path.name}: {nan_px} px are NaN within annotated B-scans, taken as not fluid")
    if repaired or blanked:
        larger = f"{blanked} columns with larger ones or rows outside the image set to NaN"
        source.note(f"{path.name}: {repaired} boundary crossings up to 3 px repaired, {larger}")


# ---- a folder of images ---------------------------------------------------------------------------------


class _Row(NamedTuple):
    subject: int
    position: int
    name: str
    scale_um: tuple[float, ...] | None = None


def _open_folder(root: Path) -> Source:
    image_folder = root / "images" if (root / "images").is_dir() else root
    images = files_in(image_folder, IMAGE_SUFFIXES)
    if not images:
        inside = _listed(sorted(f.name for f in root.iterdir())) or "nothing"
        raise InputError(f"no Subject_NN.mat and no images in {image_folder}; {root} holds {inside}")
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
        notes.append("no index.csv: subjects unknown (all called 1: no split by subject), positions by name")
    rows.sort()
    for a, b in zip(rows, rows[1:], strict=False):
        if a[:2] == b[:2]:
            raise InputError(f"{root}: {a.name} and {b.name} are both subject {a[0]}, B-scan {a[1]}")
    names = {row.name for row in rows}
    if mask_folders and (missing := [row.name for row in rows if row.name not in fluid]):
        raise InputError(f"{mask_folders[0]}: no mask for {_listed(missing)}; if it has no fluid, add zeros")
    if lossy := [file for file in fluid.values() if file.suffix.lower() in (".jpg", ".jpeg")]:
        raise InputError(f"{lossy[0]}: JPEG changes labels; save masks as PNG")
    if not mask_folders:
        notes.append("no folder fluid/ or masks/: scans without fluid labels")
    used = index
    for label, files in [("images not in index.csv", images), ("masks", fluid), ("boundaries", layers)]:
        used = used + [files[name] for name in names if name in files]
        if extra := [name for name in files if name not in names]:
            notes.append(f"{label} without use, left out: {_listed(extra)}")
    text = f"{len(rows)} B-scans from {root} (folder{'' if mask_folders else ', no fluid labels'})"

    def read(source: Source, labelled_only: bool) -> Iterator[BScan]:
        return _read_folder(source, rows, images, fluid, layers)

    return Source("folder", str(root), _fingerprint(root, used, "folder\n"), text, read, notes)


def read_index(path: Path, images: dict[str, Path]) -> list[_Row]:
    """Rows of index.csv: name (extension or not), subject from 1, bscan from 0, optional scale in um."""
    rows, line, listed = [], 1, set()
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            table = csv.DictReader(f)
            found = table.fieldnames or []
            if missing := [key for key in ("name", "subject", "bscan") if key not in found]:
                raise InputError(f"{path}: no column {_listed(missing)}; found {_listed(found)}")
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
        wanted = f"UTF-8, subject >= 1, bscan >= 0, and {', '.join(SCALE_COLUMNS)} > 0 or all empty"
        raise InputError(f"{path} line {line}: expected {wanted}") from e
    if not rows:
        raise InputError(f"{path} has no rows: list one image per line or remove the file")
    return rows


def _read_folder(source, rows: list[_Row], images: dict, fluid: dict, layers: dict) -> Iterator[BScan]:
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
                raise InputError(f"{fluid[row.name]}: mask is {mask.shape}, its image is {pixels.shape[:2]}")
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


def _listed(items: list) -> str:
    more = f", ... ({len(items)} in all)" if len(items) > 12 else ""
    return ", ".join(map(str, items[:12])) + more
