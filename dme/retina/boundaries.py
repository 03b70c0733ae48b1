"""Boundary rows from the probabilities of a network: in order within columns, smooth across them."""

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

from dme.common.errors import InputError
from dme.retina.rows import repair_boundaries

DOUBT = 0.01  # least probability of any class: no pixel outvotes another by more than 100 : 1
BEST, WORST = (
    1e150,
    1e-150,
)  # weights of labellings so far are kept within; any product is a float64
QUANTISED = 1 / 12  # px^2, variance of a row that is known to the pixel
BEND = 0.3  # px per column^2, expected second difference of a boundary; 0.02 to 0.2 in graded healthy scans
LEAST = 1e-6  # 1/px^2, precision of a row about which nothing is known, so that there is a curve at all


def boundaries_from_probabilities(probabilities: Tensor | np.ndarray) -> np.ndarray:
    """Rows float32 (8, W) of the boundaries, ordered and within the image.

    probabilities: (9 or 10, H, W). In each column the expected rows given the order of the layers
    (`ordered_rows`), then across columns the smooth curves that agree with most of them
    (`smooth_rows`). Fluid, the tenth class, is in the retina but could be in any layer: it falls
    to the one whose tissue lies above and below it, and where these differ the boundaries in
    between are led by the columns beside it.
    Raises InputError for other shapes and for NaN.
    """
    if isinstance(probabilities, Tensor):
        probabilities = probabilities.detach().float().cpu().numpy()
    p = np.asarray(probabilities)
    if p.ndim != 3 or len(p) not in (9, 10) or p.size == 0:
        raise InputError(
            f"probabilities have shape {p.shape}, expected (9 or 10 classes, height, width)"
        )
    if not np.isfinite(p).all():
        raise InputError(
            "probabilities hold NaN or infinity, expected 0..1: is the network's training sound?"
        )
    rows = smooth_rows(*ordered_rows(p))
    return repair_boundaries(rows.clip(-0.5, p.shape[1] - 0.5))[0]


def with_fluid(probabilities: Tensor, fluid: Tensor) -> Tensor:
    """Probabilities (9, H, W) of layers by one network and (H, W) of fluid by another, as of ten
    classes.

    A network that learnt from healthy eyes takes a cyst for what lies above or below the retina.
    """
    return torch.cat([probabilities * (1 - fluid), fluid[None]])


def ordered_rows(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected boundary rows of each column, in order, and their precision in 1/px^2, float64 (8,
    W) each.

    probabilities: (9 or 10, H, W). Every labelling of a column whose classes never decrease
    downwards has as weight the product of its pixels' probabilities; the rows are the mean over
    all of them. This is the posterior of a left-to-right hidden Markov model, found exactly by the
    forward-backward recursion (Rabiner, Proc. IEEE 1989; 77:257). Regions decide, not edges, as in
    Haeker et al. (IPMI 2007): a far island of a wrong class counts for no more than its height, a
    missing layer gets no thickness. The precision is the inverse of the posterior variance less
    that of a column that says nothing.
    """
    _, height, width = probabilities.shape
    evidence = np.empty((height, 9, width))
    np.multiply(probabilities[:9].transpose(1, 0, 2), 1 - 9 * DOUBT, out=evidence)
    if len(probabilities) > 9:
        evidence[:, 1:8] += ((1 - 9 * DOUBT) / 7 * probabilities[9])[:, None]
    evidence += DOUBT
    downwards = np.tri(9)  # after a class come itself and those below it
    weight = np.empty_like(
        evidence
    )  # of all labellings of the rows down to here that end in a class
    weight[0] = evidence[0]
    for y in range(1, height):
        np.matmul(downwards, weight[y - 1], out=weight[y])
        weight[y] *= evidence[y]
        _rescale(weight[y], y)
    below = np.ones((9, width))  # the same of the rows below
    for y in range(height - 1, -1, -1):
        weight[y] *= below
        evidence[y] *= below
        np.matmul(downwards.T, evidence[y], out=below)
        _rescale(below, y)
    weight /= weight.sum(axis=1, keepdims=True)
    above = np.matmul(
        downwards[:8], weight
    )  # (H, 8, W) probability that the pixel lies above the boundary
    count = above.sum(axis=0)  # pixels above it; their square is the sum of as many odd numbers
    variance = np.tensordot(2.0 * np.arange(height) + 1, above, 1) - count**2
    upper = np.arange(1, 9)[:, None]
    silent = (
        height * (height + 9) * upper * (9 - upper) / 810
    )  # all labellings alike: beta-binomial
    precision = 1 / (variance.clip(0) + QUANTISED) - 1 / (silent + QUANTISED)
    return count - 0.5, np.maximum(precision, LEAST)


def _rescale(weight: np.ndarray, y: int) -> None:
    if y % 8 == 0:
        weight *= BEST / weight.max(axis=0)
        np.maximum(weight, WORST, out=weight)


def smooth_rows(rows: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Smooth curves (8, W) through rows (8, W) of this precision, each on its own; outliers are
    left aside.

    Whittaker's smoother (Eilers, Anal. Chem. 2003; 75:3631): least squared residuals, by
    precision, plus squared second differences over BEND ** 2. Residuals of more than a few pixels
    lose their weight (Geman & McClure 1987, by reweighting). Neighbours that are wrong together
    and sure of it could still carry a curve
    along: hence it starts stiff, with absolute residuals and more equal votes, and is relaxed step
    by step. Slopes of up to about 5 px per column survive that.
    """
    curves = np.empty_like(rows)
    for k, row in enumerate(rows):
        weight = vote = precision[k] / (1 + 3 * precision[k])
        for _ in range(12):
            curve = _whittaker(row, weight, 1000 / BEND**2)
            weight = vote / (1 + np.abs(row - curve))
        for start in np.linspace(1, 0, 8):
            vote, tolerated_px = precision[k] / (1 + 3 * start * precision[k]), 4 * 16**start
            weight = vote / (1 + ((row - curve) / tolerated_px) ** 2) ** 2
            curve = _whittaker(row, weight, 1000**start / BEND**2)
        curves[k] = curve
    return curves


def _whittaker(values: np.ndarray, weight: np.ndarray, stiffness: float) -> np.ndarray:
    """Minimise sum(weight * (curve - values)^2) + stiffness * sum(second differences^2); all (W,)."""
    weight = np.maximum(weight, LEAST)
    n = max(len(values) - 2, 0)
    bands = np.zeros((3, len(values)))  # main diagonal and the two below it
    for at, share in ((0, 1), (1, 4), (2, 1)):
        bands[0, at : at + n] += share
    bands[1, :n] -= 2
    bands[1, 1 : n + 1] -= 2
    bands[2, :n] += 1
    bands *= stiffness
    bands[0] += weight
    return solveh_banded(bands, weight * values, lower=True, overwrite_ab=True, check_finite=False)
