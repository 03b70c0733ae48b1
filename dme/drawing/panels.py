"""Many pictures on one sheet: panels with titles, contact sheets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.drawing.overlays import STRIP

GAP = 6  # px between pictures and around them
BACKGROUND = (222, 226, 230)  # grey, since a saturated wedge is white
HEAD = 26  # px, for titles over columns
FOOT = 22  # px, for titles and captions under pictures
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
MOST_HEIGHT = 1.5  # of a reduced picture, times its width


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

    rows: uint8 (H, W) or (H, W, 3) pictures, each scaled to cell_width pixels. Returns uint8
    (H', W', 3).
    """
    # a row is as high as its highest picture
    cells = [[_to_cell(picture, cell_width) for picture in row] for row in rows]
    heights = [max(cell.height for cell in row) for row in cells]
    foot = FOOT if row_titles else GAP
    lefts = [GAP + j * (cell_width + GAP) for j in range(len(column_titles) + 1)]
    sheet = Image.new("RGB", (lefts[-1], HEAD + sum(heights) + foot * len(heights)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    font = ImageFont.load_default(size=16)
    for left, title in zip(lefts, column_titles, strict=False):
        draw.text((left, 4), title, fill="black", font=font)

    # the pictures, row by row
    small = ImageFont.load_default(size=13)
    top = HEAD
    for i, row in enumerate(cells):
        for left, cell in zip(lefts, row, strict=False):
            sheet.paste(cell, (left, top))
        if row_titles:
            draw.text((GAP, top + heights[i] + 2), row_titles[i], fill="black", font=small)
        top += heights[i] + foot
    return np.asarray(sheet)


def _to_cell(picture: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(picture).convert("RGB")
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.BILINEAR)


def contact_sheet(
    files: Sequence[Path],
    captions: Sequence[str],
    columns: int = 8,
    width: int = 192,
    strip: int = STRIP,
) -> np.ndarray:
    """Overlays (files) side by side, captions in place of their strips; uint8 (H, W, 3)."""
    # rows of as many pictures as there are columns
    cells = [
        (reduced(file, width, strip), text) for file, text in zip(files, captions, strict=True)
    ]
    columns = min(columns, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(picture.height for picture, _ in row) + FOOT for row in rows]
    size = (GAP + columns * (width + GAP), GAP + sum(heights))
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    font = ImageFont.load_default(size=12)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for j, (picture, text) in enumerate(row):
            left = GAP + j * (width + GAP)
            sheet.paste(picture, (left, top))
            below = (left, top + picture.height + 3)
            draw.text(below, _fitted(text, width, font), fill="black", font=font)
        top += height
    return np.asarray(sheet)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Text that fits a width: names of scans differ at their ends, so the start goes."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(ELLIPSIS + text) > width:
        text = text[1:]
    return ELLIPSIS + text


def reduced(file: Path, width: int, strip: int) -> Image.Image:
    """A picture without the strip at its foot, at most so wide and 1.5 times as high."""
    with Image.open(file) as image:
        scan = image.convert("RGB").crop((0, 0, image.width, max(1, image.height - strip)))
    times = min(width / scan.width, MOST_HEIGHT * width / scan.height)
    size = (max(1, round(scan.width * times)), max(1, round(scan.height * times)))
    return scan.resize(size, reducing_gap=2)
