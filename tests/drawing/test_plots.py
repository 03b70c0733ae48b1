"""Plots: lines of odd data, where points lie, and the distance between ticks."""

import numpy as np
import pytest
from helpers.pixels import extent, is_colour

from dme.drawing.plots import line_plot, round_step

BLUE = (31, 90, 180)  # of the first line
ORANGE = (215, 95, 20)  # of the second
# the axes of a plot of 800 x 480
LEFT = 70
RIGHT = 780
TOP = 44
BOTTOM = 430


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
    sheet = line_plot({"": points}, "step", "loss")
    assert sheet.shape == (480, 800, 3)
    assert sheet.dtype == np.uint8
    blue = is_colour(sheet, BLUE)
    assert blue.any() == bool(points)
    if points:
        rows, columns = extent(blue)
        assert TOP - 3 <= rows.start
        assert rows.stop <= BOTTOM + 4
        assert LEFT - 3 <= columns.start
        assert columns.stop <= RIGHT + 4


def test_line_plot_places_points():
    points = [(0, 0.0), (5, 1.0), (10, 0.0)]
    blue = is_colour(line_plot({"": points}, "step", "loss", width=800, height=480), BLUE)
    # both axes end at ticks, here 0..10 and 0..1; the last place is half way up the first line
    for x, y in ((LEFT, BOTTOM), (425, TOP), (RIGHT, BOTTOM), (LEFT + 177, BOTTOM - 193)):
        assert blue[y - 2 : y + 3, x - 2 : x + 3].any()
    assert not blue[300:, 400:450].any()


def test_line_plot_over_doublings():
    """1, 4 and 16 are as far apart as 0, 2 and 4."""
    logarithmic = line_plot({"": [(1, 0.0), (4, 1.0), (16, 0.0)]}, "scans", "dice", x_doubles=True)
    plain = line_plot({"": [(0, 0.0), (2, 1.0), (4, 0.0)]}, "scans", "dice")
    np.testing.assert_array_equal(logarithmic[:BOTTOM], plain[:BOTTOM])
    ticks = slice(BOTTOM + 4, BOTTOM + 24)
    assert (logarithmic[ticks] != plain[ticks]).any()  # 16 instead of 4


def test_line_plot_names_its_lines():
    loss = {"loss": [(0, 1.0), (1, 0.5)]}
    dice = {"dice": [(0, 0.0), (1, 0.5)]}
    without = line_plot(loss, "x", "y")
    both = line_plot(loss | dice, "x", "y")
    second_name = both[26:44, 600:]
    assert not is_colour(without, ORANGE).any()
    assert is_colour(second_name, ORANGE).any()


@pytest.mark.parametrize(
    ("least", "step"),
    [(0.7, 1), (1, 1), (1.01, 2), (4, 5), (5.5, 10), (0.03, 0.05), (2e-7, 2e-7), (1200, 2000)],
)
def test_ticks_are_a_round_distance_apart(least, step):
    assert round_step(least) == pytest.approx(step)
