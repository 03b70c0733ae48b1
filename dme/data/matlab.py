"""B-scans of MATLAB files: the Duke / Kaggle set of Chiu et al. 2015."""

import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.duke import DUKE_NOTE, DUKE_SCALE_UM
from dme.data.source import Source, files_in, fingerprint, listing
from dme.retina.rows import MAX_CROSSING_PX, repair_boundaries


def open_mat(path: Path, grader: int) -> Source:
    files = {path.stem: path} if path.is_file() else files_in(path, (".mat",))
    subjects: dict[int, Path] = {}
    for stem, file in files.items():
        if number := re.fullmatch(r"subject_?(\d+)", stem, re.IGNORECASE):
            if int(number[1]) in subjects:
                raise InputError(
                    f"{subjects[int(number[1])]} and {file.name} are the same subject: keep one"
                )
            subjects[int(number[1])] = file
    if not subjects:
        raise InputError(
            f"{file}: the subject number comes from the file name; rename it to Subject_NN.mat"
        )

    def read(source: Source, labelled_only: bool) -> Iterator[BScan]:
        for subject in sorted(subjects):
            yield from _read_mat(source, subjects[subject], subject, grader, labelled_only)

    digest = fingerprint(file.parent, list(subjects.values()), f"mat grader {grader}\n")
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
        raise InputError(
            f"{path}: not a readable MATLAB file ({e}); copy or download it again"
        ) from e


def _read_mat(
    source: Source, path: Path, subject: int, grader: int, labelled_only: bool
) -> Iterator[BScan]:
    """B-scans of one volume. Annotated ones are found: those whose fluid map is not all NaN."""
    fluid_key, layers_key = f"manualFluid{grader}", f"manualLayers{grader}"
    mat = _load_mat(path, ["images", fluid_key, layers_key])
    for key in ["images", fluid_key] if labelled_only else ["images"]:
        if key not in mat:
            raise InputError(
                f"{path}: no variable {key}; expected images, {fluid_key}, {layers_key}"
            )
    images, fluid, layers = mat["images"], mat.get(fluid_key), mat.get(layers_key)
    shapes = {"images": ("height", "width", "B-scans")}
    if images.ndim == 3 and images.size:
        shapes = {
            "images": images.shape,
            fluid_key: images.shape,
            layers_key: (8, *images.shape[1:]),
        }
    for key, shape in shapes.items():
        if key in mat and (mat[key].shape != shape or mat[key].dtype.kind not in "uif"):
            got, wanted = (
                f"{mat[key].dtype} {mat[key].shape}",
                f"numbers ({', '.join(map(str, shape))})",
            )
            raise InputError(f"{path}: {key} is {got}, expected {wanted}")
    if images.dtype.kind == "f" and images.max() <= 1:
        raise InputError(
            f"{path}: images lie within 0..1, expected grey values 0..255: multiply them by 255"
        )

    count = images.shape[2]
    annotated = [
        i for i in range(count) if fluid is not None and not np.isnan(fluid[:, :, i]).all()
    ]
    if labelled_only and not annotated:
        raise InputError(
            f"{path}: no B-scan is annotated, {fluid_key} is all NaN; check grader and file"
        )
    source.note(
        f"{path.name}: {len(annotated)} of {count} B-scans annotated, positions {listing(annotated)}"
    )
    scale_um = DUKE_SCALE_UM if images.shape == (496, 768, 61) else None
    source.note(
        DUKE_NOTE
        if scale_um
        else f"{path.name}: {images.shape} is not a Duke volume, scale unknown"
    )
    nan_px = repaired = blanked = 0
    for i in annotated if labelled_only else range(count):
        image = images[:, :, i]
        if not (image.min() >= 0 and image.max() <= 255):  # also false for NaN
            raise InputError(
                f"{path}: images of B-scan {i} leave 0..255 or hold NaN, expected grey values"
            )
        image = np.ascontiguousarray(np.rint(image), np.uint8)
        scan = BScan(f"subject{subject:02d}_bscan{i:02d}", image, None, None, subject, i, scale_um)
        if i in annotated:
            ids = np.nan_to_num(fluid[:, :, i])
            if (ids < 0).any() or (ids % 1).any():
                raise InputError(
                    f"{path}: {fluid_key} of B-scan {i} holds values other than ids 0, 1, 2 ..."
                )
            scan.fluid = np.ascontiguousarray(ids > 0, np.uint8)
            nan_px += int(np.isnan(fluid[:, :, i]).sum())
        if layers is not None:
            rows = np.where(np.isinf(layers[:, :, i]), -1.0, layers[:, :, i])  # outside the image
            scan.layers, crossing = repair_boundaries(rows)
            wrong = (crossing > MAX_CROSSING_PX).any(axis=0)
            wrong |= ((scan.layers < 0) | (scan.layers > len(image))).any(axis=0)
            scan.layers[:, wrong] = np.nan  # not worth refusing a volume whose fluid is sound
            repaired, blanked = (
                repaired + int((crossing[:, ~wrong] > 0).sum()),
                blanked + int(wrong.sum()),
            )
        yield scan
    if nan_px:
        source.note(
            f"{path.name}: {nan_px} px are NaN within annotated B-scans, taken as not fluid"
        )
    if repaired or blanked:
        larger = f"{blanked} columns with larger ones or rows outside the image set to NaN"
        source.note(f"{path.name}: {repaired} boundary crossings up to 3 px repaired, {larger}")
