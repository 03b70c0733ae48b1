"""Picture of an en-face map: colours, ETDRS circles, scale bar, colour bar."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.retina.etdrs import DIAMETERS_MM, side_names

# violet to light yellow, evenly rising in lightness; nothing at all is black, so that little stands out
COLOURS = np.array([(74, 16, 110), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])
UNKNOWN = (110, 110, 110)  # colour of NaN
WIDTH, LEFT, TOP, RIGHT, BOTTOM = 640, 28, 64, 92, 62  # of the map and its margins, in pixels
FINE = 2  # drawn this many times larger, then reduced


def map_picture(
    values: np.ndarray,
    title: str,
    quantity: str,
    scale_um: tuple[float, float] | None = None,
    centre: Sequence[float] | None = None,
    eye: str | None = None,
    predicted: Sequence[int] | None = None,
    lowest: float = 0.0,
) -> np.ndarray:
    """Picture of a map (B-scans, columns), NaN where unknown; the last B-scan, superior, is at the top.

    quantity: what the colours mean, with its unit. scale_um: (lateral, spacing); without it there is neither
    scale bar nor circle. centre: (column, B-scan) of the circles in cells. predicted: rows with a B-scan of
    their own, marked at the left when others were interpolated. lowest: where the colours start. Returns
    uint8 (H, W, 3).
    """
    bscans, columns = values.shape
    left_name, right_name = side_names(eye)
    wide = WIDTH * FINE
    ratio = bscans * scale_um[1] / (columns * scale_um[0]) if scale_um else bscans / columns * 4
    high = round(wide * min(max(ratio, 0.2), 1.6))
    cell = (wide / columns, high / bscans)  # pixels per column, per B-scan
    highest = float(np.nanmax(values, initial=0))
    span = (lowest, highest if highest > lowest else lowest + 1)

    area = Image.fromarray(_coloured(values[::-1], span)).resize(
        (wide, high), Image.Resampling.NEAREST
    )
    if scale_um and centre is not None:
        _draw_grid(ImageDraw.Draw(area), centre, cell, bscans, scale_um)
    size = ((LEFT + WIDTH + RIGHT) * FINE, high + (TOP + BOTTOM) * FINE)
    sheet = Image.new("RGB", size, "white")
    draw, font, large = ImageDraw.Draw(sheet), _font(13), _font(17)
    x0, y0 = LEFT * FINE, TOP * FINE
    x1, y1 = x0 + wide, y0 + high
    sheet.paste(area, (x0, y0))
    if predicted is not None and len(predicted) < bscans:
        for row in predicted:
            y = y0 + (bscans - row - 0.5) * cell[1]
            draw.line([(x0 - 14, y), (x0 - 4, y)], fill="black", width=2)

    draw.text((x0, 10 * FINE), title, fill="black", font=large)
    middle = (x0 + x1) / 2
    draw.text(
        (middle, y0 - 4 * FINE), "superior (last B-scan)", fill="black", font=font, anchor="md"
    )
    draw.text(
        (middle, y1 + 4 * FINE), "inferior (first B-scan)", fill="black", font=font, anchor="ma"
    )
    draw.text((x0, y1 + 4 * FINE), left_name, fill="black", font=font, anchor="la")
    draw.text((x1, y1 + 4 * FINE), right_name, fill="black", font=font, anchor="ra")
    _draw_colour_bar(sheet, draw, (x1 + 24 * FINE, y0, y1), span, font)
    line = y1 + 42 * FINE
    draw.text((x1 + (RIGHT - 12) * FINE, line), quantity, fill="black", font=font, anchor="rm")
    if scale_um:
        length = 1000 / scale_um[0] * cell[0]
        draw.rectangle([x0, line - FINE, x0 + length, line + FINE], fill="black")
        text = "1 mm"
        if centre is not None:
            text += "; circles of 1, 3 and 6 mm diameter (ETDRS)"
        draw.text((x0 + length + 8 * FINE, line), text, fill="black", font=font, anchor="lm")
    else:
        draw.text((x0, line), "scale unknown", fill="black", font=font, anchor="lm")
    return np.asarray(sheet.reduce(FINE))


def _coloured(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """uint8 (H, W, 3) of values within a span; 0 is black."""
    at = np.nan_to_num((values - span[0]) / (span[1] - span[0])) * (len(COLOURS) - 1)
    rgb = np.stack([np.interp(at, range(len(COLOURS)), channel) for channel in COLOURS.T], axis=-1)
    rgb[values == 0] = 0
    return np.where(np.isnan(values)[..., None], UNKNOWN, rgb).round().astype(np.uint8)


def _draw_grid(
    draw: ImageDraw.ImageDraw,
    centre: Sequence[float],
    cell: tuple[float, float],
    bscans: int,
    scale_um: tuple[float, float],
) -> None:
    """Circles and the diagonals between them, on the map alone so that they end at its border."""
    x, y = (centre[0] + 0.5) * cell[0], (bscans - centre[1] - 0.5) * cell[1]
    rx, ry = (
        [500 * d / um * px for d in DIAMETERS_MM] for um, px in zip(scale_um, cell, strict=True)
    )
    style = {"width": 3}
    for a, b in zip(rx, ry, strict=True):
        draw.ellipse([x - a, y - b, x + a, y + b], outline="white", **style)
    for sx in (-1, 1):
        for sy in (-1, 1):
            ends = [(x + sx * rx[k] * 0.5**0.5, y + sy * ry[k] * 0.5**0.5) for k in (0, 2)]
            draw.line(ends, fill="white", **style)


def _draw_colour_bar(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float, float],
    span: tuple[float, float],
    font: ImageFont.FreeTypeFont,
) -> None:
    x, y0, y1 = place
    low, high = span
    bar = _coloured(np.linspace(high, low, 256)[:, None], span)
    sheet.paste(Image.fromarray(bar).resize((16 * FINE, round(y1 - y0))), (round(x), round(y0)))
    draw.rectangle([x, y0, x + 16 * FINE, y1], outline="black")
    for share in (0, 0.5, 1):
        text = f"{low + share * (high - low):.3g}"
        draw.text(
            (x + 22 * FINE, y1 - share * (y1 - y0)), text, fill="black", font=font, anchor="lm"
        )


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size * FINE)
