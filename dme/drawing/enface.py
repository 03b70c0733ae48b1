"""Picture of an en-face map: colours, ETDRS circles, scale bar, colour bar."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from dme.drawing.canvas import Letters, writer
from dme.drawing.plots import round_step
from dme.retina.etdrs import DIAMETERS_MM, side_names

# violet to light yellow, evenly rising in lightness; nothing at all is black: little stands out
COLOURS = np.array(
    [
        (74, 16, 110),
        (147, 38, 103),
        (221, 81, 58),
        (252, 165, 10),
        (252, 255, 164),
    ]
)
# blue to white to red
CHANGE_COLOURS = np.array(
    [
        (20, 70, 170),
        (140, 180, 230),
        (248, 248, 248),
        (240, 150, 120),
        (170, 20, 30),
    ]
)
CHANGE_GRID = (120, 120, 120)
UNKNOWN = (110, 110, 110)  # colour of NaN
HATCH = (235, 235, 235)
WIDTH = 640  # of the map, in pixels
LEFT = 28  # its margins
RIGHT = 92
TOP = 64
BOTTOM = 62
FINE = 2  # drawn this many times larger, then reduced
FLATTEST = 0.2  # height of the drawn map over its width, at least
STEEPEST = 1.6  # and at most
CELL_RATIO = 4  # height of a map's cell over its width where the scale is unknown
DIAGONAL = 0.5**0.5  # cosine of 45 degrees
# of the sectors' middles, in mm to the right and up; in the order of `sector_names`
SECTOR_PLACES = (
    (0, 0),
    *((0, 1), (1, 0), (0, -1), (-1, 0)),
    *((0, 2.25), (2.25, 0), (0, -2.25), (-2.25, 0)),
)
FEW_UM = 10  # less is written with a decimal
ROUNDING = 1e-9
HATCH_STEP = 7 * FINE  # between oblique lines
HATCH_WIDTH = FINE
MOST_STEPS = 5  # between ticks of the colour bar
TITLE = 17 * FINE  # size of letters
SMALL = 13 * FINE


@dataclass(frozen=True)
class Place:
    """Where a map lies in the eye; without a scale its picture has neither bar nor circles."""

    scale_um: tuple[float, float] | None = None  # lateral, spacing
    centre: Sequence[float] | None = None  # column, B-scan of the circles, in cells
    eye: str | None = None
    sector_values: Sequence[float | None] = ()  # written into the sectors, as of `sector_table`
    changes: bool = False  # with signs


@dataclass(frozen=True)
class Span:
    """What the colours of a map stand for; the highest value is the map's own if not given."""

    lowest: float = 0.0
    highest: float | None = None
    change: bool = False  # from blue, less, over white to red, more; 0 is not black


@dataclass(frozen=True)
class _Frame:
    """The map on its sheet, in pixels of the enlarged one."""

    bscans: int
    columns: int
    height: int
    left: int = LEFT * FINE
    top: int = TOP * FINE
    width: int = WIDTH * FINE

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def cell(self) -> tuple[float, float]:
        """Pixels per column and per B-scan."""
        return self.width / self.columns, self.height / self.bscans


