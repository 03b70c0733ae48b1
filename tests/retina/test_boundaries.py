"""From probabilities to rows: against brute force, hand-made curves and phantoms."""

import itertools

import numpy as np
import pytest
import torch
from helpers.layers import one_hot, shares, slopes
from scipy.ndimage import gaussian_filter

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.retina import boundaries
from dme.retina.boundaries import (
    boundaries_from_probabilities,
    ordered_rows,
    smooth_rows,
    with_fluid,
)
from dme.retina.rows import layer_labels


def distance(probabilities, rows):
    """Distance (8, W), in px, of the rows that are found from those expected."""
    return np.abs(boundaries_from_probabilities(probabilities) - rows)


def over_all_labellings(p):
    """Mean and variance of the rows over every ordered labelling of each column, one by one."""
    sure = 1 - 9 * boundaries.DOUBT
    tissue = p[:9] * sure + boundaries.DOUBT
    if len(p) == 10:
        tissue[1:8] += p[9] / 7 * sure
    rows = []
    weights = []
    for labelling in itertools.combinations_with_replacement(range(9), p.shape[1]):
        labels = np.array(labelling)
        rows.append([(labels <= k).sum() - 0.5 for k in range(8)])
        pixels = [tissue[label, y] for y, label in enumerate(labelling)]
        weights.append(np.prod(pixels, axis=0))
    rows = np.array(rows)  # (labellings, 8)
    weights = np.array(weights) / np.sum(weights, axis=0)  # (labellings, W)
    mean = rows.T @ weights
    return mean, (rows.T**2) @ weights - mean**2


@pytest.mark.parametrize("classes", [9, 10])
def test_rows_are_the_mean_over_all_ordered_labellings(classes):
    p = np.random.default_rng(classes).random((classes, 5, 3)) ** 4
    p /= p.sum(0)
    p[:, :, 2] = 1 / classes
    mean, variance = over_all_labellings(p)
    _, silent = over_all_labellings(np.full((9, 5, 1), 1 / 9))
    rows, precision = ordered_rows(p)
    assert np.allclose(rows, mean, rtol=1e-9)
    expected = 1 / (variance + 1 / 12) - 1 / (silent + 1 / 12)
    assert np.allclose(precision, np.maximum(expected, 1e-6), rtol=1e-9)
    if classes == 9:
        assert np.allclose(precision[:, 2], 1e-6)  # a column that says nothing


@pytest.mark.parametrize("wedge, label", [(slice(0, 120), 8), (slice(880, 1000), 0)])
def test_long_columns_neither_underflow_nor_lose_the_retina(wedge, label):
    rows = 700.0 + 10 * np.arange(8)[:, None]
    labels = layer_labels(rows, 1000)
    labels[wedge] = label  # saturated, and taken for what is at the other end
    mean, precision = ordered_rows(one_hot(labels))
    assert np.allclose(mean, rows - 0.5, atol=0.01)
    assert (precision > 5).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 30])
def test_smoother_equals_the_normal_equations(n):
    rng = np.random.default_rng(n)
    values = rng.random(n)
    weight = rng.random(n) + 0.1
    second = np.diff(np.eye(n), 2, axis=0)
    expected = np.linalg.solve(np.diag(weight) + 7 * second.T @ second, weight * values)
    assert np.allclose(boundaries._whittaker(values, weight, 7.0), expected)


@pytest.mark.parametrize("seed, height, width", [(0, 496, 768), (1, 496, 768), (2, 331, 257)])
def test_rows_of_a_phantom_without_noise(seed, height, width):
    rows = phantom_bscan(seed, height, width, fluid=False).layers
    error = distance(one_hot(layer_labels(rows, height)), rows)
    assert error.max() <= 0.55 and error.mean() < 0.2  # rounding alone: up to 0.5, mean 0.25
    error = distance(shares(rows, height), rows)
    # the columns of a small scan are wide: more bent
    assert error.max() <= 0.5 and error.mean() < 0.06
    blurred = gaussian_filter(shares(rows, height), (0, 0.8, 0.8))
    error = distance(blurred, rows)
    assert error.max() <= 1.0 and error.mean() < 0.1


# ---- fluid ------------------------------------------------------------------------------------


def ellipse(x, centre, radius_x, radius_y):
    """Mask (160, 200) of an ellipse; its centre may be another row in every column."""
    y, columns = np.ogrid[:160, :200]
    return ((y - centre) / radius_y) ** 2 + ((columns - x) / radius_x) ** 2 < 1


def test_fluid_takes_the_layer_around_it():
    rows = slopes()
    labels = layer_labels(rows, 160)
    within = ellipse(60, rows[4, 60] + 6, 15, 4)  # ONL+IS
    assert set(labels[within]) == {5}
    wet = layer_labels(rows, 160, within.astype(np.uint8))
    assert distance(one_hot(wet, 10), rows).max() <= 0.55

    across = ellipse(140, rows[3, 140], 12, 11)  # INL, OPL
    assert set(labels[across]) == {3, 4}
    wet = layer_labels(rows, 160, (within | across).astype(np.uint8))
    error = distance(one_hot(wet, 10), rows)
    assert error[[0, 1, 2, 4, 5, 6, 7]].max() <= 0.7
    assert error[3].max() < 2.5  # led by the columns beside the cyst


