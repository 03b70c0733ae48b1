"""Lines over axes, and the round numbers at which axes have ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image, ImageDraw

from dme.drawing.canvas import writer

COLOURS = [
    (31, 90, 180),
    (215, 95, 20),
    (40, 150, 60),
    (160, 50, 160),
    (90, 90, 90),
]
DOT_COLOUR = (60, 60, 60)
GRID_COLOUR = (225, 225, 225)
DOT_RADIUS = 3  # px
FEW_POINTS = 30  # lines of fewer points show each point as a dot
LEGEND_TOP = 8  # px
LEGEND_STEP = 18  # px between two names
LETTERS = 13  # px
MOST_STEPS = 6  # between the ticks of an axis, about

Point = tuple[float, float]


@dataclass(frozen=True)
class _Axes:
    """A plot on its sheet, in pixels; the outermost ticks are its ends."""

    left: int
    top: int
    right: int
    bottom: int
    x_ticks: list[float]
    y_ticks: list[float]

    def x(self, value: float) -> float:
        share = _share(value, self.x_ticks)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        share = _share(value, self.y_ticks)
        return self.bottom - share * (self.bottom - self.top)

    def place(self, point: Point) -> Point:
        x, y = point
        return self.x(x), self.y(y)

    def dot(self, point: Point) -> list[float]:
        """The box of a dot."""
        x, y = self.place(point)
        return [x - DOT_RADIUS, y - DOT_RADIUS, x + DOT_RADIUS, y + DOT_RADIUS]


def _share(value: float, ticks: list[float]) -> float:
    """How far along an axis, 0 to 1."""
    first = ticks[0]
    return (value - first) / (ticks[-1] - first)


def line_plot(
    series: dict[str, list[Point]],
    x_label: str,
    y_label: str,
    width: int = 800,
    height: int = 480,
    dots: Sequence[Point] = (),
    x_doubles: bool = False,
) -> np.ndarray:
    """Lines over common axes with ticks and a legend, and single dots.

    series: name -> (x, y) points, finite. x_doubles: x is above 0, and its ticks are powers of two
    one step apart. Returns uint8 (height, width, 3).
    """
    # the axes hold all points
    if x_doubles:
        dots = _doublings(dots)
        series = {name: _doublings(line) for name, line in series.items()}
    points = list(chain(*series.values(), dots)) or [(0.0, 0.0)]
    xs, ys = zip(*points, strict=True)
    x_ticks = _whole(min(xs), max(xs)) if x_doubles else _ticks(min(xs), max(xs))
    y_ticks = _ticks(min(ys), max(ys))
    top = LEGEND_TOP + max(2, len(series)) * LEGEND_STEP  # the names stand above the axes
    axes = _Axes(70, top, width - 20, height - 50, x_ticks, y_ticks)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    write = writer(draw, LETTERS)

    # ticks, and what the axes mean
    for tick in y_ticks:
        y = axes.y(tick)
        ends = [(axes.left, y), (axes.right, y)]
        draw.line(ends, fill=GRID_COLOUR)
        write((axes.left - 8, y), f"{tick:g}", anchor="rm")
    for tick in x_ticks:
        x = axes.x(tick)
        shown = 2**tick if x_doubles else tick
        write((x, axes.bottom + 6), f"{shown:g}", anchor="ma")
    middle = (axes.left + axes.right) / 2
    write((middle, height - 18), x_label, anchor="ma")
    write((8, 8), y_label)

    # the dots, then the lines and their names
    for point in dots:
        draw.ellipse(axes.dot(point), outline=DOT_COLOUR)
    for i, (name, line) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [axes.place(point) for point in line]
        draw.line(places, fill=colour, width=2)
        if len(line) < FEW_POINTS:
            for point in line:
                draw.ellipse(axes.dot(point), fill=colour)
        corner = (axes.right - 8, LEGEND_TOP + LEGEND_STEP * i)
        write(corner, name, fill=colour, anchor="ra")
    return np.asarray(sheet)


def round_step(least: float) -> float:
    """Distance between ticks: the first of ..., 0.5, 1, 2, 5, 10, ... not below `least`."""
    power = 10.0 ** np.floor(np.log10(least))
    for factor in (1, 2, 5):
        if factor * power >= least:
            return factor * power
    return 10 * power


def _doublings(points: Sequence[Point]) -> list[Point]:
    """Points with the power of two that each x is."""
    return [(float(np.log2(x)), y) for x, y in points]


def _whole(low: float, high: float) -> list[float]:
    """Whole numbers that span low..high, at least two."""
    first = math.floor(low)
    last = max(math.ceil(high), first + 1)
    return [float(number) for number in range(first, last + 1)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span low..high, at least two different ones."""
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):  # a constant, but for rounding errors
        span = abs(low) or 1.0

    # multiples of the step, written as a person would
    step = round_step(span / MOST_STEPS)
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)
    return [float(f"{i * step:.12g}") for i in np.arange(first, last + 1)]