def map_picture(
    values: np.ndarray,
    title: str,
    quantity: str,
    place: Place = Place(),  # noqa: B008 - frozen
    predicted: Sequence[int] | None = None,
    span: Span = Span(),  # noqa: B008 - frozen
    hatched: np.ndarray | None = None,
) -> np.ndarray:
    """Picture of a map (B-scans, columns), NaN where unknown; the last B-scan is at the top.

    quantity: what the colours mean, with its unit. predicted: rows with a B-scan of their own,
    marked at the left when others were interpolated. hatched: bool (B-scans, columns), cells that
    were not measured though they were scanned. Returns uint8 (H, W, 3).
    """
    frame = _frame(values.shape, place.scale_um)
    highest = span.highest
    if highest is None:
        highest = float(np.nanmax(values, initial=0))
    if highest <= span.lowest:
        highest = span.lowest + 1
    span = replace(span, highest=highest)

    # the map itself, with its circles
    area = Image.fromarray(coloured(values[::-1], span))
    area = area.resize((frame.width, frame.height), Image.Resampling.NEAREST)
    if hatched is not None and hatched.any():
        _draw_hatches(area, hatched[::-1])
    if place.scale_um and place.centre is not None:
        _draw_grid(ImageDraw.Draw(area), frame, place)
    sheet_width = (LEFT + WIDTH + RIGHT) * FINE
    sheet_height = frame.height + (TOP + BOTTOM) * FINE
    sheet = Image.new("RGB", (sheet_width, sheet_height), "white")
    sheet.paste(area, (frame.left, frame.top))

    # what stands around it; marks are only needed where not every row has a B-scan
    draw = ImageDraw.Draw(sheet)
    if predicted is not None and len(predicted) < frame.bscans:
        _draw_marks(draw, frame, predicted)
    write = writer(draw, SMALL)
    write_title = writer(draw, TITLE)
    write_title((frame.left, 10 * FINE), title)
    _draw_directions(draw, frame, place.eye)
    _draw_colour_bar(sheet, frame, span)
    line = frame.bottom + 42 * FINE
    corner = (frame.right + (RIGHT - 12) * FINE, line)
    write(corner, quantity, anchor="rm")
    _draw_scale_bar(draw, frame, place, line)
    return np.asarray(sheet.reduce(FINE))


def map_area(
    shape: tuple[int, int], scale_um: tuple[float, float] | None
) -> tuple[int, int, int, int]:
    """Where the map itself lies in its picture: left, top, width and height in pixels.

    shape: (B-scans, columns). scale_um: lateral, spacing.
    """
    frame = _frame(shape, scale_um)
    return LEFT, TOP, WIDTH, frame.height // FINE


def _draw_hatches(area: Image.Image, hatched: np.ndarray) -> None:
    """Oblique lines over cells (B-scans, columns), of which the first is at the top."""
    cells = Image.fromarray(np.uint8(hatched) * 255)
    cells = np.asarray(cells.resize(area.size, Image.Resampling.NEAREST)) > 0
    rows, columns = np.indices(cells.shape)
    lines = (rows + columns) % HATCH_STEP < HATCH_WIDTH
    area.paste(HATCH, mask=Image.fromarray(np.uint8(cells & lines) * 255))


def _draw_marks(draw: ImageDraw.ImageDraw, frame: _Frame, rows: Sequence[int]) -> None:
    """A short line at the left of each of these rows."""
    _, cell_height = frame.cell
    for row in rows:
        y = frame.top + (frame.bscans - row - 0.5) * cell_height
        ends = [(frame.left - 14, y), (frame.left - 4, y)]
        draw.line(ends, fill="black", width=2)


def _frame(shape: tuple[int, int], scale_um: tuple[float, float] | None) -> _Frame:
    """Of the right proportions, unless they are extreme."""
    bscans, columns = shape
    ratio = bscans / columns * CELL_RATIO
    if scale_um:
        lateral_um, spacing_um = scale_um
        ratio = bscans * spacing_um / (columns * lateral_um)
    ratio = min(max(ratio, FLATTEST), STEEPEST)
    height = round(WIDTH * FINE * ratio)
    return _Frame(bscans, columns, height)


def coloured(values: np.ndarray, span: Span) -> np.ndarray:
    """uint8 (H, W, 3) of values within a span; 0 is black, unless they are changes."""
    # between the two nearest colours
    colours = CHANGE_COLOURS if span.change else COLOURS
    steps = range(len(colours))
    share = np.nan_to_num((values - span.lowest) / (span.highest - span.lowest))
    at = share * steps[-1]  # (H, W), 0 at the first of the colours
    channels = [np.interp(at, steps, channel) for channel in colours.T]
    rgb = np.stack(channels, axis=-1)  # (H, W, 3)
    if not span.change:
        rgb[values == 0] = 0
    rgb[np.isnan(values)] = UNKNOWN
    return rgb.round().astype(np.uint8)


