"""Boundary rows from a network's probabilities: in order within columns, smooth across them."""

import numpy as np
from scipy.linalg import solveh_banded

from dme.common.errors import InputError
from dme.retina.rows import CLASSES, LAYERS, repair_boundaries

DOUBT = 0.01  # least probability of any class: no pixel outvotes another by more than 100 : 1
# 1/px^2, precision of a row about which nothing is known, so that there is a curve at all
LEAST = 1e-6
QUANTISED = 1 / 12  # px^2, variance of a row that is known to the pixel

# weights of labellings so far are kept within; any product is a float64
BEST = 1e150
WORST = 1e-150
RESCALED_EVERY = 8  # rows

# px per column^2, expected second difference of a boundary; 0.02 to 0.2 in graded healthy scans
BEND = 0.3
STIFF = 1000  # the smoother starts so many times stiffer than BEND asks for
STIFF_STEPS = 12
RELAXING_STEPS = 8
TOLERATED_PX = 4  # residual that costs most of a row's weight, at the end


def boundaries_from_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Rows float32 (8, W) of the boundaries, ordered and within the image.

    probabilities: (9 or 10, H, W). In each column the expected rows given the order of the layers
    (`ordered_rows`), then across columns the smooth curves that agree with most of them
    (`smooth_rows`). Fluid, the tenth class, is in the retina but could be in any layer: it falls
    to the one whose tissue lies above and below it, and where these differ the boundaries in
    between are led by the columns beside it.
    Raises InputError for other shapes and for NaN.
    """
    p = np.asarray(probabilities)
    if p.ndim != 3 or len(p) not in (9, 10) or p.size == 0:
        raise InputError(
            f"probabilities have shape {p.shape}, expected (9 or 10 classes, height, width)"
        )
    if not np.isfinite(p).all():
        raise InputError(
            "probabilities hold NaN or infinity, expected 0..1: is the network's training sound?"
        )
    rows, precision = ordered_rows(p)
    curves = smooth_rows(rows, precision)
    height = p.shape[1]
    ordered, _ = repair_boundaries(curves.clip(-0.5, height - 0.5))
    return ordered


def with_fluid(probabilities: np.ndarray, fluid: np.ndarray) -> np.ndarray:
    """Ten classes (10, H, W) from (9, H, W) by a network of layers, (H, W) by one of fluid.

    A network that learnt from healthy eyes takes a cyst for what lies above or below the retina.
    """
    dry = probabilities * (1 - fluid)
    return np.concatenate([dry, fluid[None]])


def ordered_rows(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected boundary rows of each column, in order, and their precision in 1/px^2.

    probabilities: (9 or 10, H, W). Returns float64 (8, W) each. Every labelling of a column whose
    classes never decrease downwards has as weight the product of its pixels' probabilities; the
    rows are the mean over all of them. Regions decide, not edges, as in Haeker et al. (IPMI 2007):
    a far island of a wrong class counts for no more than its height, a missing layer gets no
    thickness. The precision is the inverse of the posterior variance less that of a column that
    says nothing.
    """
    _, height, width = probabilities.shape
    posterior = _posterior(_evidence(probabilities))

    # moments of the number of pixels above each boundary; its square is a sum of odd numbers
    downwards = np.tri(9)
    above = np.matmul(downwards[:8], posterior)  # (H, 8, W) probability that a pixel lies above
    count = above.sum(axis=0)  # (8, W)
    odd = 2.0 * np.arange(height) + 1
    variance = np.tensordot(odd, above, 1) - count**2

    # of a column that says nothing all labellings are alike: a beta-binomial distribution
    upper = np.arange(1, 9)[:, None]
    silent = height * (height + 9) * upper * (9 - upper) / 810
    precision = 1 / (variance.clip(0) + QUANTISED) - 1 / (silent + QUANTISED)
    return count - 0.5, np.maximum(precision, LEAST)


