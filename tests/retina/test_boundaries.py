"""Layers: labels and rows against brute force, hand-computed values and phantoms; what is refused."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.metrics import scores
from dme.retina import boundaries
from dme.retina.accuracy import (
    boundary_errors_px,
    layer_confusion,
    over_scans,
    thickness_errors_um,
)
from dme.retina.boundaries import (
    boundaries_from_probabilities,
    ordered_rows,
    smooth_rows,
    with_fluid,
)
from dme.retina.fluid import fluid_per_layer
from dme.retina.rows import (
    BOUNDARIES,
    CLASSES,
    THICKNESSES,
    check_rows,
    layer_labels,
    repair_boundaries,
)
from dme.retina.thickness import thickness_um


def one_hot(labels, classes=9):
    return np.eye(classes, dtype=np.float32)[labels].transpose(2, 0, 1)


def shares(rows, height):
    """Share of every pixel that lies in each class: what a perfect network sees at its resolution."""
    top = np.arange(height)[:, None] - 0.5
    above = np.clip(rows[:, None] - top, 0, 1)  # (8, H, W)
    ends = [np.zeros((1, *above.shape[1:])), above, np.ones((1, *above.shape[1:]))]
    return np.diff(np.concatenate(ends), axis=0).astype(np.float32)


def slopes(width=200, bend=0.0):
    """Eight curves, 12 px apart."""
    x = np.arange(width)
    return 40.3 + 12 * np.arange(8)[:, None] + 0.1 * x + bend * np.sin(x / 30)


# ---- labels -----------------------------------------------------------------------------------------------


def test_labels_by_hand():
    rows = np.array(
        [[0.5, 1, 1.5, 3, 3.001, 4, 5, 8], [0] * 6 + [0.2, 1], [1] * 5 + [np.nan, 2, 3]]
    ).T
    found = layer_labels(rows, 7)
    assert found.dtype == np.uint8
    # the first pixel below a boundary at 0.5 is 1, at 3 it is 3 and at 3.001 it is 4
    assert found[:, 0].tolist() == [0, 2, 3, 4, 6, 7, 7]
    assert found[:, 1].tolist() == [6, 8, 8, 8, 8, 8, 8]
    assert (found[:, 2] == 255).all()
    fluid = np.zeros((7, 3), np.uint8)
    fluid[2:4], fluid[5, 0] = 1, 255
    assert layer_labels(rows, 7, fluid)[:, 0].tolist() == [0, 2, 9, 9, 6, 255, 7]
    assert (layer_labels(rows, 7, fluid)[:, 2] == 255).all()


def test_labels_are_unbiased_on_the_phantom():
    scan = phantom_bscan(3, 123, 201, fluid=False)
    labels = layer_labels(scan.layers, 123)
    pixels_above = np.stack([(labels < k).sum(0) for k in range(1, 9)])
    assert (np.diff(labels.astype(int), axis=0) >= 0).all()
    error = pixels_above - 0.5 - scan.layers
    assert np.abs(error).max() <= 0.5 and abs(error.mean()) < 0.02


@pytest.mark.parametrize(
    ("rows", "fluid", "message"),
    [
        (
            np.zeros((7, 5)),
            None,
            r"boundaries have shape \(7, 5\), expected \(8, width\), rows from ILM to",
        ),
        (np.zeros(8), None, r"boundaries have shape \(8,\)"),
        (np.zeros((8, 5)), np.zeros((9, 6)), r"fluid mask is \(9, 6\), expected \(9, 5\)"),
        (
            np.arange(40.0).reshape(8, 5)[[0, 1, 3, 2, 4, 5, 6, 7]],
            None,
            "INL/OPL lies 5.00 px above an upper",
        ),
    ],
)
def test_bad_labels_are_refused(rows, fluid, message):
    with pytest.raises(InputError, match=message):
        layer_labels(rows, 9, fluid)


def test_rows_of_another_width_are_refused():
    with pytest.raises(InputError, match=r"shape \(8, 5\), expected \(8, 6\)"):
        check_rows(np.zeros((8, 5)), 6)
    with pytest.raises(InputError, match=r"expected \(8, 6\)"):
        boundary_errors_px(np.zeros((8, 5)), np.zeros((8, 6)))


# ---- from probabilities to rows ---------------------------------------------------------------------------


def over_all_labellings(p):
    """Mean and variance of the rows over every ordered labelling of each column, one by one."""
    tissue = p[:9] * (1 - 9 * boundaries.DOUBT) + boundaries.DOUBT
    if len(p) == 10:
        tissue[1:8] += p[9] / 7 * (1 - 9 * boundaries.DOUBT)
    rows, weights = [], []
    for labelling in itertools.combinations_with_replacement(range(9), p.shape[1]):
        rows.append([sum(label <= k for label in labelling) - 0.5 for k in range(8)])
        weights.append(np.prod([tissue[label, y] for y, label in enumerate(labelling)], axis=0))
    rows, weights = np.array(rows), np.array(weights) / np.sum(weights, axis=0)  # (n, 8), (n, W)
    mean = rows.T @ weights
    return mean, (rows.T**2) @ weights - mean**2


@pytest.mark.parametrize("classes", [9, 10])
def test_rows_are_the_mean_over_all_ordered_labellings(classes):
    p = np.random.default_rng(classes).random((classes, 5, 3)) ** 4
    p /= p.sum(0)
    p[:, :, 2] = 1 / classes
    mean, variance = over_all_labellings(p)
    silent = over_all_labellings(np.full((9, 5, 1), 1 / 9))[1]
    rows, precision = ordered_rows(p)
    assert np.allclose(rows, mean, rtol=1e-9)
    expected = 1 / (variance + 1 / 12) - 1 / (silent + 1 / 12)
    assert np.allclose(precision, np.maximum(expected, 1e-6), rtol=1e-9)
    if classes == 9:
        assert np.allclose(precision[:, 2], 1e-6)  # a column that says nothing


@pytest.mark.parametrize("wedge", [(slice(0, 120), 8), (slice(880, 1000), 0)])
def test_long_columns_neither_underflow_nor_lose_the_retina(wedge):
    rows = np.array([[700.0 + 10 * k] for k in range(8)])
    labels = layer_labels(rows, 1000)
    labels[wedge[0]] = wedge[1]  # saturated, and taken for what is at the other end
    mean, precision = ordered_rows(one_hot(labels))
    assert np.allclose(mean, rows - 0.5, atol=0.01) and (precision > 5).all()


def test_smoother_equals_the_normal_equations():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4, 30):
        values, weight = rng.random(n), rng.random(n) + 0.1
        second = np.diff(np.eye(n), 2, axis=0)
        expected = np.linalg.solve(np.diag(weight) + 7 * second.T @ second, weight * values)
        assert np.allclose(boundaries._whittaker(values, weight, 7.0), expected)


@pytest.mark.parametrize(
    ("seed", "height", "width"), [(0, 496, 768), (1, 496, 768), (2, 331, 257)]
)
def test_rows_of_a_phantom_without_noise(seed, height, width):
    rows = phantom_bscan(seed, height, width, fluid=False).layers
    error = np.abs(boundaries_from_probabilities(one_hot(layer_labels(rows, height))) - rows)
    assert error.max() <= 0.55 and error.mean() < 0.2  # rounding alone: up to 0.5, mean 0.25
    error = np.abs(boundaries_from_probabilities(shares(rows, height)) - rows)
    assert (
        error.max() <= 0.5 and error.mean() < 0.06
    )  # the columns of a small scan are wide: more bent
    blurred = gaussian_filter(shares(rows, height), (0, 0.8, 0.8))
    error = np.abs(boundaries_from_probabilities(blurred) - rows)
    assert error.max() <= 1.0 and error.mean() < 0.1


def test_fluid_takes_the_layer_around_it():
    rows = slopes()
    labels = layer_labels(rows, 160)
    cysts = np.zeros(labels.shape, np.uint8)
    y, x = np.ogrid[:160, :200]
    cysts[((y - rows[4, 60] - 6) / 4.0) ** 2 + ((x - 60) / 15) ** 2 < 1] = 1  # within ONL+IS
    assert set(labels[cysts == 1]) == {5}
    found = boundaries_from_probabilities(one_hot(layer_labels(rows, 160, cysts), 10))
    assert np.abs(found - rows).max() <= 0.55
    cysts[((y - rows[3, 140]) / 11) ** 2 + ((x - 140) / 12) ** 2 < 1] = 1  # across INL, OPL
    assert set(labels[:, 120:][cysts[:, 120:] == 1]) == {3, 4}
    found = boundaries_from_probabilities(one_hot(layer_labels(rows, 160, cysts), 10))
    assert np.abs(found - rows)[[0, 1, 2, 4, 5, 6, 7]].max() <= 0.7
    assert np.abs(found - rows)[3].max() < 2.5  # led by the columns beside the cyst


def test_fluid_of_another_network_lies_within_the_retina():
    rows = slopes()
    labels = layer_labels(rows, 160)
    y, columns = np.arange(160)[:, None], slice(80, 120)
    fluid = np.zeros(labels.shape, np.float32)
    fluid[:, columns] = ((y > rows[1]) & (y < rows[4]))[:, columns]
    labels[:, columns][(y < rows[4])[:, columns]] = (
        0  # the cyst and the tissue above it, taken for vitreous
    )
    seen = torch.from_numpy(one_hot(labels))
    alone = boundaries_from_probabilities(seen)
    found = boundaries_from_probabilities(with_fluid(seen, torch.from_numpy(fluid)))
    assert (
        np.abs(alone - rows)[0].max() > 40
    )  # the surface falls to the floor of the cyst, 48 px below
    assert (found[0] < rows[1] + 1).all()  # nor does it reach below the upper edge of the fluid
    assert np.abs(found - rows)[5:].max() < 1 and np.abs(found - rows)[:, :70].max() < 1


@pytest.mark.parametrize(
    ("classes", "height", "width"), [(9, 33, 47), (10, 7, 5), (9, 1, 1), (10, 64, 2)]
)
def test_rows_are_ordered_whatever_the_probabilities(classes, height, width):
    rng = np.random.default_rng(height)
    for sharpness in (0.1, 1, 10, 100):
        logits = sharpness * rng.standard_normal((classes, height, width))
        found = boundaries_from_probabilities(torch.tensor(logits, dtype=torch.float32).softmax(0))
        assert found.shape == (8, width) and found.dtype == np.float32
        assert (np.diff(found, axis=0) >= 0).all()
        assert found.min() >= -0.5 and found.max() <= height - 0.5


def test_islands_far_and_near_are_left_aside():
    rows = slopes(bend=6)
    rng, labels = np.random.default_rng(0), layer_labels(rows, 200)
    y, x = np.ogrid[:200, :200]
    for _ in range(20):
        away = rng.choice((rng.uniform(0, 25), rng.uniform(165, 200)))
        island = ((y - away) / 6) ** 2 + ((x - rng.uniform(0, 200)) / 12) ** 2 < 1
        labels[island] = rng.integers(9)
    assert np.abs(boundaries_from_probabilities(one_hot(labels)) - rows).max() <= 0.6
    labels = layer_labels(rows, 200)
    labels[30:160, 100:104] = 8  # four columns with no retina at all
    assert np.abs(boundaries_from_probabilities(one_hot(labels)) - rows).max() <= 1.0


def test_silent_columns_are_bridged_smoothly():
    rows = slopes(bend=6)
    p = shares(rows, 200)
    p[:, :, 70:100] = 1 / 9
    p[:, :, 150:152] = 1 / 9
    assert np.abs(boundaries_from_probabilities(p) - rows).max() < 0.7
    straight = slopes()
    p = shares(straight, 200)
    p[:, :, 70:110] = 1 / 9
    assert np.abs(boundaries_from_probabilities(p) - straight).max() < 0.1
    assert np.abs(np.diff(boundaries_from_probabilities(p), 2, axis=1)).max() < 0.02


def test_a_dome_of_the_retina_is_no_outlier():
    x = np.arange(300)
    rows = 150.4 + 12 * np.arange(8)[:, None] - 60 * np.exp(-0.5 * ((x - 150) / 12) ** 2)
    assert np.abs(boundaries_from_probabilities(shares(rows, 300)) - rows).max() < 0.3


def test_a_missing_layer_has_no_thickness():
    rows = slopes()
    rows[2] = rows[3] = (rows[2] + rows[3]) / 2
    found = boundaries_from_probabilities(shares(rows, 160))
    assert np.abs(found - rows).max() < 0.05 and (found[3] - found[2]).max() < 0.05


def test_rows_follow_shifts_and_mirrors():
    rng = np.random.default_rng(5)
    labels = layer_labels(slopes(61, bend=3), 150)
    logits = (
        4 * one_hot(labels) + gaussian_filter(rng.standard_normal((9, 150, 61)), (0, 1, 2)) * 3
    )
    p = torch.tensor(logits).softmax(0).numpy()
    found = boundaries_from_probabilities(p)
    lower = np.concatenate([np.tile(one_hot(np.zeros((1, 61), int)), (1, 13, 1)), p], axis=1)
    assert np.allclose(boundaries_from_probabilities(lower), found + 13, atol=0.02)
    assert np.allclose(boundaries_from_probabilities(p[..., ::-1]), found[:, ::-1], atol=1e-3)
    upside_down = boundaries_from_probabilities(p[::-1, ::-1])
    assert np.allclose(149 - upside_down[::-1], found, atol=1e-3)


def test_precise_rows_hold_against_vague_ones():
    rows = np.tile(np.array([10.0, 12.0] * 20), (8, 1))
    precision = np.tile(np.array([12.0, 1e-4] * 20), (8, 1))
    assert np.abs(smooth_rows(rows, precision) - 10).max() < 0.01


@pytest.mark.parametrize(
    ("p", "message"),
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


# ---- measures ---------------------------------------------------------------------------------------------


def test_boundary_errors_by_hand():
    truth = np.tile(10.0 * np.arange(8)[:, None], (1, 4))
    predicted = truth.copy()
    predicted[0] += [1, -1, 0, 2]
    predicted[3] += 0.5
    truth[0, 3] = truth[7] = np.nan
    found = boundary_errors_px(predicted, truth)
    assert found[:8].tolist() == pytest.approx([2 / 3, 0, 0, 0.5, 0, 0, 0, np.nan], nan_ok=True)
    assert found[8] == pytest.approx((2 / 3 + 0.5) / 7)
    assert np.isnan(boundary_errors_px(predicted, np.full((8, 4), np.nan))).all()


def test_thickness_by_hand():
    truth = np.tile(np.array([0, 1, 3, 6, 10, 15, 21, 28.0])[:, None], (1, 2))
    found = thickness_um(truth, 4.0)
    assert len(found) == len(THICKNESSES) and found[:, 0].tolist() == [
        4,
        8,
        12,
        16,
        20,
        24,
        28,
        112,
    ]
    predicted = truth.copy()
    predicted[1] += [0.5, -0.5]
    predicted[7] += 2
    absolute, bias = thickness_errors_um(predicted, truth, 4.0)
    assert absolute.tolist() == [2, 2, 0, 0, 0, 0, 8, 8] and bias.tolist() == [
        0,
        0,
        0,
        0,
        0,
        0,
        8,
        8,
    ]
    truth[0, 1] = np.nan
    absolute, bias = thickness_errors_um(predicted, truth, 4.0)
    assert bias.tolist() == [2, 0, 0, 0, 0, 0, 8, 8]
    with pytest.raises(InputError, match="needs the axial scale"):
        thickness_um(truth, None)


def test_layer_dice_by_hand():
    truth = np.tile(2.0 * np.arange(1, 9)[:, None], (1, 10))  # layers of 2 px from pixel 2 on
    predicted = truth.copy()
    predicted[0] -= 1  # NFL 3 px
    truth[4, 7:] = np.nan
    cm = layer_confusion(predicted, truth, 20)
    assert cm.shape == (9, 9) and cm.sum() == 20 * 7
    assert scores(cm)["dice"][:3].tolist() == pytest.approx(
        [2 * 7 / (14 + 7), 2 * 14 / (21 + 14), 1]
    )
    with pytest.raises(InputError, match="expected"):
        layer_confusion(predicted, truth[:, :9], 20)


def test_fluid_per_layer_by_hand():
    rows = np.tile(2.0 * np.arange(1, 9)[:, None], (1, 3))
    rows[2, 2] = np.nan
    fluid = np.zeros((20, 3), np.uint8)
    fluid[1:7], fluid[19, 0], fluid[18] = 1, 1, 255
    found = fluid_per_layer(rows, fluid)
    assert dict(zip(CLASSES, found.tolist(), strict=True)) == {
        "above retina": 2, "NFL": 4, "GCL+IPL": 4, "INL": 2, "OPL": 0, "ONL+IS": 0, "OS": 0, "RPE": 0,
        "below retina": 1,
    }  # fmt: skip


def test_mean_and_sd_over_scans():
    values = np.array([[1.0, 5.0, np.nan], [3.0, np.nan, np.nan]])
    assert over_scans(values, ["a", "b", "c"]) == [
        {"name": "a", "scans": 2, "mean": 2.0, "sd": pytest.approx(2**0.5)},
        {"name": "b", "scans": 1, "mean": 5.0, "sd": None},
        {"name": "c", "scans": 0, "mean": None, "sd": None},
    ]
    assert len(over_scans(np.zeros((2, 9)), (*BOUNDARIES, "all"))) == 9


# ---- where rows count from --------------------------------------------------------------------------------


def steepest_rise(scans, boundary):
    """Offset, in px, of the centre of the steepest mean brightening from the rows of a boundary."""
    offsets = np.arange(-4, 4.01, 0.25)
    profiles = []
    for image, rows in scans:
        at = rows[boundary][:, None] + offsets
        columns = np.broadcast_to(np.arange(rows.shape[1])[:, None], at.shape)
        profiles.append(map_coordinates(image.astype(np.float64), [at, columns], order=1).mean(0))
    rise = np.gradient(np.mean(profiles, axis=0)).clip(0) ** 2
    return (rise * offsets).sum() / rise.sum()


def test_rows_of_the_phantom_count_from_0():
    scans = [
        (scan.image, scan.layers) for scan in (phantom_bscan(i, fluid=False) for i in range(3))
    ]
    for boundary in (0, 5):
        assert abs(steepest_rise(scans, boundary)) < 0.5


def test_rows_of_the_real_set_count_from_1(real_data):
    folder, scans = real_data / "octlayers", []
    for file in sorted((folder / "boundaries").glob("*.npy"))[::7]:
        image = np.asarray(Image.open(folder / "images" / f"{file.stem}.png"))
        scans.append((image, repair_boundaries(np.load(file))[0]))
    for boundary in (0, 5):
        assert -1.3 < steepest_rise(scans, boundary) < -0.6
    image, rows = scans[0]
    assert np.abs(boundaries_from_probabilities(shares(rows, len(image))) - rows).mean() < 0.05
