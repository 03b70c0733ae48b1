"""The saturated wedge: found where it touches top or bottom, filled dark."""

import numpy as np
from scipy.ndimage import gaussian_filter

from dme.retina.wedge import (
    any_wedge,
    columns_with_data,
    empty_lines,
    mirrored_ends,
    saturated_wedge,
    without_wedge,
)


def test_it_touches_top_or_bottom():
    expected = np.zeros((5, 7), bool)
    expected[0, :3] = expected[1, :2] = True  # above
    expected[4, 5:] = True  # and below
    image = np.where(expected, 255, 0).astype(np.uint8)
    image[2, 4] = 255  # an isolated bright spot
    image[0, 5] = 254  # nearly saturated
    wedge = saturated_wedge(image)
    assert wedge.dtype == bool
    np.testing.assert_array_equal(wedge, expected)
    assert not saturated_wedge(np.full((3, 3), 254, np.uint8)).any()


def test_what_touches_it_at_a_corner_is_no_part_of_it():
    image = np.zeros((5, 5), np.uint8)
    image[0, :2] = 255
    image[1, 2] = image[2, 3] = 255  # a diagonal from its corner
    image[4, 4] = 255
    image[3, 3] = 255
    expected = np.zeros((5, 5), bool)
    expected[0, :2] = expected[4, 4] = True
    np.testing.assert_array_equal(saturated_wedge(image), expected)


def test_without_it_the_image_is_as_dark_there_as_the_lower_quartile():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert without_wedge(image) is image
    image[0] = 255
    filled = without_wedge(image)
    assert filled.dtype == np.uint8
    assert (filled[0] == 8).all()
    assert (filled[1:] == image[1:]).all()
    white = np.full((3, 3), 255, np.uint8)
    assert (without_wedge(white) == white).all()  # there is nothing else


def with_ends(left: int, right: int, width=20) -> np.ndarray:
    """Rows 0, 1, ... times the column, without data at both ends, and a wedge."""
    image = np.outer(np.arange(8), np.arange(1, width + 1)).astype(np.uint8)
    image[:, :left] = 0
    image[:, width - right :] = 0
    image[:2, width // 2 :] = 255
    return image


def test_columns_without_data():
    expected = np.ones(20, bool)
    expected[:3] = expected[-2:] = False
    np.testing.assert_array_equal(columns_with_data(with_ends(3, 2)), expected)
    # nothing but wedge, black, and any one grey are no data
    assert not columns_with_data(np.full((4, 5), 255, np.uint8)).any()
    assert not columns_with_data(np.zeros((4, 5), np.uint8)).any()
    assert not columns_with_data(np.full((4, 5), 77, np.uint8)).any()


def test_ends_are_mirrored():
    image = with_ends(3, 2)
    filled = mirrored_ends(image)
    np.testing.assert_array_equal(filled[:, 3:18], image[:, 3:18])
    np.testing.assert_array_equal(filled[:, :3], image[:, [6, 5, 4]])
    np.testing.assert_array_equal(filled[:, 18:], image[:, [16, 15]])
    whole = with_ends(0, 0)
    np.testing.assert_array_equal(mirrored_ends(whole), whole)
    black = np.zeros((4, 5), np.uint8)
    np.testing.assert_array_equal(mirrored_ends(black), black)
    # fewer columns than are missing
    few = with_ends(15, 2)
    np.testing.assert_array_equal(mirrored_ends(few)[:, 0], few[:, 15])


def noisy_scan(top: int = 102) -> tuple[np.ndarray, np.ndarray]:
    """A dark scan with a wedge of grey value `top`, and where that is."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (120, 160)).astype(np.uint8)
    image[60:70] = rng.integers(60, 90, (10, 160))
    wedge = np.zeros(image.shape, bool)
    for row in range(30):
        wedge[row, : 100 - 2 * row] = True
    image[wedge] = top
    return image, wedge


def test_wedges_of_any_grey_value():
    image, wedge = noisy_scan()
    found = any_wedge(image)
    assert found[wedge].all()
    assert found[~wedge].mean() < 0.03
    assert not empty_lines(image).any()


def test_wedges_with_speckle_blur_or_a_shift():
    image, wedge = noisy_scan(255)
    rng = np.random.default_rng(1)
    speckled = (image * (1 + 0.4 * rng.standard_normal(image.shape))).clip(0, 255)
    shifted = np.vstack([np.zeros((12, 160)), image[:-12]])
    truth = {"speckle": (speckled, wedge), "blur": (gaussian_filter(image * 1.0, 2), wedge)}
    truth["shift"] = (shifted, np.vstack([np.zeros((12, 160), bool), wedge[:-12]]))
    for name, (pixels, expected) in truth.items():
        found = any_wedge(pixels.astype(np.uint8))
        assert found[expected].mean() > 0.93, name
        assert found[~expected].mean() < 0.06, name
    assert empty_lines(shifted.astype(np.uint8))[:12].all()


def test_a_dark_scan_without_a_frame_has_no_wedge():
    rng = np.random.default_rng(1)
    image = (rng.random((120, 160)) < 0.3).astype(np.uint8) * 90
    assert any_wedge(image).mean() < 0.01
    image[:, 150:] = 0
    assert empty_lines(image)[:, 150:].all()
    assert any_wedge(np.full((60, 80), 7, np.uint8)).all()
    assert not any_wedge(np.zeros((60, 80), np.uint8)).any()
