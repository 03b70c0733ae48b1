"""A mask on its scan: which pixels are coloured, and the legend below."""

import numpy as np

from dme.drawing.overlays import CYAN, GREEN, RED, STRIP, overlay, scan_overlay


def test_overlay_colours_the_mask_only():
    image = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9) * 3
    mask = np.zeros((7, 9), np.uint8)
    mask[1:6, 2:7] = 1
    mask[0, 0] = 255  # unknown
    mask[6, 8] = 2
    found = overlay(image, mask, GREEN)
    grey = np.repeat(image[..., None], 3, axis=2)
    inner = np.zeros((7, 9), bool)
    inner[2:5, 3:6] = True
    assert (found[(mask == 1) & ~inner] == GREEN).all()  # the contour
    assert np.array_equal(found[mask != 1], grey[mask != 1])
    expected = (0.75 * grey[inner] + 0.25 * np.array(GREEN)).round()
    assert np.array_equal(found[inner], expected)
    assert np.array_equal(image, np.arange(7 * 9).reshape(7, 9) * 3)


def test_overlay_on_colour_and_at_the_border():
    image = np.full((4, 4, 3), (10, 20, 30), np.uint8)
    everywhere = overlay(image, np.ones((4, 4)), tint=0)
    assert (everywhere[0] == RED).all() and (everywhere[:, -1] == RED).all()
    assert np.array_equal(everywhere[1:3, 1:3], image[1:3, 1:3])
    assert np.array_equal(overlay(image, np.zeros((4, 4))), image)


def test_overlay_keeps_the_scan_and_adds_a_legend():
    image = np.random.default_rng(0).integers(0, 200, (300, 400)).astype(np.uint8)
    mask = np.zeros_like(image)
    mask[100:120, 50:90] = 1
    found = scan_overlay(image, mask, "fluid: 0.1 mm2")
    assert found.shape == (300 + STRIP, 400, 3)
    outside = mask == 0
    np.testing.assert_array_equal(found[:300][outside], np.repeat(image[outside][:, None], 3, 1))
    contour = (found[:300] == CYAN).all(2)
    assert (
        contour.sum() == 2 * 20 + 2 * 40 - 4 and contour[100, 50:90].all() and not contour[105, 60]
    )
    legend = found[300:]
    assert (
        (legend == CYAN).all(2).any()
        and (legend[:, 36:] == 255).all(2).any()
        and (legend[0] == 0).all()
    )


def test_small_scans_are_enlarged_and_the_legend_always_fits():
    image, mask = np.full((20, 50), 90, np.uint8), np.zeros((20, 50), np.uint8)
    mask[5, 10] = 1
    found = scan_overlay(
        image, mask, "a legend that is much longer than the scan is wide, by far " * 2
    )
    assert found.shape[0] == 20 * 7 + STRIP and found.shape[1] > 50 * 7
    assert (found[35:42, 70:77] == CYAN).all(2).any() and (found[0, : 50 * 7] == 90).all()
    assert found[-STRIP:, -8:].max() == 0  # the text ends before the border
    assert scan_overlay(image[:1, :1], mask[:1, :1], "x").shape[0] == 8 + STRIP
