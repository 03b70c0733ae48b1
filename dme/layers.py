"""Retinal layers: labels from boundary rows, boundary rows from probabilities, and what is measured on them.

Rows count from 0 and whole numbers are pixel centres: pixel y covers y - 0.5 to y + 0.5. A pixel belongs to
the layer in which its centre lies, so the first pixel below a boundary at row b is ceil(b), and a boundary
between the pixels y - 1 and y lies at y - 0.5. The phantom's rows are exact in this sense.

Rows that count from 1, as MATLAB's do, lie one pixel too low here. It shows at the ILM and IS/OS, dark above
and bright below: on average over columns, brightness rises most steeply at row b when rows count from 0, at
b - 1 when they count from 1. Thickness, and errors within one set, do not depend on it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor
from torch.nn import functional as F

from dme.bscan import IGNORE
from dme.errors import InputError
from dme.ops.confusion import confusion_matrix
from dme.pixels import repair_boundaries

BOUNDARIES = ("ILM", "NFL/GCL", "IPL/INL", "INL/OPL", "OPL/ONL", "IS/OS", "OS/RPE", "RPE/choroid")
LAYERS = ("NFL", "GCL+IPL", "INL", "OPL", "ONL+IS", "OS", "RPE")  # classes 1 to 7
CLASSES = ("above retina", *LAYERS, "below retina")  # classes 0 to 8
FLUID = 9  # the class of fluid in the task layers+fluid
THICKNESSES = (*LAYERS, "retina")  # the retina from ILM to RPE/choroid

DOUBT = 0.01  # least probability of any class: no pixel outvotes another by more than 100 : 1
BEST, WORST = 1e150, 1e-150  # weights of labellings so far are kept within; any product is a float64
QUANTISED = 1 / 12  # px^2, variance of a row that is known to the pixel
BEND = 0.3  # px per column^2, expected second difference of a boundary; 0.02 to 0.2 in graded healthy scans
LEAST = 1e-6  # 1/px^2, precision of a row about which nothing is known, so that there is a curve at all


def check_rows(boundaries: np.ndarray, width: int | None = None) -> np.ndarray:
    """Boundary rows as float64 (8, W), or InputError for another shape or width, or for crossings."""
    rows = np.asarray(boundaries, np.float64)
    if rows.ndim != 2 or len(rows) != 8 or width is not None and rows.shape[1] != width:
        wanted = f"(8, {'width' if width is None else width}), rows from {BOUNDARIES[0]} to {BOUNDARIES[-1]}"
        raise InputError(f"boundaries have shape {rows.shape}, expected {wanted}")
    crossing = np.fmax.accumulate(rows, axis=0) - rows
    if (crossing > 0).any():
        k, column = np.unravel_index(np.nanargmax(crossing), crossing.shape)
        found = (
            f"{BOUNDARIES[k]} lies {crossing[k, column]:.2f} px above an upper boundary in column {column}"
        )
        raise InputError(f"{found}, expected rows in order: use dme.pixels.repair_boundaries")
    return rows


def layer_labels(boundaries: np.ndarray, height: int, fluid: np.ndarray | None = None) -> np.ndarray:
    """Label map uint8 (height, W): 0 above the retina, 1 to 7 the layers, 8 below; with fluid, 9 on top.

    boundaries: (8, W); a column with any NaN is unknown, 255. fluid: uint8 (height, W); 1 becomes 9 in graded
    columns, 255 stays 255. Raises InputError as `check_rows` does, and for a mask of another shape.
    """
    rows = check_rows(boundaries)
    labels = np.zeros((height, rows.shape[1]), np.uint8)
    for row in rows:
        labels += np.arange(height)[:, None] >= row  # the centre lies at or below the boundary
    if fluid is not None:
        if fluid.shape != labels.shape:
            raise InputError(f"fluid mask is {fluid.shape}, expected {labels.shape} as boundaries and height")
        labels[fluid == 1] = FLUID
        labels[fluid == IGNORE] = IGNORE
    labels[:, np.isnan(rows).any(axis=0)] = IGNORE
    return labels


def scale_rows(boundaries: np.ndarray, shape: tuple[int, int], scaled: tuple[int, int]) -> np.ndarray:
    """Rows (8, W) of a scan of `shape` (H, W) -> float32 rows (8, W') of the scan resized to `scaled`.

    A new column has the mean of the columns it covers, unknown where one of them is.
    """
    rows = torch.from_numpy(np.array(boundaries, np.float32))
    if shape[1] != scaled[1]:
        rows = F.adaptive_avg_pool1d(rows, scaled[1])
    return ((rows + 0.5) * (scaled[0] / shape[0]) - 0.5).numpy()


# ---- boundaries from probabilities ----------------------------------------------------------------------


def boundaries_from_probabilities(probabilities: Tensor | np.ndarray) -> np.ndarray:
    """Rows float32 (8, W) of the boundaries, ordered and within the image.

    probabilities: (9 or 10, H, W). In each column the expected rows given the order of the layers
    (`ordered_rows`), then across columns the smooth curves that agree with most of them (`smooth_rows`).
    Fluid, the tenth class, is in the retina but could be in any layer: it falls to the one whose tissue lies
    above and below it, and where these differ the boundaries in between are led by the columns beside it.
    Raises InputError for other shapes and for NaN.
    """
    if isinstance(probabilities, Tensor):
        probabilities = probabilities.detach().float().cpu().numpy()
    p = np.asarray(probabilities)
    if p.ndim != 3 or len(p) not in (9, 10) or p.size == 0:
        raise InputError(f"probabilities have shape {p.shape}, expected (9 or 10 classes, height, width)")
    if not np.isfinite(p).all():
        raise InputError(
            "probabilities hold NaN or infinity, expected 0..1: is the network's training sound?"
        )
    rows = smooth_rows(*ordered_rows(p))
    return repair_boundaries(rows.clip(-0.5, p.shape[1] - 0.5))[0]


def with_fluid(probabilities: Tensor, fluid: Tensor) -> Tensor:
    """Probabilities (9, H, W) of layers by one network and (H, W) of fluid by another, as of ten classes.

    A network that learnt from healthy eyes takes a cyst for what lies above or below the retina.
    """
    return torch.cat([probabilities * (1 - fluid), fluid[None]])


def ordered_rows(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected boundary rows of each column, in order, and their precision in 1/px^2, float64 (8, W) each.

    probabilities: (9 or 10, H, W). Every labelling of a column whose classes never decrease downwards has as
    weight the product of its pixels' probabilities; the rows are the mean over all of them. This is the
    posterior of a left-to-right hidden Markov model, found exactly by the forward-backward recursion
    (Rabiner, Proc. IEEE 1989; 77:257). Regions decide, not edges, as in Haeker et al. (IPMI 2007): a far
    island of a wrong class counts for no more than its height, a missing layer gets no thickness. The
    precision is the inverse of the posterior variance less that of a column that says nothing.
    """
    _, height, width = probabilities.shape
    evidence = np.empty((height, 9, width))
    np.multiply(probabilities[:9].transpose(1, 0, 2), 1 - 9 * DOUBT, out=evidence)
    if len(probabilities) > 9:
        evidence[:, 1:8] += ((1 - 9 * DOUBT) / 7 * probabilities[9])[:, None]
    evidence += DOUBT
    downwards = np.tri(9)  # after a class come itself and those below it
    weight = np.empty_like(evidence)  # of all labellings of the rows down to here that end in a class
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
    above = np.matmul(downwards[:8], weight)  # (H, 8, W) probability that the pixel lies above the boundary
    count = above.sum(axis=0)  # pixels above it; their square is the sum of as many odd numbers
    variance = np.tensordot(2.0 * np.arange(height) + 1, above, 1) - count**2
    upper = np.arange(1, 9)[:, None]
    silent = height * (height + 9) * upper * (9 - upper) / 810  # all labellings alike: beta-binomial
    precision = 1 / (variance.clip(0) + QUANTISED) - 1 / (silent + QUANTISED)
    return count - 0.5, np.maximum(precision, LEAST)


def _rescale(weight: np.ndarray, y: int) -> None:
    if y % 8 == 0:
        weight *= BEST / weight.max(axis=0)
        np.maximum(weight, WORST, out=weight)


def smooth_rows(rows: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Smooth curves (8, W) through rows (8, W) of this precision, each on its own; outliers are left aside.

    Whittaker's smoother (Eilers, Anal. Chem. 2003; 75:3631): least squared residuals, by precision, plus
    squared second differences over BEND ** 2. Residuals of more than a few pixels lose their weight (Geman &
    McClure 1987, by reweighting). Neighbours that are wrong together and sure of it could still carry a curve
    along: hence it starts stiff, with absolute residuals and more equal votes, and is relaxed step by step.
    Slopes of up to about 5 px per column survive that.
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


# ---- measures ---------------------------------------------------------------------------------------------


def boundary_errors_px(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error of one scan, float64 (9,): each boundary's over its graded columns, their mean.

    predicted, truth: rows (8, W); a column counts where both are known, a boundary without any is NaN.
    """
    truth = check_rows(truth)
    errors = _mean(np.abs(check_rows(predicted, truth.shape[1]) - truth), axis=1)
    return np.append(errors, _mean(errors, axis=0))


def thickness_um(boundaries: np.ndarray, axial_um: float | None) -> np.ndarray:
    """Thickness in every column, float64 (8, W): of the seven layers and of the retina (see THICKNESSES).

    boundaries: rows (8, W). Raises InputError without an axial scale.
    """
    if not axial_um:
        raise InputError("thickness in um needs the axial scale, which is unknown: give it in index.csv")
    rows = check_rows(boundaries)
    return np.vstack([np.diff(rows, axis=0), rows[7:] - rows[:1]]) * axial_um


def thickness_errors_um(
    predicted: np.ndarray, truth: np.ndarray, axial_um: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of one scan, float64 (8,) each: mean absolute error of the thickness per column, and its mean error.

    predicted, truth: rows (8, W). Order as THICKNESSES; the second, positive when predicted too thick, is the
    error of the scan's mean thickness.
    """
    truth_um = thickness_um(truth, axial_um)
    errors = thickness_um(check_rows(predicted, truth_um.shape[1]), axial_um) - truth_um
    return _mean(np.abs(errors), axis=1), _mean(errors, axis=1)


def layer_confusion(predicted: np.ndarray, truth: np.ndarray, height: int) -> np.ndarray:
    """Confusion matrix int64 (9, 9) of a scan's layers from rows (8, W), unknown columns of either left out.

    `dme.metrics.scores` of their sum has the layers' Dice and IoU at 1 to 7.
    """
    labels = [layer_labels(rows, height)[None] for rows in (predicted, check_rows(truth, predicted.shape[1]))]
    return confusion_matrix(*map(torch.from_numpy, labels), num_classes=9).numpy()


def fluid_per_layer(boundaries: np.ndarray, fluid: np.ndarray) -> np.ndarray:
    """Fluid pixels in each of CLASSES, int64 (9,); `dme.measure.area_mm2` makes mm^2 of them.

    boundaries: rows (8, W), unknown columns are left out. fluid: (H, W), fluid is 1.
    """
    classes = layer_labels(check_rows(boundaries, fluid.shape[1]), len(fluid))[fluid == 1]
    return np.bincount(classes[classes != IGNORE], minlength=9)


def over_scans(values: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Mean and sample standard deviation over scans of what was measured in each, NaN left out.

    values: (scans, names). Returns a row for each name: name, scans (that count), mean, sd (None below two).
    """
    rows = []
    for name, column in zip(names, np.asarray(values, np.float64).T, strict=True):
        known = column[np.isfinite(column)]
        mean = float(known.mean()) if known.size else None
        sd = float(known.std(ddof=1)) if known.size > 1 else None
        rows.append({"name": name, "scans": known.size, "mean": mean, "sd": sd})
    return rows


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis), known.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
