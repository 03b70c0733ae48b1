"""B-scans of MATLAB files: the Duke / Kaggle set of Chiu et al. 2015."""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.duke import DUKE_NOTE, DUKE_SCALE_UM, is_duke_volume
from dme.data.images import brightest, refuse_inverted, to_scan, white_of
from dme.data.masks import MaskValues, check_meaning
from dme.data.source import Source, files_in, fingerprint, listing
from dme.retina.rows import MAX_CROSSING_PX, repair_boundaries

AUTOMATIC = "automaticFluidDME"  # variable with what the published method found
MOST_BYTES = 1 << 31  # of one variable; a volume of Duke's takes 24 MB, or 186 as doubles
MATLAB_BYTES = {"int8": 1, "uint8": 1, "logical": 1, "int16": 2, "uint16": 2, "single": 4}


@dataclass
class Volume:
    """The arrays of one file. A B-scan is annotated when its fluid map is not all NaN.

    images: (H, W, B-scans), whose largest value is `peak`. fluid: region ids of the same shape;
    layers: (8, W, B-scans); None when absent.
    """

    path: Path
    images: np.ndarray
    peak: float
    fluid: np.ndarray | None
    layers: np.ndarray | None
    fluid_key: str  # name of the fluid in the file

    @property
    def annotated(self) -> list[int]:
        if self.fluid is None:
            return []
        known = ~np.isnan(self.fluid)
        return np.flatnonzero(known.any(axis=(0, 1))).tolist()


@dataclass
class Repairs:
    """What the cleaning of a volume changed, for its notes."""

    nan_px: int = 0  # within annotated fluid maps
    crossings: int = 0  # points of boundaries that were put in order
    columns: int = 0  # set to NaN


def open_mat(
    path: Path, grader: int, any_name: bool = False, fluid_value: tuple[int, ...] = ()
) -> Source:
    """Source of one Subject_NN.mat or a folder of them, with the annotations of grader 1 or 2.

    any_name: a file whose name has no subject's number is subject 1. fluid_value: the ids that are
    fluid, by default all above 0.
    """
    subjects = _subject_files(path, any_name)
    used = list(subjects.values())
    settings = f"mat grader {grader}\n"
    if fluid_value:
        settings += f"fluid {fluid_value}\n"
    digest = fingerprint(used[0].parent, used, settings)
    many = "s" if len(subjects) > 1 else ""
    text = f"real B-scans of {len(subjects)} subject{many} from {path} (mat, grader {grader})"
    reader = partial(_read_files, subjects, grader, fluid_value)
    return Source("mat", str(path), digest, text, reader)


