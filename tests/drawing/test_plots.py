"""Plots: lines of odd data, where points lie, and the distance between ticks."""

import numpy as np
import pytest

from dme.drawing.plots import line_plot, round_step


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


@pytest.mark.parametrize(
    ("least", "step"),
    [(0.7, 1), (1, 1), (1.01, 2), (4, 5), (5.5, 10), (0.03, 0.05), (2e-7, 2e-7), (1200, 2000)],
)
def test_ticks_are_a_round_distance_apart(least, step):
    assert round_step(least) == pytest.approx(step)
