"""Boundary rows made up, and what networks would say of them."""

import numpy as np

from dme.common.labels import IGNORE
from dme.retina.rows import CLASSES, check_rows, layer_labels


def one_hot(labels, classes=9):
    """Certain probabilities (classes, H, W) of labels (H, W)."""
    return np.eye(classes, dtype=np.float32)[labels].transpose(2, 0, 1)


def shares(rows, height):
    """Share of every pixel in each class: what a perfect network sees at its resolution."""
    top = np.arange(height)[:, None] - 0.5
    above = np.clip(rows[:, None] - top, 0, 1)  # (8, H, W)
    nothing = np.zeros((1, *above.shape[1:]))
    ends = [nothing, above, nothing + 1]
    return np.diff(np.concatenate(ends), axis=0).astype(np.float32)


def slopes(width=200, bend=0.0):
    """Eight curves (8, W), 12 px apart."""
    x = np.arange(width)
    first = 40.3 + 0.1 * x + bend * np.sin(x / 30)
    return first + 12 * np.arange(8)[:, None]


def layer_confusion(predicted: np.ndarray, truth: np.ndarray, height: int) -> np.ndarray:
    """Confusion matrix int64 (9, 9) of a scan's layers; rows are truth, columns are prediction.

    predicted, truth: rows (8, W); columns that are unknown in either are left out.
    `dme.metrics.scores` of their sum has the layers' Dice and IoU at 1 to 7.
    """
    truth = check_rows(truth, predicted.shape[1])
    predicted_labels = layer_labels(predicted, height).astype(np.int64)
    true_labels = layer_labels(truth, height).astype(np.int64)
    known = (predicted_labels != IGNORE) & (true_labels != IGNORE)

    # cells of the matrix, row by row
    classes = len(CLASSES)
    cells = classes * true_labels[known] + predicted_labels[known]
    counts = np.bincount(cells, minlength=classes**2)
    return counts.reshape(classes, classes)