def test_fluid_of_another_network_lies_within_the_retina():
    rows = slopes()
    labels = layer_labels(rows, 160)
    y = np.arange(160)[:, None]
    inside = np.zeros(labels.shape, bool)
    inside[:, 80:120] = True
    fluid = inside & (y > rows[1]) & (y < rows[4])
    # the cyst and the tissue above it, taken for vitreous
    labels[inside & (y < rows[4])] = 0
    p = one_hot(labels)
    # the surface falls to the floor of the cyst, 48 px below
    assert distance(p, rows)[0].max() > 40
    found = boundaries_from_probabilities(with_fluid(p, fluid.astype(np.float32)))
    assert (found[0] < rows[1] + 1).all()  # nor does it reach below the upper edge of the fluid
    error = np.abs(found - rows)
    assert error[5:].max() < 1
    assert error[:, :70].max() < 1


# ---- order, islands, gaps ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes, height, width", [(9, 33, 47), (10, 7, 5), (9, 1, 1), (10, 64, 2)]
)
def test_rows_are_ordered_whatever_the_probabilities(classes, height, width):
    rng = np.random.default_rng(height)
    for sharpness in (0.1, 1, 10, 100):
        logits = sharpness * rng.standard_normal((classes, height, width))
        p = torch.tensor(logits, dtype=torch.float32).softmax(0)
        found = boundaries_from_probabilities(p.numpy())
        assert found.shape == (8, width) and found.dtype == np.float32
        assert (np.diff(found, axis=0) >= 0).all()
        assert found.min() >= -0.5
        assert found.max() <= height - 0.5


def test_islands_far_away_are_left_aside():
    rows = slopes(bend=6)
    labels = layer_labels(rows, 200)
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:200, :200]
    for _ in range(20):
        away = rng.choice((rng.uniform(0, 25), rng.uniform(165, 200)))
        island = ((y - away) / 6) ** 2 + ((x - rng.uniform(0, 200)) / 12) ** 2 < 1
        labels[island] = rng.integers(9)
    assert distance(one_hot(labels), rows).max() <= 0.6


def test_columns_without_retina_are_left_aside():
    rows = slopes(bend=6)
    labels = layer_labels(rows, 200)
    labels[30:160, 100:104] = 8
    assert distance(one_hot(labels), rows).max() <= 1.0


def test_silent_columns_are_bridged_smoothly():
    rows = slopes(bend=6)
    p = shares(rows, 200)
    p[:, :, 70:100] = 1 / 9
    p[:, :, 150:152] = 1 / 9
    assert distance(p, rows).max() < 0.7
    straight = slopes()
    p = shares(straight, 200)
    p[:, :, 70:110] = 1 / 9
    assert distance(p, straight).max() < 0.1
    bends = np.diff(boundaries_from_probabilities(p), 2, axis=1)
    assert np.abs(bends).max() < 0.02


def test_a_dome_of_the_retina_is_no_outlier():
    x = np.arange(300)
    dome = 60 * np.exp(-0.5 * ((x - 150) / 12) ** 2)
    rows = 150.4 + 12 * np.arange(8)[:, None] - dome
    assert distance(shares(rows, 300), rows).max() < 0.3


def test_a_missing_layer_has_no_thickness():
    rows = slopes()
    rows[2] = rows[3] = (rows[2] + rows[3]) / 2
    found = boundaries_from_probabilities(shares(rows, 160))
    assert np.abs(found - rows).max() < 0.05
    assert (found[3] - found[2]).max() < 0.05


def test_rows_follow_shifts_and_mirrors():
    rng = np.random.default_rng(5)
    labels = layer_labels(slopes(61, bend=3), 150)
    noise = gaussian_filter(rng.standard_normal((9, 150, 61)), (0, 1, 2))
    p = torch.tensor(4 * one_hot(labels) + 3 * noise).softmax(0).numpy()
    rows = boundaries_from_probabilities(p)
    vitreous = np.zeros((9, 13, 61))
    vitreous[0] = 1
    lower = np.concatenate([vitreous, p], axis=1)
    assert np.allclose(boundaries_from_probabilities(lower), rows + 13, atol=0.02)
    mirrored = boundaries_from_probabilities(p[..., ::-1])
    assert np.allclose(mirrored, rows[:, ::-1], atol=1e-3)
    upside_down = boundaries_from_probabilities(p[::-1, ::-1])
    assert np.allclose(149 - upside_down[::-1], rows, atol=1e-3)


def test_precise_rows_hold_against_vague_ones():
    rows = np.tile([10.0, 12.0], (8, 20))
    precision = np.tile([12.0, 1e-4], (8, 20))
    assert np.abs(smooth_rows(rows, precision) - 10).max() < 0.01


@pytest.mark.parametrize(
    "p, message",
    [
        (np.ones((8, 4, 4)), r"shape \(8, 4, 4\), expected \(9 or 10 classes, height, width\)"),
        (np.ones((1, 9, 4, 4)), "expected"),
        (np.ones((9, 4, 0)), "expected"),
        (np.full((9, 4, 4), np.nan), "hold NaN or infinity"),
    ],
)
def test_bad_probabilities_are_refused(p, message):
    with pytest.raises(InputError, match=message):
        boundaries_from_probabilities(p)
