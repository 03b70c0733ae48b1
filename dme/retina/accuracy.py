"""How far boundaries, thickness and layers are from the truth, and its mean over scans."""

from collections.abc import Sequence

import numpy as np
import torch

from dme.ops.confusion import confusion_matrix
from dme.retina.rows import check_rows, layer_labels
from dme.retina.thickness import thickness_um


def boundary_errors_px(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error of one scan, float64 (9,): each boundary's over its graded columns,
    their mean.

    predicted, truth: rows (8, W); a column counts where both are known, a boundary without any is
    NaN.
    """
    truth = check_rows(truth)
    errors = _mean(np.abs(check_rows(predicted, truth.shape[1]) - truth), axis=1)
    return np.append(errors, _mean(errors, axis=0))


def thickness_errors_um(
    predicted: np.ndarray, truth: np.ndarray, axial_um: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of one scan, float64 (8,) each: mean absolute error of the thickness per column, and its
    mean error.

    predicted, truth: rows (8, W). Order as THICKNESSES; the second, positive when predicted too
    thick, is the error of the scan's mean thickness.
    """
    truth_um = thickness_um(truth, axial_um)
    errors = thickness_um(check_rows(predicted, truth_um.shape[1]), axial_um) - truth_um
    return _mean(np.abs(errors), axis=1), _mean(errors, axis=1)


def layer_confusion(predicted: np.ndarray, truth: np.ndarray, height: int) -> np.ndarray:
    """Confusion matrix int64 (9, 9) of a scan's layers from rows (8, W), unknown columns of either
    left out.

    `dme.metrics.scores` of their sum has the layers' Dice and IoU at 1 to 7.
    """
    labels = [
        layer_labels(rows, height)[None]
        for rows in (predicted, check_rows(truth, predicted.shape[1]))
    ]
    return confusion_matrix(*map(torch.from_numpy, labels), num_classes=9).numpy()


def over_scans(values: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Mean and sample standard deviation over scans of what was measured in each, NaN left out.

    values: (scans, names). Returns a row for each name: name, scans (that count), mean, sd (None
    below two).
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
