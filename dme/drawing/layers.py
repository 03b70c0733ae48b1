"""Pictures of retinal layers: boundaries on a scan with a legend, and profiles of thickness."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dme.drawing.canvas import Letters, writer
from dme.drawing.overlays import CYAN, overlay
from dme.drawing.plots import round_step
from dme.retina.rows import BOUNDARIES, THICKNESSES, check_rows
from dme.retina.thickness import thickness_px

# of the boundaries from the top; a layer has the colour of its upper one, the retina the last
COLOURS = np.array(
    [
        (255, 90, 90),
        (255, 160, 40),
        (245, 225, 60),
        (100, 225, 90),
        (0, 165, 135),
        (90, 150, 255),
        (185, 120, 255),
        (255, 120, 205),
    ]
)
FLUID_TINT = 0.4  # lines of layers run through it
ENLARGED = 2  # so that lines do not cover thin layers
LEGEND_LINE = 22  # px, height of a line of the legend
LEGEND_DASH = 22  # px, length of a sample of colour
RETINA = len(THICKNESSES) - 1  # index of the whole retina, after the seven layers
PROFILE_WIDTH = 900  # px
PROFILE_HEIGHT = 640
LETTERS = 14  # px
UPPER_AXES = (38, 228)  # px, top and bottom
LOWER_AXES = (262, PROFILE_HEIGHT - 52)
SHEET = (16, 18, 22)  # dark as a scan, so that layers keep their colours
GRID = (62, 66, 72)
INK = (235, 235, 235)
QUIET = (160, 166, 172)
SMALL_LETTERS = 11  # px
NAME_STEP = 44  # px from one layer's name to the next
ROUNDING = 1 - 1e-9  # a step that is too short by no more than a rounding error will do

Colour = tuple[int, ...]
Values = float | np.ndarray


def draw_boundaries(
    image: np.ndarray, boundaries: np.ndarray, fluid: np.ndarray | None = None
) -> np.ndarray:
    """Scan, twice as large, with its boundaries as coloured lines and their names below it.

    image: uint8 (H, W) or (H, W, 3). boundaries: rows (8, W), drawn where known. fluid: (H, W),
    drawn in CYAN where it is 1, and named. Returns uint8 (2 H + legend, 2 W, 3).
    """
    rows = check_rows(boundaries, image.shape[1])
    scan = Image.fromarray(image)
    size = (scan.width * ENLARGED, scan.height * ENLARGED)
    scan = scan.resize(size, Image.Resampling.BILINEAR).convert("RGB")
    colours = [tuple(colour) for colour in COLOURS.tolist()]
    legend = list(zip(BOUNDARIES, colours, strict=True))

    # fluid lies below the lines
    if fluid is not None:
        legend.append(("fluid", CYAN))
        enlarged = fluid.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        picture = overlay(np.asarray(scan), enlarged, CYAN, FLUID_TINT)
        scan = Image.fromarray(picture)

    # a sheet that has room for the legend below the scan
    letters = Letters(15)
    longest = max(round(letters.width(name)) for name, _ in legend)
    entry_width = 30 + longest + 14
    fitting = max(scan.width // entry_width, 1)
    per_line = min(fitting, len(legend))
    lines = -(-len(legend) // per_line)
    height = scan.height + 8 + LEGEND_LINE * lines
    sheet = Image.new("RGB", (scan.width, height), "black")
    sheet.paste(scan, (0, 0))
    draw = ImageDraw.Draw(sheet)

    # pixel centres of the scan in the enlarged one
    x = (np.arange(rows.shape[1]) + 0.5) * ENLARGED - 0.5
    for colour, row in zip(colours, rows, strict=True):
        _draw_curve(draw, x, (row + 0.5) * ENLARGED - 0.5, colour)

    for k, (name, colour) in enumerate(legend):
        left = 8 + k % per_line * entry_width
        middle = scan.height + 15 + LEGEND_LINE * (k // per_line)
        right = left + LEGEND_DASH
        draw.line([(left, middle), (right, middle)], fill=colour, width=4)
        letters.write(draw, (right + 8, middle), name, colour, anchor="lm")
    return np.asarray(sheet)


@dataclass(frozen=True)
class _ProfileAxes:
    """Axes from 0 to the right and up: their edges on the sheet, in px, and the largest values."""

    left: int
    right: int
    top: int
    bottom: int
    x_most: float
    y_most: float

    def x(self, value: Values) -> Values:
        scale = (self.right - self.left) / self.x_most
        return self.left + value * scale

    def y(self, value: Values) -> Values:
        height = self.bottom - self.top
        return self.bottom - value / self.y_most * height


def thickness_profile(
    boundaries: np.ndarray,
    axial_um: float | None = None,
    lateral_um: float | None = None,
    title: str = "",
) -> np.ndarray:
    """Thickness along a scan: the whole retina above, the seven layers below, gaps where unknown.

    boundaries: rows (8, W). In um over mm, in pixels where a scale is unknown. A layer has the
    colour of the boundary above it, as in `draw_boundaries`. Returns uint8 (640, 900, 3).
    """
    thickness = thickness_px(boundaries) * (axial_um or 1)  # (8, W)
    x = np.arange(thickness.shape[1])
    if lateral_um:
        x = x * (lateral_um / 1000)
    sheet = Image.new("RGB", (PROFILE_WIDTH, PROFILE_HEIGHT), SHEET)
    draw = ImageDraw.Draw(sheet)
    write = writer(draw, LETTERS, INK)
    write_small = writer(draw, SMALL_LETTERS, QUIET)
    left = 62
    right = PROFILE_WIDTH - 112

    # what the axes mean
    quantity = "thickness in µm" if axial_um else "thickness in px"
    write((left, 10), f"{title}: {quantity}" if title else quantity)
    middle = (left + right) / 2
    unit = "mm" if lateral_um else "column"
    write((middle, PROFILE_HEIGHT - 10), unit, anchor="md")

    seven_layers = list(range(RETINA))
    for (top, bottom), shown in ((UPPER_AXES, [RETINA]), (LOWER_AXES, seven_layers)):
        # the y axis ends at the first tick above all values
        highest = np.nanmax(thickness[shown], initial=0)
        y_step = _step(highest, 6)
        y_most = y_step * max(np.ceil(highest / y_step), 1)
        x_last = x[-1]
        axes = _ProfileAxes(left, right, top, bottom, max(x_last, 1e-9), y_most)
        _draw_axes(draw, axes, (_step(x_last, 8), y_step), x_last)

        # the curves and their names
        for place, k in enumerate(shown):
            colour = INK if k == RETINA else tuple(COLOURS[k].tolist())
            _draw_curve(draw, axes.x(x), axes.y(thickness[k]), colour)
            name_top = top + NAME_STEP * place
            write((right + 10, name_top), THICKNESSES[k], fill=colour)
            if k != RETINA:
                write_small((right + 10, name_top + LETTERS + 4), f"below {BOUNDARIES[k]}")
    return np.asarray(sheet)


def _draw_axes(
    draw: ImageDraw.ImageDraw,
    axes: _ProfileAxes,
    steps: Sequence[float],
    x_last: float,
) -> None:
    """Grid lines and ticks. steps: between ticks of x and of y. x_last: where the curves end."""
    write = writer(draw, LETTERS, INK)
    x_step, y_step = steps
    for tick in np.arange(0, axes.y_most + y_step / 2, y_step):
        y = axes.y(tick)
        ends = [(axes.left, y), (axes.right, y)]
        draw.line(ends, fill=GRID)
        write((axes.left - 8, y), f"{tick:g}", anchor="rm")
    for tick in np.arange(0, x_last + x_step / 100, x_step):
        x = axes.x(tick)
        ends = [(x, axes.bottom), (x, axes.bottom + 4)]
        draw.line(ends, fill=INK)
        write((x, axes.bottom + 6), f"{tick:g}", anchor="ma")


def _step(span: float, most: int) -> float:
    """A round distance between ticks: no more than so many from 0 to span."""
    return round_step(max(span, 1e-9) / most * ROUNDING)


def _draw_curve(draw: ImageDraw.ImageDraw, x: np.ndarray, y: np.ndarray, colour: Colour) -> None:
    """Pieces between unknown values; a single known value is a dot."""
    known = np.flatnonzero(np.isfinite(y))
    gaps = np.flatnonzero(np.diff(known) > 1)
    for piece in np.split(known, gaps + 1):
        places = np.stack([x[piece], y[piece]], axis=1)
        points = [tuple(place) for place in places.tolist()]
        if len(points) == 1:
            alone_x, alone_y = points[0]
            points.append((alone_x + 1, alone_y))
        if points:
            draw.line(points, fill=colour, width=2)
