"""Many pictures on one sheet: panels with titles, contact sheets."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dme.drawing.canvas import Letters, writer
from dme.drawing.overlays import STRIP

GAP = 6  # px between pictures and around them
BACKGROUND = (222, 226, 230)  # grey, since a saturated wedge is white
HEAD = 26  # px, for titles over columns
FOOT = 22  # px, for titles and captions under pictures
CAPTION = 12  # px, letters of a contact sheet
CAPTION_LINE = 15  # px, from one line of a caption to the next
MOST_HEIGHT = 1.5  # of a reduced picture, times its width


def typical(masks: Sequence[np.ndarray]) -> list[int]:
    """Indices of up to three masks: most fluid, the median of those with fluid, least; each once.

    Where fewer have fluid, the middle of all stands for the median.
    """
    fluid_px = np.array([(mask == 1).sum() for mask in masks])
    order = np.argsort(fluid_px, kind="stable")
    with_fluid = order[fluid_px[order] > 0]
    if len(with_fluid) < 2:
        with_fluid = order
    median = with_fluid[len(with_fluid) // 2]
    if len(with_fluid) == 2:  # of two the upper is the most
        median = with_fluid[0]
    return [int(i) for i in dict.fromkeys((order[-1], median, order[0]))]


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
    """Overlays (files) side by side, whole captions in place of their strips; uint8 (H, W, 3)."""
    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes
        cells = list(pool.map(lambda file: reduced(file, width, strip), files))
    letters = Letters(CAPTION)
    texts = [caption_lines(caption, width - 2, letters) for caption in captions]
    columns = min(columns, len(cells))
    step = width + GAP

    # a row is as high as its highest picture and its longest caption
    heights = []
    for i in range(0, len(cells), columns):
        highest = max(cell.height for cell in cells[i : i + columns])
        most_lines = max(len(lines) for lines in texts[i : i + columns])
        heights.append(highest + FOOT + CAPTION_LINE * (most_lines - 1))
    tops = np.cumsum([GAP, *heights]).tolist()
    sheet = Image.new("RGB", (GAP + columns * step, tops[-1]), BACKGROUND)

    draw = ImageDraw.Draw(sheet)
    for i, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        left = GAP + i % columns * step
        top = tops[i // columns]
        sheet.paste(cell, (left, top))
        for number, line in enumerate(lines):
            below = (left + 1, top + cell.height + 3 + CAPTION_LINE * number)
            letters.write(draw, below, line)
    return np.asarray(sheet)


def caption_lines(text: str, width: int, letters: Letters) -> list[str]:
    """A text in lines that fit a width, broken between words where it can be."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if letters.width(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        # a word that is longer than a line goes on in the next
        for letter in word:
            if letters.width(lines[-1] + letter) > width and lines[-1]:
                lines.append("")
            lines[-1] += letter
    return lines


def reduced(file: Path, width: int, strip: int) -> Image.Image:
    """A picture without the strip at its foot, at most so wide and 1.5 times as high."""
    with Image.open(file, formats=("PNG",)) as image:
        return fitting(image, width, strip)


def fitting(image: Image.Image, width: int, strip: int) -> Image.Image:
    """A picture as `reduced` makes it, from one that is open."""
    height = max(1, image.height - strip)
    scan = image.convert("RGB").crop((0, 0, image.width, height))
    times = min(width / scan.width, MOST_HEIGHT * width / scan.height)
    size = [max(1, round(side * times)) for side in scan.size]
    return scan.resize(size, reducing_gap=2)
