"""How far boundaries and thickness are from the truth, and its mean over scans."""

from collections.abc import Sequence

import numpy as np

from dme.retina.rows import check_rows
from dme.retina.thickness import thickness_px


def boundary_errors_px(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error of each boundary of one scan over its graded columns, then their mean.

    predicted, truth: rows (8, W); a column counts where both are known. Returns float64 (9,), NaN
    for a boundary without any such column.
    """
    truth = check_rows(truth)
    predicted = check_rows(predicted, truth.shape[1])
    errors = _mean(np.abs(predicted - truth), axis=1)  # (8,)
    return np.append(errors, _mean(errors, axis=0))


def thickness_errors_px(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the thicknesses of one scan, float64 (8,) each, in the order of THICKNESSES.

    predicted, truth: rows (8, W). The first is the mean absolute error per column. The second,
    positive when predicted too thick, is the error of the scan's mean thickness.
    """
    truth_px = thickness_px(truth)
    predicted_px = thickness_px(check_rows(predicted, truth_px.shape[1]))
    errors = predicted_px - truth_px
    absolute = _mean(np.abs(errors), axis=1)
    bias = _mean(errors, axis=1)
    return absolute, bias


def over_scans(values: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Mean and sample standard deviation over scans of what was measured in each, NaN left out.

    values: (scans, names). Returns a row for each name: name, scans (that count), mean, sd (None
    below two).
    """
    rows = []
    columns = np.asarray(values, np.float64).T
    for name, column in zip(names, columns, strict=True):
        known = column[np.isfinite(column)]
        mean = float(known.mean()) if known.size else None
        sd = float(known.std(ddof=1)) if known.size > 1 else None
        rows.append({"name": name, "scans": known.size, "mean": mean, "sd": sd})
    return rows


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is known along an axis, NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis)
    count = known.sum(axis)
    nothing = np.full(np.shape(total), np.nan)
    return np.divide(total, count, out=nothing, where=count > 0)
