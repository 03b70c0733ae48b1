"""Scans that the networks of `knowing_networks` can read, and files of them."""

from pathlib import Path

import numpy as np
from PIL import Image

# rows between pixels: layers of 8 px, a retina of 56 px
FLAT = 9.5 + np.array([0, 8, 16, 24, 32, 40, 48, 56.0])


def picture(height=40, width=60, seed=0) -> np.ndarray:
    """Grey below 90, with a bright block of 5 x 8 px."""
    image = np.random.default_rng(seed).integers(0, 90, (height, width)).astype(np.uint8)
    image[10:15, 20:28] = 160
    return image


def indexed(index=0, height=80, width=60, cyst=None) -> np.ndarray:
    """Dark, its first pixel the index; a cyst, given as slices, is bright.

    No column is empty.
    """
    image = np.zeros((height, width), np.uint8)
    image[1::2] = 1
    if cyst:
        image[cyst] = 160
    image[0, 0] = index
    return image


def flat(extra_px=0.0, width=60) -> np.ndarray:
    """Rows (8, width) of an even retina whose ONL+IS is so much thicker."""
    rows = np.tile(FLAT[:, None], (1, width))
    rows[5:] += extra_px
    return rows


def save(path: Path, pixels) -> Path:
    """Write an array (.npy) or a picture, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.array(pixels))
    else:
        Image.fromarray(pixels).save(path)
    return path


def files(out: Path) -> set[str]:
    """All files below a folder."""
    return {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
