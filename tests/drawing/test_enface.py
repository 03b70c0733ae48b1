"""En-face maps: colours, orientation, circles."""

import numpy as np

from dme.drawing.enface import COLOURS, UNKNOWN, Place, map_picture


def test_map_colours_and_orientation():
    values = np.zeros((10, 40))
    values[9, :20] = 30.0  # last B-scan: superior, at the top; left
    values[0, 39] = 15.0
    values[5] = np.nan
    found = map_picture(values, "v", "fluid (um)", Place((100.0, 400.0)))
    at = np.argwhere((found == COLOURS[-1]).all(2) & (np.arange(found.shape[1]) < 500))
    assert len(at) and at[:, 1].max() < 28 + 640 / 2 + 2
    unknown = np.argwhere((found[:700, :668] == UNKNOWN).all(2))
    assert at[:, 0].max() < unknown[:, 0].min()
    half = np.argwhere((found[:, :668] == COLOURS[2]).all(2))  # 15 of 30: the middle of the scale
    assert half[:, 0].min() > unknown[:, 0].max() and half[:, 1].min() >= 28 + 640 * 39 / 40 - 1
    assert (found[unknown[:, 0].max() + 5, 40:600] == 0).all()  # no fluid is black


def test_map_has_circles_of_the_right_size():
    values = np.zeros((61, 768))
    scale_um = (11.33, 123.0)
    plain = map_picture(values, "v", "um", Place(scale_um))
    found = map_picture(values, "v", "um", Place(scale_um, centre=(383.5, 30)))
    height = round(640 * 61 * 123 / (768 * 11.33))
    row = 64 + height // 2
    changed = np.flatnonzero((found[row] != plain[row]).any(1))
    radii_px = np.unique(np.round(np.abs(changed - (28 + 319.5)) / 640 * 768 * 11.33 / 500))
    np.testing.assert_array_equal(radii_px, [1, 3, 6])  # 0.5, 1.5 and 3 mm


def test_colours_of_a_map_start_where_told():
    values = np.tile(np.array([200.0, 300.0, 400.0, 0.0])[:, None], (1, 4)) + 0
    found = map_picture(values, "v", "um", lowest=200.0)[64:-62, 40:640]
    last_first = [found[len(found) * (2 * k + 1) // 8, 300] for k in range(4)]
    expected = [(0, 0, 0), COLOURS[4], COLOURS[2], COLOURS[0]]  # nothing at all stays black
    np.testing.assert_array_equal(last_first, expected)
    even = map_picture(np.full((3, 4), 250.0), "v", "um", lowest=250.0)
    assert (even[100, 300] == COLOURS[0]).all()
