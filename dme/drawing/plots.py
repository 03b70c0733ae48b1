"""Lines over axes."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def line_plot(
    series: dict[str, list[tuple[float, float]]],
    x_label: str,
    y_label: str,
    width: int = 800,
    height: int = 480,
    dots: Sequence[tuple[float, float]] = (),
) -> np.ndarray:
    """Lines over common axes with ticks and a legend, and single dots.

    series: name -> (x, y) points, finite. Returns uint8 (height, width, 3).
    """
    colours = [(31, 90, 180), (215, 95, 20), (40, 150, 60), (160, 50, 160), (90, 90, 90)]
    points = [point for line in (*series.values(), dots) for point in line] or [(0.0, 0.0)]
    x_ticks, y_ticks = (_ticks(min(v), max(v)) for v in zip(*points, strict=True))
    left, top, right, bottom = 70, 40, width - 20, height - 50

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - left),
            bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top),
        )

    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for y in y_ticks:
        draw.line([place(x_ticks[0], y), place(x_ticks[-1], y)], fill=(225, 225, 225))
        draw.text((left - 8, place(0, y)[1]), f"{y:g}", fill="black", font=font, anchor="rm")
    for x in x_ticks:
        draw.text((place(x, 0)[0], bottom + 6), f"{x:g}", fill="black", font=font, anchor="ma")
    draw.text(((left + right) / 2, height - 18), x_label, fill="black", font=font, anchor="ma")
    draw.text((8, 8), y_label, fill="black", font=font)
    for x, y in dots:
        px, py = place(x, y)
        draw.ellipse([px - 3, py - 3, px + 3, py + 3], outline=(60, 60, 60))
    for i, (name, line) in enumerate(series.items()):
        colour = colours[i % len(colours)]
        draw.line([place(x, y) for x, y in line], fill=colour, width=2)
        for x, y in line if len(line) < 30 else []:
            px, py = place(x, y)
            draw.ellipse([px - 3, py - 3, px + 3, py + 3], fill=colour)
        draw.text((right - 8, top + 4 + 18 * i), name, fill=colour, font=font, anchor="ra")
    return np.asarray(sheet)


def _ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers that span low..high, at least two different ones."""
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):  # a constant, but for rounding errors
        span = abs(low) or 1.0
    raw = span / wanted
    magnitude = 10 ** np.floor(np.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw)
    first, last = np.floor(low / step), max(np.ceil(high / step), np.floor(low / step) + 1)
    return [float(f"{i * step:.12g}") for i in np.arange(first, last + 1)]
