"""Subject_NN.mat files as MATLAB holds them, of arrays or of a chiu2015 folder of PNG files."""

import csv
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image


def write_subject_mat(
    path: str | Path,
    images: np.ndarray,
    fluid: np.ndarray,
    layers: np.ndarray | None = None,
    dtype: type = np.uint8,
    fluid2: np.ndarray | None = None,
    layers2: np.ndarray | None = None,
) -> None:
    """Write images and fluid ids (H, W, N), NaN where nobody looked, and layers (8, W, N)."""
    mat = {"images": images.astype(dtype), "manualFluid1": fluid.astype(np.float64)}
    if layers is not None:
        mat["manualLayers1"] = layers.astype(np.float64)
    if fluid2 is not None:
        mat["manualFluid2"] = fluid2.astype(np.float64)
    if layers2 is not None:
        mat["manualLayers2"] = layers2.astype(np.float64)
    scipy.io.savemat(path, mat)


def duke_volume(folder: Path, subject: int, count: int = 61) -> tuple[np.ndarray, np.ndarray]:
    """images uint8, fluid float64 (496, 768, count) of a subject; 0 and NaN if not annotated."""
    images = np.zeros((496, 768, count), np.uint8, order="F")
    fluid = np.full((496, 768, count), np.nan, order="F")
    with open(folder / "index.csv", newline="") as f:
        for row in csv.DictReader(f):
            if int(row["subject"]) == subject:
                i = int(row["bscan"])
                file = f"{row['name']}.png"
                images[:, :, i] = np.asarray(Image.open(folder / "images" / file))
                fluid[:, :, i] = np.asarray(Image.open(folder / "fluid" / file))
    return images, fluid


def small_volume(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """images (4, 6, count) and fluid ids, annotated in two B-scans, NaN elsewhere.

    B-scan 1 is empty, 3 holds the ids 2 and 7, and two NaN.
    """
    images = np.random.default_rng(1).integers(0, 256, (4, 6, count), dtype=np.uint8)
    fluid = np.full((4, 6, count), np.nan)
    fluid[:, :, 1] = 0
    fluid[:, :, 3] = 0
    fluid[0, 1:3, 3] = 2
    fluid[1, 2, 3] = 7
    fluid[:2, 5, 3] = np.nan
    return images, fluid
