"""Rows: labels by hand and on phantoms, repair, resizing, and where rows count from."""

import numpy as np
import pytest
from helpers.layers import shares
from PIL import Image
from scipy.ndimage import map_coordinates

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.retina.accuracy import boundary_errors_px
from dme.retina.boundaries import boundaries_from_probabilities
from dme.retina.rows import check_rows, layer_labels, repair_boundaries, scale_rows


def test_labels_by_hand():
    rows = np.array(
        [
            [0.5, 1, 1.5, 3, 3.001, 4, 5, 8],
            [0, 0, 0, 0, 0, 0, 0.2, 1],
            [1, 1, 1, 1, 1, np.nan, 2, 3],
        ]
    ).T
    labels = layer_labels(rows, 7)
    assert labels.dtype == np.uint8
    # the first pixel below a boundary at 0.5 is 1, at 3 it is 3 and at 3.001 it is 4
    assert labels[:, 0].tolist() == [0, 2, 3, 4, 6, 7, 7]
    assert labels[:, 1].tolist() == [6, 8, 8, 8, 8, 8, 8]
    assert (labels[:, 2] == 255).all()

    fluid = np.zeros((7, 3), np.uint8)
    fluid[2:4] = 1
    fluid[5, 0] = 255
    wet = layer_labels(rows, 7, fluid)
    assert wet[:, 0].tolist() == [0, 2, 9, 9, 6, 255, 7]
    assert (wet[:, 2] == 255).all()


def test_labels_are_unbiased_on_the_phantom():
    scan = phantom_bscan(3, 123, 201, fluid=False)
    labels = layer_labels(scan.layers, 123)
    pixels_above = np.stack([(labels < k).sum(0) for k in range(1, 9)])
    assert (np.diff(labels.astype(int), axis=0) >= 0).all()
    error = pixels_above - 0.5 - scan.layers
    assert np.abs(error).max() <= 0.5
    assert abs(error.mean()) < 0.02


def test_rows_of_another_shape_are_refused():
    expected = r"boundaries have shape \(7, 5\), expected \(8, width\), rows from ILM to"
    with pytest.raises(InputError, match=expected):
        layer_labels(np.zeros((7, 5)), 9)
    with pytest.raises(InputError, match=r"boundaries have shape \(8,\)"):
        layer_labels(np.zeros(8), 9)
    with pytest.raises(InputError, match=r"shape \(8, 5\), expected \(8, 6\)"):
        check_rows(np.zeros((8, 5)), 6)
    with pytest.raises(InputError, match=r"expected \(8, 6\)"):
        boundary_errors_px(np.zeros((8, 5)), np.zeros((8, 6)))


def test_bad_labels_are_refused():
    with pytest.raises(InputError, match=r"fluid mask is \(9, 6\), expected \(9, 5\)"):
        layer_labels(np.zeros((8, 5)), 9, np.zeros((9, 6)))
    crossing = np.arange(40.0).reshape(8, 5)[[0, 1, 3, 2, 4, 5, 6, 7]]
    with pytest.raises(InputError, match="INL/OPL lies 5.00 px above an upper"):
        layer_labels(crossing, 9)


def test_repair_moves_only_what_crosses():
    rows = np.array([[1.0, 1, 5, 1], [2, 4, 3, np.nan], [3, 3, 4, 0.5]])
    repaired, crossing = repair_boundaries(rows)
    np.testing.assert_array_equal(crossing, [[0, 0, 0, 0], [0, 0, 2, 0], [0, 1, 1, 0.5]])
    expected = [[1, 1, 4, 0.75], [2, 3.5, 4, np.nan], [3, 3.5, 4.5, 0.75]]
    np.testing.assert_array_equal(repaired, expected)
    assert repaired.dtype == np.float32


def test_resized_rows_by_hand():
    rows = np.tile(10.0 * np.arange(8)[:, None], (1, 5)) + np.arange(5)
    rows[:, 4] = np.nan
    same_width = scale_rows(rows, (100, 5), (50, 5))
    assert same_width.dtype == np.float32
    np.testing.assert_array_equal(same_width, ((rows + 0.5) / 2 - 0.5).astype(np.float32))
    narrower = scale_rows(rows, (100, 5), (100, 2))  # columns 0 to 2 and 2 to 4
    assert narrower[:, 0].tolist() == (10 * np.arange(8) + 1).tolist()
    assert np.isnan(narrower[:, 1]).all()
    wider = scale_rows(rows[:, :2], (100, 2), (100, 4))
    assert wider[3].tolist() == [30, 30, 31, 31]


# ---- where rows count from --------------------------------------------------------------------


def steepest_rise(scans, boundary):
    """Offset, in px, of the steepest mean brightening from the rows of a boundary."""
    offsets = np.arange(-4, 4.01, 0.25)
    profiles = []
    for image, rows in scans:
        lines = rows[boundary][:, None] + offsets
        columns = np.broadcast_to(np.arange(rows.shape[1])[:, None], lines.shape)
        grey = map_coordinates(image.astype(np.float64), [lines, columns], order=1)
        profiles.append(grey.mean(0))
    rise = np.gradient(np.mean(profiles, axis=0)).clip(0) ** 2
    return (rise * offsets).sum() / rise.sum()


def test_rows_of_the_phantom_count_from_0():
    scans = []
    for seed in range(3):
        scan = phantom_bscan(seed, fluid=False)
        scans.append((scan.image, scan.layers))
    for boundary in (0, 5):
        assert abs(steepest_rise(scans, boundary)) < 0.5


def test_rows_of_the_real_set_count_from_1(real_data):
    folder = real_data / "octlayers"
    scans = []
    for file in sorted((folder / "boundaries").glob("*.npy"))[::7]:
        image = np.asarray(Image.open(folder / "images" / f"{file.stem}.png"))
        rows, _ = repair_boundaries(np.load(file))
        scans.append((image, rows))
    for boundary in (0, 5):
        assert -1.3 < steepest_rise(scans, boundary) < -0.6
    image, rows = scans[0]
    refound = boundaries_from_probabilities(shares(rows, len(image)))
    assert np.abs(refound - rows).mean() < 0.05
