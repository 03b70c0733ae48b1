"""Many pictures on one sheet: panels with titles, contact sheets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.drawing.overlays import STRIP


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
    return image.resize(
        (width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR
    )


def contact_sheet(
    files: Sequence[Path],
    captions: Sequence[str],
    columns: int = 8,
    width: int = 192,
    strip: int = STRIP,
) -> np.ndarray:
    """Overlays (files) side by side without the strip at their feet, with captions; uint8 (H, W, 3)."""
    font = ImageFont.load_default(size=12)
    cells = [reduced(file, width, strip) for file in files]
    columns = min(columns, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + 22 for row in rows]
    sheet = Image.new("RGB", (6 + columns * (width + 6), 6 + sum(heights)), (222, 226, 230))
    draw = ImageDraw.Draw(sheet)
    top = 6
    for i, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for j, cell in enumerate(row):
            left = 6 + j * (width + 6)
            sheet.paste(cell, (left, top))
            text = _fitted(captions[i * columns + j], width, font)
            draw.text((left, top + cell.height + 3), text, fill="black", font=font)
        top += height
    return np.asarray(sheet)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Text that fits a width: names of scans differ at their ends, so the start goes."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("\N{HORIZONTAL ELLIPSIS}" + text) > width:
        text = text[1:]
    return "\N{HORIZONTAL ELLIPSIS}" + text


def reduced(file: Path, width: int, strip: int) -> Image.Image:
    """A picture without the strip at its foot, at most so wide and 1.5 times as high."""
    with Image.open(file) as image:
        image = image.convert("RGB").crop((0, 0, image.width, max(1, image.height - strip)))
    times = min(width / image.width, 1.5 * width / image.height)
    return image.resize(
        (max(1, round(image.width * times)), max(1, round(image.height * times))), reducing_gap=2
    )
