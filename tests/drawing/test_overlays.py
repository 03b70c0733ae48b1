"""A mask on its scan: which pixels are coloured, and the legend below."""

import numpy as np
from helpers.pixels import in_three_channels, is_colour

from dme.drawing.overlays import CYAN, GREEN, RED, STRIP, overlay, scan_overlay


def test_overlay_colours_the_mask_only():
    image = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9) * 3
    before = image.copy()
    mask = np.zeros((7, 9), np.uint8)
    mask[1:6, 2:7] = 1
    mask[0, 0] = 255  # unknown
    mask[6, 8] = 2
    inner = np.zeros((7, 9), bool)
    inner[2:5, 3:6] = True
    contour = (mask == 1) & ~inner

    picture = overlay(image, mask, GREEN)
    grey = in_three_channels(image)
    tinted = (0.75 * grey + 0.25 * np.array(GREEN)).round()
    assert (picture[contour] == GREEN).all()
    assert np.array_equal(picture[inner], tinted[inner])
    assert np.array_equal(picture[mask != 1], grey[mask != 1])
    assert np.array_equal(image, before)


def test_overlay_on_colour_and_at_the_border():
    image = np.full((4, 4, 3), (10, 20, 30), np.uint8)
    everywhere = overlay(image, np.ones((4, 4)), tint=0)
    nowhere = overlay(image, np.zeros((4, 4)))
    assert (everywhere[0] == RED).all()
    assert (everywhere[:, -1] == RED).all()
    assert np.array_equal(everywhere[1:3, 1:3], image[1:3, 1:3])
    assert np.array_equal(nowhere, image)


def test_overlay_keeps_the_scan_and_adds_a_legend():
    image = np.random.default_rng(0).integers(0, 200, (300, 400)).astype(np.uint8)
    mask = np.zeros_like(image)
    mask[100:120, 50:90] = 1
    picture = scan_overlay(image, mask, "fluid: 0.1 mm2")
    assert picture.shape == (300 + STRIP, 400, 3)
    scan = picture[:300]
    legend = picture[300:]

    outside = mask == 0
    expected = in_three_channels(image)
    np.testing.assert_array_equal(scan[outside], expected[outside])
    contour = is_colour(scan, CYAN)
    assert contour.sum() == 2 * 20 + 2 * 40 - 4
    assert contour[100, 50:90].all()
    assert not contour[105, 60]

    assert is_colour(legend, CYAN).any()
    assert is_colour(legend[:, 36:], (255, 255, 255)).any()
    assert (legend[0] == 0).all()


def test_small_scans_are_enlarged_and_the_legend_always_fits():
    image = np.full((20, 50), 90, np.uint8)
    mask = np.zeros_like(image)
    mask[5, 10] = 1
    legend = "a legend that is much longer than the scan is wide, by far " * 2
    picture = scan_overlay(image, mask, legend)
    height, width, _ = picture.shape
    assert height == 20 * 7 + STRIP
    assert width > 50 * 7
    assert is_colour(picture[35:42, 70:77], CYAN).any()
    assert (picture[0, : 50 * 7] == 90).all()
    assert picture[-STRIP:, -8:].max() == 0  # the text ends before the border

    pixel = scan_overlay(image[:1, :1], mask[:1, :1], "x")
    assert len(pixel) == 8 + STRIP
