"""Pictures: which pixels are coloured, where panels put what, and plots of odd data."""

import numpy as np
import pytest
from PIL import Image

from dme.drawing.canvas import save_png
from dme.drawing.overlays import GREEN, RED, overlay
from dme.drawing.panels import panel, typical
from dme.drawing.plots import line_plot


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


@pytest.mark.parametrize(
    ("fluid_px", "expected"),
    [
        ([3, 0, 9, 1, 5], [2, 4, 1]),  # with fluid 1, 3, 5, 9: the upper of the two in the middle
        ([2, 7, 5], [1, 2, 0]),
        ([0, 0, 4, 0], [2, 2, 0]),
        ([0, 0, 0, 0], [3, 2, 0]),
        ([6], [0, 0, 0]),
    ],
)
def test_typical_masks_are_the_most_the_median_and_the_least(fluid_px, expected):
    masks = np.zeros((len(fluid_px), 4, 5), np.uint8)
    for mask, count in zip(masks, fluid_px, strict=True):
        mask.flat[:count] = 1
        mask.flat[count:] = 255  # the unknown is no fluid
    assert typical(masks) == typical(list(masks)) == expected


def test_panel_layout():
    grey = np.full((10, 20), 100, np.uint8)
    tall = np.full((40, 20, 3), (200, 0, 0), np.uint8)
    sheet = panel(
        [[grey, tall], [grey, grey]], ["left", "right"], ["first", "second"], cell_width=40
    )
    # rows of 80 and 20 pixels with 22 for a title under each, 26 for titles over them, gaps of 6
    assert sheet.shape == (26 + 80 + 22 + 20 + 22, 6 + 2 * (40 + 6), 3) and sheet.dtype == np.uint8
    assert (sheet[26:46, 6:46] == 100).all()
    assert (sheet[47:105, 6:46] == (222, 226, 230)).all()  # below the picture that is not as high
    assert (sheet[26:106, 52:92] == (200, 0, 0)).all()
    assert (sheet[128:148, 6:46] == 100).all() and (sheet[128:148, 52:92] == 100).all()
    for strip in (sheet[:26, 6:46], sheet[:26, 52:92], sheet[106:128, 6:46], sheet[148:, 6:46]):
        assert strip.min() < 128  # titles
    assert sheet[106:128, 52:].min() == 222
    assert panel([[grey]], ["only"], cell_width=40).shape == (26 + 20 + 6, 52, 3)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(5, 0.25)],
        [(0, 3.0), (10, 3.0)],
        [(0, 0.0), (10, 0.0)],
        [(4, 1.0), (4, 2.0)],
        [(0, -2.0), (40_000, 1e5)],
        [(0, 1e-12), (1, 3e-12)],
        [(0, 1.0), (1, 1.0 + 3e-16)],
        [(0, 1e17), (1, 1e17)],
        [(i, i % 7) for i in range(100)],
    ],
)
def test_line_plot_draws_within_its_axes(points):
    blue = (31, 90, 180)
    sheet = line_plot({"": points}, "step", "loss")
    assert sheet.shape == (480, 800, 3) and sheet.dtype == np.uint8
    rows, columns = np.nonzero((sheet == blue).all(axis=2))
    assert (len(rows) > 0) == bool(points)
    if points:
        assert 40 - 3 <= rows.min() and rows.max() <= 430 + 3
        assert 70 - 3 <= columns.min() and columns.max() <= 780 + 3


def test_line_plot_places_points():
    sheet = line_plot({"": [(0, 0.0), (5, 1.0), (10, 0.0)]}, "step", "loss", width=800, height=480)
    blue = (sheet == (31, 90, 180)).all(axis=2)
    # the axes span x 70..780 and y 430..40; both end at ticks, here 0..10 and 0..1
    for x, y in ((70, 430), (425, 40), (780, 430), (70 + 177, 430 - 195)):
        assert blue[y - 2 : y + 3, x - 2 : x + 3].any()
    assert not blue[300:, 400:450].any()


def test_line_plot_names_its_lines():
    one = {"loss": [(0, 1.0), (1, 0.5)]}
    two = one | {"dice": [(0, 0.0), (1, 0.5)]}
    orange = (215, 95, 20)
    assert not (line_plot(one, "x", "y") == orange).all(axis=2).any()
    assert (
        (line_plot(two, "x", "y")[62:80, 600:] == orange).all(axis=2).any()
    )  # second line of the legend


def test_save_png(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.png"]
