"""The device's picture of the eye's surface: where the B-scans lie, and the fluid over it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dme.drawing.canvas import writer
from dme.drawing.enface import Span, coloured

SIDE = 640  # px; of the picture's longer side
FINE = 2  # drawn this many times larger, then reduced
MARGIN = 24
TOP = 56
BOTTOM = 46
TITLE = 17 * FINE
SMALL = 13 * FINE
READ = (90, 230, 120)  # B-scans
MISSING = (150, 150, 150)  # those without a picture
OPAQUE = 0.75  # of colours over the picture

Point = tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """A B-scan on the surface, in mm from the picture's top left corner."""

    start_mm: Point
    end_mm: Point  # of a circle its centre
    circle: bool = False
    read: bool = True


def surface_picture(
    surface: np.ndarray,
    scale_um: tuple[float, float],
    traces: Sequence[Trace],
    title: str,
    fluid_um: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 (H, W, 3) of a surface, uint8 (H, W).

    scale_um: per px across, per px down. fluid_um: thickness (H, W) over it, NaN where unknown.
    """
    # the picture with pixels that are square
    height, width = surface.shape
    width_mm = width * scale_um[0] / 1e3
    height_mm = height * scale_um[1] / 1e3
    px_per_mm = SIDE * FINE / max(width_mm, height_mm)
    size = (round(width_mm * px_per_mm), round(height_mm * px_per_mm))
    area = Image.fromarray(_with_fluid(surface, fluid_um))
    area = area.resize(size, Image.Resampling.BICUBIC)

    # B-scans, a dot where each begins
    draw = ImageDraw.Draw(area)
    for trace in sorted(traces, key=lambda trace: trace.read):
        _draw_trace(draw, trace, px_per_mm, alone=len(traces) == 1)

    # what stands around it
    sheet_width = size[0] + 2 * MARGIN * FINE
    sheet_height = size[1] + (TOP + BOTTOM) * FINE
    sheet = Image.new("RGB", (sheet_width, sheet_height), "white")
    sheet.paste(area, (MARGIN * FINE, TOP * FINE))
    draw = ImageDraw.Draw(sheet)
    write_title = writer(draw, TITLE)
    write_title((MARGIN * FINE, 10 * FINE), title)
    line = (TOP + 24) * FINE + size[1]
    end = MARGIN * FINE + px_per_mm
    bar = [MARGIN * FINE, line - FINE, end, line + FINE]
    draw.rectangle(bar, fill="black")
    write = writer(draw, SMALL)
    write((end + 8 * FINE, line), _legend(len(traces), fluid_um), anchor="lm")
    return np.asarray(sheet.reduce(FINE))


def _with_fluid(surface: np.ndarray, fluid_um: np.ndarray | None) -> np.ndarray:
    """The surface uint8 (H, W, 3), in colours where there is fluid."""
    rgb = np.repeat(surface[..., None], 3, axis=2)
    highest = 0.0 if fluid_um is None else float(np.nanmax(fluid_um, initial=0))
    if highest > 0:
        wet = np.nan_to_num(fluid_um) > 0
        colours = coloured(fluid_um, Span(0.0, highest))
        mixed = (1 - OPAQUE) * rgb[wet] + OPAQUE * colours[wet]
        rgb[wet] = mixed.round().astype(np.uint8)
    return rgb


def _legend(bscans: int, fluid_um: np.ndarray | None) -> str:
    """What stands beside the bar of 1 mm."""
    legend = "1 mm; the B-scan green"
    if bscans > 1:
        legend = "1 mm; B-scans green, gray without a picture"
    if fluid_um is not None:
        highest = float(np.nanmax(fluid_um, initial=0))
        legend += f"; fluid in colours, up to {highest:.0f} \N{MICRO SIGN}m thick"
    return legend


def _draw_trace(draw: ImageDraw.ImageDraw, trace: Trace, px_per_mm: float, alone: bool) -> None:
    colour = READ if trace.read else MISSING
    width = 2 * FINE if alone else FINE
    x, y = (px_per_mm * value for value in trace.start_mm)
    end_x, end_y = (px_per_mm * value for value in trace.end_mm)
    if trace.circle:
        radius = float(np.hypot(end_x - x, end_y - y))
        box = [end_x - radius, end_y - radius, end_x + radius, end_y + radius]
        draw.ellipse(box, outline=colour, width=width)
    else:
        draw.line([(x, y), (end_x, end_y)], fill=colour, width=width)
    dot = (3 if alone else 1) * FINE
    draw.ellipse([x - dot, y - dot, x + dot, y + dot], fill=colour)
