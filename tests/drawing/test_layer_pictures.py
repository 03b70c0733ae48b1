"""Pictures of layers: where lines and curves are drawn, and where they are not."""

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.drawing.layers import COLOURS, FLUID_COLOUR, draw_boundaries, thickness_profile
from dme.retina.rows import BOUNDARIES


def is_colour(picture, colour):
    return (picture == np.asarray(colour, np.uint8)).all(axis=-1)


def test_every_boundary_is_drawn_at_its_row_and_named():
    image = np.full((60, 300), 40, np.uint8)
    rows = np.tile(5.0 + 7 * np.arange(8)[:, None], (1, 300))
    rows[:, 100:150] = np.nan
    picture = draw_boundaries(image, rows)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (600, 3) and picture.shape[0] > 120
    for k in range(8):
        drawn = is_colour(picture, COLOURS[k])
        y, x = np.nonzero(drawn[:120])
        assert abs(y.mean() - (2 * rows[k, 0] + 0.5)) <= 0.5 and np.ptp(y) <= 1
        assert not drawn[:120, 202:298].any() and drawn[:120, :199].any(axis=0).all()
        assert drawn[120:].sum() > 80  # its legend
    assert (picture[:8] == 40).all()


def test_legend_of_a_narrow_scan_keeps_all_names():
    picture = draw_boundaries(np.zeros((20, 20), np.uint8), np.full((8, 20), np.nan))
    assert all(is_colour(picture[40:], colour).any() for colour in COLOURS)


def test_lone_columns_are_drawn():
    rows = np.full((8, 9), np.nan)
    rows[:, 4] = 3 * np.arange(8)
    assert is_colour(draw_boundaries(np.zeros((30, 9), np.uint8), rows)[:60], COLOURS[3]).any()


def test_profile_places_curves_by_thickness():
    rows = np.tile(np.cumsum([0, 10, 20, 30, 40, 50, 25, 25.0])[:, None], (1, 400))
    rows[:, 200:300] = np.nan
    picture = thickness_profile(rows, axial_um=1.0)
    assert picture.shape == (640, 900, 3)
    # the lower axes run from y 588 (0 um) to 262 (50 um), columns from x 62 to 788
    for k, um in ((0, 10), (1, 20), (3, 40), (4, 50)):
        y, x = np.nonzero(is_colour(picture[255:600, 62:789], (COLOURS[k] * 0.8).astype(int)))
        assert abs(y.mean() + 255 - (588 - um / 50 * 326)) < 1.5
        assert x.min() == 0 and x.max() >= 725
        gap = (x > 200 / 399 * 726) & (x < 299 / 399 * 726)
        assert not gap.any()
    y, _ = np.nonzero(is_colour(picture[36:200, 64:400], (0, 0, 0)))
    assert abs(y.mean() + 36 - (228 - 200 / 200 * 190)) < 1.5  # the retina, 200 um


def test_profile_without_scale_or_any_known_column():
    known = np.tile(np.arange(8.0)[:, None], (1, 50))
    assert not np.array_equal(thickness_profile(known), thickness_profile(known, 1.0, 1000.0))
    empty = thickness_profile(np.full((8, 50), np.nan))
    assert not any(is_colour(empty[:, 62:788], (c * 0.8).astype(int)).any() for c in COLOURS)
    assert thickness_profile(known[:, :1]).shape == empty.shape
    with pytest.raises(InputError, match="expected"):
        thickness_profile(known[:7])


def test_fluid_is_outlined_and_named():
    rows = np.tile(5.0 + 7 * np.arange(8)[:, None], (1, 300))
    image, fluid = np.full((60, 300), 40, np.uint8), np.zeros((60, 300), np.uint8)
    fluid[8:11, 50:60] = 1
    plain, found = draw_boundaries(image, rows), draw_boundaries(image, rows, fluid)
    white = (found == FLUID_COLOUR).all(-1)
    assert white[16:22, 100:120].sum() == 2 * 20 + 2 * 6 - 4 and white[:120].sum() == 48
    assert white[120:].sum() > 50 and not (plain == FLUID_COLOUR).all(-1).any()
    assert len(BOUNDARIES) == 8
