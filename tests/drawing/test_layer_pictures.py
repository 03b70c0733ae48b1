"""Pictures of layers: where lines and curves are drawn, and where they are not."""

import numpy as np
import pytest
from helpers.pixels import is_colour, stripes

from dme.common.errors import InputError
from dme.drawing.layers import COLOURS, INK, draw_boundaries, thickness_profile
from dme.drawing.overlays import CYAN
from dme.retina.rows import BOUNDARIES

EVEN = 5.0 + 7 * np.arange(8)  # rows of the boundaries
GREY = np.full((60, 300), 40, np.uint8)
DRAWN = 2 * len(GREY)  # rows of the enlarged scan; below them is the legend
# the lower axes of a profile: 0 um at y 588, 50 um at y 262, columns from x 62 to 788
BOTTOM = 588
HEIGHT = 326
LEFT = 62
RIGHT = 788


def test_every_boundary_is_drawn_at_its_row_and_named():
    rows = stripes(EVEN, width=300)
    rows[:, 100:150] = np.nan
    picture = draw_boundaries(GREY, rows)
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (600, 3)
    assert len(picture) > DRAWN
    assert (picture[:8] == 40).all()
    for k, colour in enumerate(COLOURS):
        drawn = is_colour(picture, colour)
        scan = drawn[:DRAWN]
        legend = drawn[DRAWN:]
        y, _ = np.nonzero(scan)
        assert abs(y.mean() - (2 * rows[k, 0] + 0.5)) <= 0.5
        assert np.ptp(y) <= 1
        assert not scan[:, 202:298].any()
        assert scan[:, :199].any(axis=0).all()
        assert legend.sum() > 80


def test_legend_of_a_narrow_scan_keeps_all_names():
    picture = draw_boundaries(np.zeros((20, 20), np.uint8), np.full((8, 20), np.nan))
    for colour in COLOURS:
        assert is_colour(picture[40:], colour).any()


def test_lone_columns_are_drawn():
    rows = np.full((8, 9), np.nan)
    rows[:, 4] = 3 * np.arange(8)
    picture = draw_boundaries(np.zeros((30, 9), np.uint8), rows)
    assert is_colour(picture[:60], COLOURS[3]).any()


def test_fluid_is_outlined_and_named():
    rows = stripes(EVEN, width=300)
    fluid = np.zeros_like(GREY)
    fluid[8:11, 50:60] = 1
    plain = draw_boundaries(GREY, rows)
    picture = draw_boundaries(GREY, rows, fluid)
    contour = is_colour(picture, CYAN)
    around_px = 2 * 20 + 2 * 6 - 4
    assert contour[16:22, 100:120].sum() == around_px
    assert contour[:DRAWN].sum() == around_px
    assert contour[DRAWN:].sum() > 50
    assert not is_colour(plain, CYAN).any()
    # its inside is tinted
    assert picture[19, 110].tolist() == [48, 112, 126]
    assert not is_colour(COLOURS, CYAN).any()
    assert len(BOUNDARIES) == 8


def test_profile_places_curves_by_thickness():
    rows = stripes(np.cumsum([0, 10, 20, 30, 40, 50, 25, 25]), width=400)
    rows[:, 200:300] = np.nan
    picture = thickness_profile(rows, axial_um=1.0)
    assert picture.shape == (640, 900, 3)
    axes = picture[255:600, LEFT : RIGHT + 1]
    column_px = (RIGHT - LEFT) / 399
    for k, um in ((0, 10), (1, 20), (3, 40), (4, 50)):
        y, x = np.nonzero(is_colour(axes, COLOURS[k]))
        expected_y = BOTTOM - um / 50 * HEIGHT
        assert abs(y.mean() + 255 - expected_y) < 1.5
        assert x.min() == 0
        assert x.max() >= 725
        gap = (x > 200 * column_px) & (x < 299 * column_px)
        assert not gap.any()

    # above, the retina of 200 um at the top of its axes
    y, _ = np.nonzero(is_colour(picture[36:200, 64:400], INK))
    assert abs(y.mean() + 36 - 38) < 1.5


def test_profile_without_scale_or_any_known_column():
    known = stripes(range(8), width=50)
    in_px = thickness_profile(known)
    in_um = thickness_profile(known, 1.0, 1000.0)
    assert not np.array_equal(in_px, in_um)

    empty = thickness_profile(np.full((8, 50), np.nan))
    for colour in COLOURS:
        assert not is_colour(empty[:, LEFT:RIGHT], colour).any()
    assert thickness_profile(known[:, :1]).shape == empty.shape
    with pytest.raises(InputError, match="expected"):
        thickness_profile(known[:7])