def _evidence(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities of the nine classes with some doubt, (H, 9, W); fluid may be any layer."""
    _, height, width = probabilities.shape
    sure = 1 - 9 * DOUBT
    evidence = np.empty((height, 9, width))
    tissue = probabilities[:9].transpose(1, 0, 2)  # (H, 9, W)
    np.multiply(tissue, sure, out=evidence)
    if len(probabilities) > len(CLASSES):
        fluid = sure / len(LAYERS) * probabilities[9]
        evidence[:, 1:8] += fluid[:, None]
    evidence += DOUBT
    return evidence


def _posterior(evidence: np.ndarray) -> np.ndarray:
    """Probability (H, 9, W) of each class given the whole column and the order of the classes.

    That of a left-to-right hidden Markov model, found exactly by the forward-backward recursion
    (Rabiner, Proc. IEEE 1989; 77:257). Overwrites the evidence (H, 9, W).
    """
    height, _, width = evidence.shape
    downwards = np.tri(9)  # after a class come itself and those below it

    # weight of all labellings of the rows down to here that end in a class
    weight = np.empty_like(evidence)
    weight[0] = evidence[0]
    for y in range(1, height):
        np.matmul(downwards, weight[y - 1], out=weight[y])
        weight[y] *= evidence[y]
        _rescale(weight[y], y)

    # times the same of the rows below
    below = np.ones((9, width))
    for y in range(height - 1, -1, -1):
        weight[y] *= below
        evidence[y] *= below
        np.matmul(downwards.T, evidence[y], out=below)
        _rescale(below, y)
    weight /= weight.sum(axis=1, keepdims=True)
    return weight


def _rescale(weight: np.ndarray, y: int) -> None:
    """Keep the weights (9, W) of row y within what a float64 holds."""
    if y % RESCALED_EVERY == 0:
        weight *= BEST / weight.max(axis=0)
        np.maximum(weight, WORST, out=weight)


def smooth_rows(rows: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Smooth curves (8, W) through rows (8, W) of this precision, each on its own, less outliers.

    Whittaker's smoother (Eilers, Anal. Chem. 2003; 75:3631): least squared residuals, by
    precision, plus squared second differences over BEND ** 2. Residuals of more than a few pixels
    lose their weight (Geman & McClure 1987, by reweighting). Neighbours that are wrong together
    and sure of it could still carry a curve along: hence it starts stiff, with absolute residuals
    and more equal votes, and is relaxed step by step. Slopes of up to about 5 px per column
    survive that.
    """
    curves = np.empty_like(rows)
    for k, row in enumerate(rows):
        # stiff: absolute residuals
        vote = precision[k] / (1 + 3 * precision[k])
        weight = vote
        for _ in range(STIFF_STEPS):
            curve = _whittaker(row, weight, STIFF / BEND**2)
            weight = vote / (1 + np.abs(row - curve))

        # relaxed: outliers lose their weight, from 64 px down to 4 px
        for start in np.linspace(1, 0, RELAXING_STEPS):
            vote = precision[k] / (1 + 3 * start * precision[k])
            tolerated_px = TOLERATED_PX * 16**start
            residual = (row - curve) / tolerated_px
            weight = vote / (1 + residual**2) ** 2
            curve = _whittaker(row, weight, STIFF**start / BEND**2)
        curves[k] = curve
    return curves


def _whittaker(values: np.ndarray, weight: np.ndarray, stiffness: float) -> np.ndarray:
    """The curve (W,) least in sum(weight * (curve - values)^2) + stiffness * sum(bends^2).

    Bends are second differences. Solves the normal equations, a matrix of five bands.
    """
    weight = np.maximum(weight, LEAST)
    count = max(len(values) - 2, 0)  # second differences, each 1, -2, 1
    bands = np.zeros((3, len(values)))  # main diagonal and the two below it
    for place, square in enumerate((1, 4, 1)):
        bands[0, place : place + count] += square
    bands[1, :count] -= 2
    bands[1, 1 : count + 1] -= 2
    bands[2, :count] += 1
    bands *= stiffness
    bands[0] += weight
    return solveh_banded(bands, weight * values, lower=True, overwrite_ab=True, check_finite=False)
