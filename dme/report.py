"""Pictures for readers and a page to open in a browser: overlay, contact sheet, report.html.

The page is one file without links to the network: style, script and thumbnails are inside; the large pictures
are the PNG files beside it. It knows nothing of fluid: a caller gives tables of rows with columns.
"""

import base64
import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.figures import CYAN, overlay
from dme.files import atomic_path

TEMPLATE = Path(__file__).with_name("report.html")
STRIP = 24  # height of the legend under an overlay
LEAST_SIDE, MOST_ENLARGED = 320, 8  # small scans are shown enlarged


def scan_overlay(image: np.ndarray, mask: np.ndarray, legend: str) -> np.ndarray:
    """Scan with the mask's contour and tint, and a strip below with the legend; uint8 (H', W', 3)."""
    times = max(1, min(MOST_ENLARGED, math.ceil(LEAST_SIDE / max(image.shape))))
    picture = overlay(*(a.repeat(times, 0).repeat(times, 1) for a in (image, mask)), colour=CYAN)
    font = ImageFont.load_default(size=14)
    height, width = picture.shape[:2]
    sheet = Image.new("RGB", (max(width, 44 + math.ceil(font.getlength(legend))), height + STRIP), "black")
    sheet.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    tint = tuple(round(0.25 * c) for c in CYAN)
    draw.rectangle([8, height + 6, 28, height + STRIP - 6], outline=CYAN, fill=tint)
    draw.text((36, height + STRIP / 2), legend, fill="white", font=font, anchor="lm")
    return np.asarray(sheet)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG atomically and fast: for the many large ones, where size matters less."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=1)


def contact_sheet(
    files: Sequence[Path], captions: Sequence[str], columns: int = 8, width: int = 192, strip: int = STRIP
) -> np.ndarray:
    """Overlays (files) side by side without the strip at their feet, with captions; uint8 (H, W, 3)."""
    font = ImageFont.load_default(size=12)
    cells = [_small(file, width, strip) for file in files]
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


def _small(file: Path, width: int, strip: int) -> Image.Image:
    """A picture without the strip at its foot, at most so wide and 1.5 times as high."""
    with Image.open(file) as image:
        image = image.convert("RGB").crop((0, 0, image.width, max(1, image.height - strip)))
    times = min(width / image.width, 1.5 * width / image.height)
    return image.resize(
        (max(1, round(image.width * times)), max(1, round(image.height * times))), reducing_gap=2
    )


# ---- the page -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table: the key in its rows, the heading, and for fractions the digits shown."""

    key: str
    title: str
    digits: int = 0


@dataclass
class Table:
    """Rows to show, by `rank` with the largest first, or in their order.

    picture: key in the rows of a PNG file relative to the page; so many rows at the top get thumbnails, a
    click enlarges them. strip: height of the legend at the foot of the pictures, not in the thumbnails.
    """

    title: str
    columns: list[Column]
    rows: list[dict]
    rank: str = ""
    picture: str = ""
    thumbnails: int = 500
    thumbnail_px: int = 220
    strip: int = 0


def write_report(
    path: str | Path,
    title: str,
    headline: Sequence[tuple[str, str]],
    tables: Sequence[Table],
    facts: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]],
) -> None:
    """Write the page atomically.

    headline: (what, number) in large type. facts: (what, text) at the foot. skipped: (file, reason).
    """
    path = Path(path)
    tiles = "".join(f"<div><b>{_text(value)}</b><span>{_text(what)}</span></div>" for what, value in headline)
    rest = "".join(f"<dt>{_text(what)}</dt><dd>{_text(value)}</dd>" for what, value in facts)
    lost = ""
    if skipped:
        lines = "".join(f"<li><code>{_text(file)}</code>: {_text(why)}</li>" for file, why in skipped)
        lost = f'<section id="skipped"><h2>Skipped ({len(skipped)})</h2><ul>{lines}</ul></section>'
    parts = {
        "title": _text(title),
        "headline": tiles,
        "skipped": lost,
        "tables": "".join(_table(table, path.parent) for table in tables if table.rows),
        "facts": rest,
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _table(table: Table, folder: Path) -> str:
    rows = table.rows
    if table.rank:
        rows = sorted(rows, key=lambda row: -(row[table.rank] or 0))
    heads = "<th>picture</th>" if table.picture else ""
    for column in table.columns:
        state = "descending" if column.key == table.rank else "none"
        heads += f'<th aria-sort="{state}"><button type=button>{_text(column.title)}</button></th>'
    body = []
    for i, row in enumerate(rows):
        cells = "".join(_cell(row[column.key], column.digits) for column in table.columns)
        picture = f"<td>{_picture(table, row, folder, i < table.thumbnails)}</td>" if table.picture else ""
        body.append(f"<tr>{picture}{cells}</tr>")
    few = (
        f" (pictures of the first {table.thumbnails})"
        if table.picture and len(rows) > table.thumbnails
        else ""
    )
    return (
        f"<section><h2>{_text(table.title)}{few}</h2><div class=scroll><table>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _cell(value, digits: int) -> str:
    if value is None or value != value:
        return '<td class=number data-value="">\N{EN DASH}</td>'
    if isinstance(value, str):
        return f"<td class=text>{_text(value)}</td>"
    return f'<td class=number data-value="{value}">{value:.{digits}f}</td>'


def _picture(table: Table, row: dict, folder: Path, thumbnail: bool) -> str:
    href, name = quote(row[table.picture]), _text(str(row[table.columns[0].key]))
    inside = "show"
    if thumbnail:
        small, packed = _small(folder / row[table.picture], table.thumbnail_px, table.strip), io.BytesIO()
        small.save(packed, format="JPEG", quality=82)
        data = base64.b64encode(packed.getvalue()).decode()
        size = f"width={small.width} height={small.height}"
        inside = f'<img {size} alt="{name}" src="data:image/jpeg;base64,{data}">'
    return f'<a class=picture href="{href}" title="enlarge {name}">{inside}</a>'


def _text(text: str) -> str:
    return html.escape(text)