def automatic_fluid(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """What the published automatic method found, masks (H, W) of bool by the name of the scan.

    path: as of `open_mat`. names: the scans that are needed. Empty where a file does not hold it.
    """
    masks = {}
    for subject, file in _subject_files(path).items():
        fluid = _load_mat(file, [AUTOMATIC]).get(AUTOMATIC)
        if fluid is None or fluid.ndim != 3:
            return {}
        for position in range(fluid.shape[2]):
            name = _scan_name(subject, position)
            if name in names:
                masks[name] = np.nan_to_num(fluid[:, :, position]) > 0
    return masks


def _subject_files(path: Path, any_name: bool = False) -> dict[int, Path]:
    """The files of a folder, or one file, by the subject that their names tell."""
    if path.is_file():
        files = {path.stem: path}
    else:
        files = files_in(path, (".mat",))
    subjects: dict[int, Path] = {}
    for stem, file in files.items():
        match = re.fullmatch(r"subject_?(\d{1,9})", stem, re.IGNORECASE)
        if not match and not any_name:
            continue
        subject = int(match[1]) if match else 1
        if subject in subjects:
            raise InputError(f"{subjects[subject]} and {file.name} are the same subject: keep one")
        subjects[subject] = file
    if not subjects:
        raise InputError(
            f"{file}: the subject number comes from the file name; rename it to Subject_NN.mat, "
            "NN being a number of up to nine digits"
        )
    return subjects


def _scan_name(subject: int, position: int) -> str:
    return f"subject{subject:02d}_bscan{position:02d}"


def _read_files(
    subjects: dict[int, Path],
    grader: int,
    fluid_value: tuple[int, ...],
    source: Source,
    labelled_only: bool,
) -> Iterator[BScan]:
    for subject in sorted(subjects):
        volume = _load_volume(subjects[subject], grader, labelled_only)
        if fluid_value:
            volume.fluid = _chosen(volume.fluid, fluid_value)
            values = " ".join(map(str, fluid_value))
            source.note(f"{volume.fluid_key}: fluid is {values}, as `fluid_value` says")
        elif labelled_only:
            _check_masks(volume)
        yield from _read_volume(source, volume, subject, labelled_only)


def _load_mat(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    """Those of the keys that the file has. HDF5 (MATLAB v7.3) holds the axes in reverse order."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                return {key: _dataset(path, file, key)[()].T for key in keys if key in file}
        for name, shape, kind in scipy.io.whosmat(path):
            if name in keys:
                _check_size(path, name, shape, MATLAB_BYTES.get(kind, 8))
        return scipy.io.loadmat(path, variable_names=keys)
    except InputError:
        raise
    except Exception as e:  # scipy and h5py raise nearly anything on a broken file
        raise InputError(
            f"{path}: not a readable MATLAB file ({e}); copy or download it again"
        ) from e


def _dataset(path: Path, file: h5py.File, key: str) -> h5py.Dataset:
    """A dataset whose numbers lie in the file itself: it may not make us read another file."""
    link = file.get(key, getlink=True)
    dataset = file[key] if isinstance(link, h5py.HardLink) else None
    if dataset is None or not isinstance(dataset, h5py.Dataset):
        found = "a link or a group"
    elif dataset.external or dataset.is_virtual:
        found = "a reference to other files"
    else:
        _check_size(path, key, dataset.shape or (), dataset.dtype.itemsize)
        return dataset
    raise InputError(
        f"{path}: {key} is {found}, expected numbers in the file itself; save it anew by MATLAB"
    )


def _check_size(path: Path, key: str, shape: tuple[int, ...], number_bytes: int) -> None:
    size = math.prod(shape) * number_bytes
    if size > MOST_BYTES:
        found = f"{key} {tuple(shape)} takes {size >> 20} MiB"
        expected = f"expected at most {MOST_BYTES >> 20} MiB"
        raise InputError(f"{path}: {found}, {expected}; save fewer B-scans in a file")


def _variables(path: Path) -> str:
    """Names and shapes of what a file holds."""
    if h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            names = [key for key in file if key[0] != "#"]
            return listing(names) or "nothing"
    return listing([f"{name} {shape}" for name, shape, _ in scipy.io.whosmat(path)]) or "nothing"


def _load_volume(path: Path, grader: int, labelled_only: bool) -> Volume:
    """The arrays of a file, their names, shapes and types checked."""
    fluid_key = f"manualFluid{grader}"
    layers_key = f"manualLayers{grader}"
    arrays = _load_mat(path, ["images", fluid_key, layers_key])
    needed = ["images", fluid_key] if labelled_only else ["images"]
    for key in needed:
        if key not in arrays:
            raise InputError(
                f"{path}: no variable {key}; expected images, {fluid_key}, {layers_key}, "
                f"it holds {_variables(path)}: save it again under those names"
            )

    # the images give the shape of the others
    images = arrays["images"]
    fluid = arrays.get(fluid_key)
    layers = arrays.get(layers_key)
    if images.ndim == 3 and images.size:
        _, width, count = images.shape
        _check_array(path, "images", images, images.shape)
        _check_array(path, fluid_key, fluid, images.shape)
        _check_array(path, layers_key, layers, (8, width, count))
    else:
        _check_array(path, "images", images, ("height", "width", "B-scans"))
    return Volume(path, images, brightest(images), fluid, layers, fluid_key)


def _check_array(path: Path, key: str, array: np.ndarray | None, shape: tuple) -> None:
    """Raises InputError when the file has the array, but not as numbers of this shape."""
    if array is None or array.shape == shape and array.dtype.kind in "uif":
        return
    expected = f"numbers ({', '.join(map(str, shape))})"
    raise InputError(f"{path}: {key} is {array.dtype} {array.shape}, expected {expected}")


def _chosen(fluid: np.ndarray | None, fluid_value: tuple[int, ...]) -> np.ndarray | None:
    """Fluid (H, W, B-scans) of 0 and 1, 1 for the ids that are fluid; what is NaN stays NaN."""
    if fluid is None:
        return None
    return np.where(np.isnan(fluid), np.nan, np.isin(fluid, fluid_value))


def _check_masks(volume: Volume) -> None:
    """Raise InputError where what is taken for fluid, all ids above 0, can hardly be fluid."""
    masks = MaskValues()
    for position in volume.annotated:
        masks.add(np.minimum(_ids(volume, position), 254).astype(np.uint8))
    lookup = np.ones(256, np.uint8)
    lookup[0] = 0
    check_meaning(masks, lookup, f"{volume.path}: {volume.fluid_key}")


def _read_volume(
    source: Source, volume: Volume, subject: int, labelled_only: bool
) -> Iterator[BScan]:
    """B-scans of one volume, the annotated ones or all; `source` notes what was found."""
    # what there is
    name = volume.path.name
    shape = volume.images.shape
    count = shape[2]
    annotated = volume.annotated
    if labelled_only and not annotated:
        raise InputError(
            f"{volume.path}: no B-scan is annotated, {volume.fluid_key} is all NaN; "
            "check grader and file"
        )
    positions = listing(annotated)
    source.note(f"{name}: {len(annotated)} of {count} B-scans annotated, positions {positions}")
    if is_duke_volume(shape):
        scale_um = DUKE_SCALE_UM
        source.note(DUKE_NOTE)
    else:
        scale_um = None
        source.note(f"{name}: {shape} is not a Duke volume, scale unknown")
    if volume.images.dtype.kind in "ui" and volume.peak > 255:
        source.note(f"{name}: 16-bit values scaled by 255/{white_of(volume.peak)}")

    # the scans
    repairs = Repairs()
    for position in annotated if labelled_only else range(count):
        image = _grey(volume, position)
        scan = BScan(
            name=_scan_name(subject, position),
            image=image,
            subject=subject,
            position=position,
            scale_um=scale_um,
        )
        if position in annotated:
            scan.fluid = _fluid(volume, position, repairs)
            scan.regions = np.minimum(_ids(volume, position), 255).astype(np.uint8)
        if volume.layers is not None:
            rows = volume.layers[:, :, position]
            scan.layers = _layers(rows, len(image), repairs)
        yield scan

    # what was changed in them
    if repairs.nan_px:
        source.note(
            f"{name}: {repairs.nan_px} px are NaN within annotated B-scans, taken as not fluid"
        )
    if repairs.crossings or repairs.columns:
        larger = f"{repairs.columns} columns with larger ones or rows outside the image set to NaN"
        source.note(
            f"{name}: {repairs.crossings} boundary crossings up to 3 px repaired, {larger}"
        )


def _grey(volume: Volume, position: int) -> np.ndarray:
    """One image as uint8 (H, W), by the grey rule of `dme.data.images.to_scan`."""
    try:
        grey = to_scan(volume.images[:, :, position], volume.peak)
        refuse_inverted(grey)
    except ValueError as e:
        raise InputError(f"{volume.path}: B-scan {position}: {e}") from e
    return np.ascontiguousarray(grey)


def _ids(volume: Volume, position: int) -> np.ndarray:
    """Ids (H, W) of the regions of one B-scan, 0 where nobody looked."""
    ids = np.nan_to_num(volume.fluid[:, :, position])
    if (ids < 0).any() or (ids % 1).any():
        raise InputError(
            f"{volume.path}: {volume.fluid_key} of B-scan {position} holds values other than ids "
            "0, 1, 2 ..."
        )
    return ids


def _fluid(volume: Volume, position: int, repairs: Repairs) -> np.ndarray:
    """One fluid mask, uint8 (H, W) of 0 and 1, from the ids of its regions."""
    repairs.nan_px += int(np.isnan(volume.fluid[:, :, position]).sum())
    return np.ascontiguousarray(_ids(volume, position) > 0, np.uint8)


def _layers(stored: np.ndarray, height: int, repairs: Repairs) -> np.ndarray:
    """Boundary rows float32 (8, W), in order; columns that cannot be repaired are NaN.

    They are not worth refusing a volume whose fluid is sound.
    """
    rows = np.where(np.isinf(stored), -1.0, stored)  # outside the image
    layers, crossing = repair_boundaries(rows)
    outside = (layers < 0) | (layers > height)
    wrong = (outside | (crossing > MAX_CROSSING_PX)).any(axis=0)  # (W,)
    layers[:, wrong] = np.nan
    repairs.crossings += np.count_nonzero(crossing[:, ~wrong] > 0)
    repairs.columns += int(wrong.sum())
    return layers
