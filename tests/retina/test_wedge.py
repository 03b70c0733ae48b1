"""The saturated wedge: found where it touches top or bottom, filled dark."""

import numpy as np

from dme.retina.wedge import saturated_wedge, without_wedge


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
