"""Pictures of retinal layers: the eight boundaries on a scan with a legend, and profiles of thickness."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.drawing.overlays import overlay
from dme.retina.rows import BOUNDARIES, THICKNESSES, check_rows

# of the boundaries from the top; a layer has the colour of its upper one, the whole retina the last
COLOURS = np.array(
    [
        (255, 90, 90),
        (255, 160, 40),
        (245, 225, 60),
        (100, 225, 90),
        (50, 220, 230),
        (90, 150, 255),
        (185, 120, 255),
        (255, 120, 205),
    ]
)
FLUID_COLOUR = (255, 255, 255)
ENLARGED = 2  # so that lines do not cover thin layers


def draw_boundaries(
    image: np.ndarray, boundaries: np.ndarray, fluid: np.ndarray | None = None
) -> np.ndarray:
    """Scan, twice as large, with its boundaries as coloured lines and their names below it.

    image: uint8 (H, W) or (H, W, 3). boundaries: rows (8, W), drawn where known. fluid: (H, W), its contour
    is drawn in white where it is 1, and named. Returns uint8 (2 H + legend, 2 W, 3).
    """
    rows = check_rows(boundaries, image.shape[1])
    scan = Image.fromarray(image).convert("RGB")
    scan = scan.resize((scan.width * ENLARGED, scan.height * ENLARGED), Image.Resampling.BILINEAR)
    entries = list(zip(BOUNDARIES, map(tuple, COLOURS.tolist()), strict=True))
    if fluid is not None:
        entries.append(("fluid", FLUID_COLOUR))
        enlarged = fluid.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        scan = Image.fromarray(overlay(np.asarray(scan), enlarged, FLUID_COLOUR))
    font = ImageFont.load_default(size=15)
    step = 30 + max(round(font.getlength(name)) for name, _ in entries) + 14
    per_line = min(max(scan.width // step, 1), len(entries))
    lines = -(-len(entries) // per_line)
    sheet = Image.new("RGB", (scan.width, scan.height + 8 + 22 * lines), "black")
    sheet.paste(scan, (0, 0))
    draw = ImageDraw.Draw(sheet)
    x = (np.arange(rows.shape[1]) + 0.5) * ENLARGED - 0.5
    for (_, colour), row in zip(entries, rows, strict=False):  # fluid is no row
        _draw_curve(draw, x, (row + 0.5) * ENLARGED - 0.5, colour)
    for k, (name, colour) in enumerate(entries):
        left, middle = 8 + k % per_line * step, scan.height + 15 + 22 * (k // per_line)
        draw.line([(left, middle), (left + 22, middle)], fill=colour, width=4)
        draw.text((left + 30, middle), name, fill=colour, font=font, anchor="lm")
    return np.asarray(sheet)


def thickness_profile(
    boundaries: np.ndarray,
    axial_um: float | None = None,
    lateral_um: float | None = None,
    title: str = "",
    width: int = 900,
) -> np.ndarray:
    """Thickness along a scan, of the whole retina above and of the seven layers below, gaps where unknown.

    boundaries: rows (8, W). In um over mm, in pixels where a scale is unknown. Returns uint8 (640, width, 3).
    """
    rows = check_rows(boundaries)
    thickness = np.vstack([np.diff(rows, axis=0), rows[7:] - rows[:1]]) * (axial_um or 1)
    x = np.arange(rows.shape[1]) * (lateral_um / 1000 if lateral_um else 1)
    height, left, right = 640, 62, width - 112
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    unit = "um" if axial_um else "px"
    draw.text(
        (left, 10),
        f"{title}: thickness in {unit}" if title else f"thickness in {unit}",
        "black",
        font,
    )
    draw.text(
        ((left + right) / 2, height - 10),
        "mm" if lateral_um else "column",
        "black",
        font,
        anchor="md",
    )
    scale_x = (right - left) / max(x[-1], 1e-9)
    step_x = _step(x[-1], 8)
    for top, bottom, shown in ((38, 228, [7]), (262, height - 52, list(range(7)))):
        step = _step(np.nanmax(thickness[shown], initial=0), 6)
        most = step * max(np.ceil(np.nanmax(thickness[shown], initial=0) / step), 1)
        for tick in np.arange(0, most + step / 2, step):
            y = bottom - tick / most * (bottom - top)
            draw.line([(left, y), (right, y)], fill=(225, 225, 225))
            draw.text((left - 8, y), f"{tick:g}", "black", font, anchor="rm")
        for tick in np.arange(0, x[-1] + step_x / 100, step_x):
            draw.line(
                [(left + tick * scale_x, bottom), (left + tick * scale_x, bottom + 4)],
                fill="black",
            )
            draw.text((left + tick * scale_x, bottom + 6), f"{tick:g}", "black", font, anchor="ma")
        for place, k in enumerate(shown):
            colour = tuple((COLOURS[k] * 0.8).astype(int).tolist()) if k < 7 else (0, 0, 0)
            _draw_curve(
                draw, left + x * scale_x, bottom - thickness[k] / most * (bottom - top), colour
            )
            draw.text((right + 10, top + 22 * place), THICKNESSES[k], colour, font)
    return np.asarray(sheet)


def _step(span: float, most: int) -> float:
    """A round distance between ticks: no more than so many from 0 to span."""
    raw = max(span, 1e-9) / most
    power = 10.0 ** np.floor(np.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def _draw_curve(
    draw: ImageDraw.ImageDraw, x: np.ndarray, y: np.ndarray, colour: tuple[int, ...]
) -> None:
    """Pieces between unknown values; a single known value is a dot."""
    known = np.flatnonzero(np.isfinite(y))
    for piece in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        points = list(zip(x[piece].tolist(), y[piece].tolist(), strict=True))
        if len(points) == 1:
            points = [points[0], (points[0][0] + 1, points[0][1])]
        if points:
            draw.line(points, fill=colour, width=2)
