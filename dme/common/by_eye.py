"""Intervals by eye: scans of one eye are near copies, so eyes are drawn, with all their scans."""

from collections.abc import Callable

import numpy as np

DRAWS = 10_000
PERCENTILES = (2.5, 97.5)
INTERVALS = (
    "Intervals: 95 %, the 2.5 and 97.5 percentiles of 10,000 draws of eyes with replacement, an "
    "eye with all its scans. They leave out what another seed, network or grader would change, "
    "and of ten eyes or fewer they are rather too narrow."
)


def interval_by_eye(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, eyes: np.ndarray
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic that follows from sums over scans.

    statistic: takes sums (DRAWS, ...) of `values` over the scans drawn, gives a number for each
    draw, (DRAWS,). values: (scans, ...), numbers to sum. eyes: (scans,), the eye of each. Draws
    whose statistic is NaN are left out; both ends are NaN where all are.
    """
    # sums of each eye, then of as many eyes as there are, drawn with replacement
    values = np.asarray(values)
    eyes = np.asarray(eyes)
    per_eye = np.stack([values[eyes == eye].sum(0) for eye in np.unique(eyes)])
    draws = np.random.default_rng(0).integers(len(per_eye), size=(DRAWS, len(per_eye)))
    drawn = np.zeros((DRAWS, *per_eye.shape[1:]), per_eye.dtype)
    for place in range(len(per_eye)):
        drawn += per_eye[draws[:, place]]
    with np.errstate(invalid="ignore", divide="ignore"):
        numbers = np.asarray(statistic(drawn), np.float64)
    if np.isnan(numbers).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(numbers, PERCENTILES)
    return float(low), float(high)


def mean_interval(values: np.ndarray, eyes: np.ndarray) -> tuple[float, float]:
    """The interval of the mean of one number per scan (scans,); NaN ones are left out."""
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values)
    summed = np.stack([np.where(known, values, 0.0), known], axis=1)  # (scans, 2)
    return interval_by_eye(lambda sums: sums[:, 0] / sums[:, 1], summed, eyes)