def _draw_grid(draw: ImageDraw.ImageDraw, frame: _Frame, place: Place) -> None:
    """Circles, the diagonals between them and the sectors' numbers, none beyond the map."""
    lateral_um, spacing_um = place.scale_um
    cell_width, cell_height = frame.cell
    column, bscan = place.centre
    x = (column + 0.5) * cell_width
    y = (frame.bscans - bscan - 0.5) * cell_height

    # changes are white where there are none
    colour = CHANGE_GRID if place.changes else "white"

    # radii in pixels of the inner, middle and outer circle; pixels need not be square
    across = 500 / lateral_um * cell_width  # px of 0.5 mm
    down = 500 / spacing_um * cell_height
    radii = [(diameter_mm * across, diameter_mm * down) for diameter_mm in DIAMETERS_MM]
    for rx, ry in radii:
        box = [x - rx, y - ry, x + rx, y + ry]
        draw.ellipse(box, outline=colour, width=3)

    # four diagonals, from the inner circle to the outer one
    for sx in (-1, 1):
        for sy in (-1, 1):
            ends = []
            for rx, ry in (radii[0], radii[-1]):
                ends.append((x + sx * rx * DIAGONAL, y + sy * ry * DIAGONAL))
            draw.line(ends, fill=colour, width=3)

    # numbers half-way between the circles; the last B-scan, superior, is at the top
    letters = Letters(SMALL)
    for (right, up), value in zip(SECTOR_PLACES, place.sector_values, strict=False):
        middle = (x + right * 2 * across, y - up * 2 * down)
        if value is not None and 0 < middle[0] < frame.width and 0 < middle[1] < frame.height:
            digits = 0 if abs(value) >= FEW_UM else 1
            sign = "+" if place.changes else ""
            text = f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # 0 has no sign of its own
            letters.write(draw, middle, text, "white", anchor="mm", halo="black")


def _draw_directions(draw: ImageDraw.ImageDraw, frame: _Frame, eye: str | None) -> None:
    """What lies at the four sides of the map."""
    write = writer(draw, SMALL)
    left_name, right_name = side_names(eye)
    middle = (frame.left + frame.right) / 2
    above = frame.top - 4 * FINE
    below = frame.bottom + 4 * FINE
    write((middle, above), "superior (last B-scan)", anchor="md")
    write((middle, below), "inferior (first B-scan)", anchor="ma")
    write((frame.left, below), left_name, anchor="la")
    write((frame.right, below), right_name, anchor="ra")


def _draw_scale_bar(draw: ImageDraw.ImageDraw, frame: _Frame, place: Place, line: float) -> None:
    """One millimetre, and what the circles are; line: the y of its middle."""
    x = frame.left
    text = "scale unknown"
    if place.scale_um:
        length = 1000 / place.scale_um[0] * frame.cell[0]
        bar = [x, line - FINE, x + length, line + FINE]
        draw.rectangle(bar, fill="black")
        x += length + 8 * FINE
        text = "1 mm"
        if place.centre is not None:
            text += "; ETDRS circles of 1, 3 and 6 mm"
            if place.sector_values:
                text += ", mean \N{MICRO SIGN}m of each sector"
    write = writer(draw, SMALL)
    write((x, line), text, anchor="lm")


def _draw_colour_bar(sheet: Image.Image, frame: _Frame, span: Span) -> None:
    """Colours of a span, the highest at the top, with round numbers beside it."""
    low = span.lowest
    high = span.highest
    left = frame.right + 24 * FINE
    right = left + 16 * FINE
    values = np.linspace(high, low, 256)[:, None]  # a column
    bar = Image.fromarray(coloured(values, span))
    bar = bar.resize((right - left, frame.height))
    sheet.paste(bar, (left, frame.top))
    draw = ImageDraw.Draw(sheet)
    border = [left, frame.top, right, frame.bottom]
    draw.rectangle(border, outline="black")
    write = writer(draw, SMALL)
    step = round_step((high - low) / MOST_STEPS)
    first = math.ceil(low / step)
    last = math.floor(high / step + ROUNDING)
    for tick in range(first, last + 1):
        share = (tick * step - low) / (high - low)
        y = frame.bottom - share * frame.height
        draw.line([(right, y), (right + 3 * FINE, y)], fill="black", width=2)
        write((right + 6 * FINE, y), f"{tick * step:g}", anchor="lm")
