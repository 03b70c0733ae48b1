"""How far two en-face pictures of one eye are apart: by what they share, vessels above all."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BIN = 4  # columns that become one
SMOOTH_BINS = 8.0  # wider than a vessel; what varies more slowly is shading
MOST_SHARE = 0.33  # of either side, by which pictures are moved against each other
LEAST_OVERLAP = 0.6  # of the pixels
LEAST_CORRELATION = 0.4  # of pictures that show the same place
PER_STEP = 1e-3  # correlation that a longer shift has to gain for each step


@dataclass(frozen=True)
class Shift:
    """Where what lies at (B-scan, column) of A lies in B: so many further."""

    bscans: int
    columns: int
    correlation: float  # of the two there, 1 at most


def enface_shift(a: np.ndarray, b: np.ndarray) -> Shift | None:
    """Shift between brightness maps (B-scans, columns) of one shape; None where none is found."""
    a = _structure(a)
    b = _structure(b)
    bscans, bins = a.shape
    most_down = max(1, round(MOST_SHARE * bscans))
    most_across = max(1, round(MOST_SHARE * bins))

    best = None
    best_score = -np.inf
    for down in range(-most_down, most_down + 1):
        for across in range(-most_across, most_across + 1):
            correlation = _correlation(a, b, down, across)
            score = correlation - PER_STEP * (abs(down) + abs(across))
            if score > best_score:
                best_score = score
                best = Shift(down, across * BIN, correlation)
    return best if best and best.correlation >= LEAST_CORRELATION else None


def _structure(enface: np.ndarray) -> np.ndarray:
    """What is finer than shading, (B-scans, bins of columns), of equal contrast in each B-scan."""
    bscans, columns = enface.shape
    bins = columns // BIN
    binned = enface[:, : bins * BIN].astype(np.float64).reshape(bscans, bins, BIN).mean(axis=2)
    fine = binned - ndimage.gaussian_filter1d(binned, SMOOTH_BINS, axis=1)
    contrast = fine.std(axis=1, keepdims=True)
    return fine / np.maximum(contrast, 1e-6)


def _correlation(a: np.ndarray, b: np.ndarray, down: int, across: int) -> float:
    """Of what overlaps when b is moved back by so many rows and columns; -1 if too little does."""
    h, w = a.shape
    over_a = a[max(0, -down) : h - max(0, down), max(0, -across) : w - max(0, across)]
    over_b = b[max(0, down) : h - max(0, -down), max(0, across) : w - max(0, -across)]
    if over_a.size < max(2, LEAST_OVERLAP * a.size):
        return -1.0
    x = over_a - over_a.mean()
    y = over_b - over_b.mean()
    norm = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / norm) if norm > 0 else -1.0
