"""Many pictures on one sheet: panels with titles, contact sheets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.drawing.canvas import writer
from dme.drawing.overlays import STRIP

GAP = 6  # px between pictures and around them
BACKGROUND = (222, 226, 230)  # grey, since a saturated wedge is white
HEAD = 26  # px, for titles over columns
FOOT = 22  # px, for titles and captions under pictures
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
MOST_HEIGHT = 1.5  # of a reduced picture, times its width


def typical(masks: Sequence[np.ndarray]) -> list[int]:
    """Indices of three masks worth showing: most fluid, the median of those with fluid, least."""
    fluid_px = np.array([(mask == 1).sum() for mask in masks])
    order = np.argsort(fluid_px, kind="stable")
    with_fluid = order[fluid_px[order] > 0]
    if not with_fluid.size:
        with_fluid = order
    median = with_fluid[len(with_fluid) // 2]
    return [int(order[-1]), int(median), int(order[0])]


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
    cells = []
    heights = []
    for row in rows:
        cells.append([_to_cell(picture, cell_width) for picture in row])
        heights.append(max(cell.height for cell in cells[-1]))
    foot = FOOT if row_titles else GAP
    step = cell_width + GAP
    width = GAP + step * len(column_titles)
    height = HEAD + sum(heights) + foot * len(heights)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    lefts = range(GAP, width, step)
    write_title = writer(draw, 16)
    for left, title in zip(lefts, column_titles, strict=True):
        write_title((left, 4), title)

    # the pictures, row by row
    write = writer(draw, 13)
    top = HEAD
    for i, row in enumerate(cells):
        for left, cell in zip(lefts, row, strict=False):
            sheet.paste(cell, (left, top))
        if row_titles:
            write((GAP, top + heights[i] + 2), row_titles[i])
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
    cells = [reduced(file, width, strip) for file in files]
    columns = min(columns, len(cells))
    step = width + GAP

    # a row is as high as its highest picture and a caption
    heights = []
    for i in range(0, len(cells), columns):
        highest = max(cell.height for cell in cells[i : i + columns])
        heights.append(highest + FOOT)
    tops = np.cumsum([GAP, *heights]).tolist()
    sheet = Image.new("RGB", (GAP + columns * step, tops[-1]), BACKGROUND)

    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        left = GAP + i % columns * step
        top = tops[i // columns]
        sheet.paste(cell, (left, top))
        below = (left, top + cell.height + 3)
        text = _fitted(caption, width, font)
        draw.text(below, text, fill="black", font=font)
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
        height = max(1, image.height - strip)
        scan = image.convert("RGB").crop((0, 0, image.width, height))
    times = min(width / scan.width, MOST_HEIGHT * width / scan.height)
    size = [max(1, round(side * times)) for side in scan.size]
    return scan.resize(size, reducing_gap=2)
