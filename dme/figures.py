"""Pictures people look at: overlays of a mask on a scan, panels with titles, PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dme.files import atomic_path

RED, GREEN, CYAN = (255, 72, 72), (64, 220, 120), (60, 220, 255)


def overlay(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = RED, tint: float = 0.25
) -> np.ndarray:
    """Scan with a mask's contour drawn and its inside tinted.

    image: uint8 (H, W) or (H, W, 3). mask: (H, W), drawn where it equals 1. Returns uint8 (H, W, 3).
    """
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    inside = np.asarray(mask) == 1
    contour = inside & ~ndimage.binary_erosion(inside)
    opacity = np.where(contour, 1.0, np.where(inside, tint, 0.0))[..., None]
    return (rgb * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)


def typical(masks: Sequence[np.ndarray]) -> list[int]:
    """Indices of three masks worth showing: most fluid, the median of those with fluid, least."""
    order = np.argsort([(mask == 1).sum() for mask in masks], kind="stable").tolist()
    with_fluid = [i for i in order if (masks[i] == 1).any()] or order
    return [order[-1], with_fluid[len(with_fluid) // 2], order[0]]


def panel(
    rows: list[list[np.ndarray]],
    column_titles: list[str],
    row_titles: list[str] | None = None,
    cell_width: int = 384,
) -> np.ndarray:
    """Grid of pictures with a title over each column and under each row's first picture.

    rows: uint8 (H, W) or (H, W, 3) pictures, each scaled to cell_width pixels. Returns uint8 (H', W', 3).
    """
    font = ImageFont.load_default(size=16)
    small = ImageFont.load_default(size=13)
    gap, head, foot = 6, 26, 22 if row_titles else 6
    cells = [[_to_cell(picture, cell_width) for picture in row] for row in rows]
    heights = [max(cell.height for cell in row) for row in cells]
    size = (gap + len(column_titles) * (cell_width + gap), head + sum(h + foot for h in heights))
    sheet = Image.new("RGB", size, (222, 226, 230))  # a saturated wedge is white
    draw = ImageDraw.Draw(sheet)
    for j, title in enumerate(column_titles):
        draw.text((gap + j * (cell_width + gap), 4), title, fill="black", font=font)
    top = head
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            sheet.paste(cell, (gap + j * (cell_width + gap), top))
        if row_titles:
            draw.text((gap, top + heights[i] + 2), row_titles[i], fill="black", font=small)
        top += heights[i] + foot
    return np.asarray(sheet)


def _to_cell(picture: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(picture).convert("RGB")
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 (H, W) or (H, W, 3) picture atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


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
