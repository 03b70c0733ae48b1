"""How well the outlines and the single regions of fluid agree in one scan: counts to be summed."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

OVERLAP = 0.5  # share of a region's pixels that must be met
NEIGHBOURS = np.ones((3, 3), bool)  # pixels that touch at a side or a corner are one region


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask (H, W) of which one of four neighbours is outside it or the image, bool."""
    mask = np.asarray(mask, bool)
    return mask & ~ndimage.binary_erosion(mask)


def outline_counts(
    truth: np.ndarray, guess: np.ndarray, tolerance: float, spacing: Sequence[float] = (1.0, 1.0)
) -> np.ndarray:
    """What `normalised_surface_distance` is made of, int64 (4,).

    Pixels of the truth's outline, those of them at most `tolerance` from the guess's outline;
    pixels of the guess's outline, those at most as far from the truth's. truth, guess: masks
    (H, W). spacing: height and width of a pixel, in the unit of the tolerance; distances lie
    between pixel centres.
    """
    first = outline(truth)
    second = outline(guess)
    if first.shape != second.shape:
        raise ValueError(f"masks are {first.shape} and {second.shape}; expected one shape")
    near_guess = _near(second, tolerance, spacing)
    near_truth = _near(first, tolerance, spacing)
    pairs = (first, first & near_guess, second, second & near_truth)
    return np.array([pixels.sum() for pixels in pairs], np.int64)


def _near(edge: np.ndarray, tolerance: float, spacing: Sequence[float]) -> np.ndarray:
    """Where a pixel of the edge is at most as far as the tolerance, bool (H, W)."""
    if not edge.any():
        return np.zeros(edge.shape, bool)
    return ndimage.distance_transform_edt(~edge, sampling=tuple(spacing)) <= tolerance


def normalised_surface_distance(counts: np.ndarray) -> np.ndarray:
    """Share of both outlines within the tolerance of the other, of counts (..., 4), 1 at best.

    Every pixel of an outline counts once, whatever length it stands for. NaN where there is no
    outline at all. After Nikolov et al. 2018, arXiv:1809.04430, on pixels.
    """
    truth, near_guess, guess, near_truth = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    with np.errstate(invalid="ignore"):
        return (near_guess + near_truth) / (truth + guess)


def region_ids(mask: np.ndarray) -> np.ndarray:
    """Regions of a mask (H, W) numbered from 1, for a truth whose grader numbered none."""
    return ndimage.label(np.asarray(mask, bool), NEIGHBOURS)[0]


def lesion_counts(truth_ids: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """What `lesion_f1` is made of, int64 (4,).

    Lesions of the truth, those of which at least half of the pixels are guessed; regions of the
    guess, those of which at least half of the pixels are in some lesion. truth_ids: (H, W), a
    number above 0 for each lesion, as its grader drew it, which may touch others. guess: mask
    (H, W), whose regions are those that touch at a side or a corner; one may meet several lesions.
    """
    guess = np.asarray(guess, bool)
    if np.shape(truth_ids) != guess.shape:
        raise ValueError(f"ids are {np.shape(truth_ids)}, mask {guess.shape}; expected one shape")
    lesions, met = _met(truth_ids, guess)
    regions, right = _met(region_ids(guess), truth_ids > 0)
    return np.array([lesions, met, regions, right], np.int64)


def _met(ids: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """How many numbers above 0 there are, and how many lie in the mask by half or more."""
    ids = np.asarray(ids).astype(np.int64).ravel()
    sizes = np.bincount(ids)
    inside = np.bincount(ids, weights=mask.ravel(), minlength=len(sizes))
    present = sizes[1:] > 0
    met = present & (inside[1:] >= OVERLAP * sizes[1:])
    return int(present.sum()), int(met.sum())


def lesion_f1(counts: np.ndarray) -> np.ndarray:
    """2 P R / (P + R) of counts (..., 4), NaN where there is neither lesion nor region.

    R is the share of lesions met, P that of regions right.
    """
    lesions, met, regions, right = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(lesions > 0, met / lesions, 0.0)
        precision = np.where(regions > 0, right / regions, 0.0)
        harmonic = 2 * precision * recall / (precision + recall)
    score = np.where(precision + recall > 0, harmonic, 0.0)
    return np.where(lesions + regions > 0, score, np.nan)
