"""Errors of boundaries, thickness and layers, and fluid per layer, by hand."""

import numpy as np
import pytest
from helpers.layers import layer_confusion

from dme.common.errors import InputError
from dme.metrics import scores
from dme.retina.accuracy import (
    boundary_errors_px,
    over_scans,
    thickness_errors_px,
)
from dme.retina.fluid import fluid_per_layer
from dme.retina.rows import BOUNDARIES, CLASSES, THICKNESSES
from dme.retina.thickness import thickness_px


def level(rows, width):
    """Rows (8, W) that are the same in every column."""
    return np.tile(np.array(rows, np.float64)[:, None], (1, width))


def test_boundary_errors():
    truth = level(10 * np.arange(8), 4)
    predicted = truth.copy()
    predicted[0] += [1, -1, 0, 2]
    predicted[3] += 0.5
    truth[0, 3] = truth[7] = np.nan
    errors = boundary_errors_px(predicted, truth)
    assert errors[:8].tolist() == pytest.approx([2 / 3, 0, 0, 0.5, 0, 0, 0, np.nan], nan_ok=True)
    assert errors[8] == pytest.approx((2 / 3 + 0.5) / 7)
    assert np.isnan(boundary_errors_px(predicted, np.full((8, 4), np.nan))).all()


def test_thickness():
    truth = level([0, 1, 3, 6, 10, 15, 21, 28], 2)
    thickness = thickness_px(truth)
    assert len(thickness) == len(THICKNESSES)
    assert thickness[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 28]


def test_thickness_errors():
    truth = level([0, 1, 3, 6, 10, 15, 21, 28], 2)
    predicted = truth.copy()
    predicted[1] += [0.5, -0.5]
    predicted[7] += 2
    absolute, bias = thickness_errors_px(predicted, truth)
    assert absolute.tolist() == [0.5, 0.5, 0, 0, 0, 0, 2, 2]
    assert bias.tolist() == [0, 0, 0, 0, 0, 0, 2, 2]
    truth[0, 1] = np.nan
    _, bias = thickness_errors_px(predicted, truth)
    assert bias.tolist() == [0.5, 0, 0, 0, 0, 0, 2, 2]


def test_layer_dice():
    truth = level(2 * np.arange(1, 9), 10)  # layers of 2 px from pixel 2 on
    predicted = truth.copy()
    predicted[0] -= 1  # NFL 3 px
    truth[4, 7:] = np.nan
    cm = layer_confusion(predicted, truth, 20)
    assert cm.dtype == np.int64
    assert cm.shape == (9, 9)
    assert cm.sum() == 20 * 7
    expected = [2 * 7 / (14 + 7), 2 * 14 / (21 + 14), 1]
    assert scores(cm)["dice"][:3].tolist() == pytest.approx(expected)
    with pytest.raises(InputError, match="expected"):
        layer_confusion(predicted, truth[:, :9], 20)


def test_fluid_per_layer():
    rows = level(2 * np.arange(1, 9), 3)
    rows[2, 2] = np.nan
    fluid = np.zeros((20, 3), np.uint8)
    fluid[1:7] = 1
    fluid[19, 0] = 1
    fluid[18] = 255
    expected = dict.fromkeys(CLASSES, 0)
    expected |= {"above retina": 2, "NFL": 4, "GCL+IPL": 4, "INL": 2, "below retina": 1}
    pixels = fluid_per_layer(rows, fluid).tolist()
    assert dict(zip(CLASSES, pixels, strict=True)) == expected


def test_mean_and_sd_over_scans():
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan]])
    assert over_scans(values, ["a", "b", "c"]) == [
        {"name": "a", "scans": 2, "mean": 2.0, "sd": pytest.approx(2**0.5)},
        {"name": "b", "scans": 1, "mean": 5.0, "sd": None},
        {"name": "c", "scans": 0, "mean": None, "sd": None},
    ]
    assert len(over_scans(np.zeros((2, 9)), (*BOUNDARIES, "all"))) == 9
