"""Tables as HTML, with pictures: thumbnails inside, the large ones as files beside the page."""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from dme.drawing.panels import reduced

FEW_COLUMNS = 6  # more get less room in a narrow window
THUMBNAIL_QUALITY = 82  # of JPEG


@dataclass(frozen=True)
class Column:
    """A column of a table: the key in its rows, the heading, and the digits of fractions."""

    key: str
    title: str
    digits: int = 0


@dataclass
class Table:
    """Rows to show, by `rank` with the largest first, or in their order.

    picture: key in the rows of a PNG file relative to the page; so many rows at the top get
    thumbnails, a click enlarges them. strip: height of the legend at the foot of the pictures, not
    in the thumbnails.
    """

    title: str
    columns: list[Column]
    rows: list[dict]
    rank: str = ""
    picture: str = ""
    thumbnails: int = 500
    thumbnail_px: int = 220
    strip: int = 0


def table_html(table: Table, folder: Path) -> str:
    """A section with the table. folder: of the page, where the pictures are."""
    rows = table.rows
    if table.rank:
        rows = sorted(rows, key=lambda row: -(row[table.rank] or 0))

    # headings are buttons that sort
    heads = "<th>picture</th>" if table.picture else ""
    for column in table.columns:
        state = "descending" if column.key == table.rank else "none"
        button = f"<button type=button>{escaped(column.title)}</button>"
        heads += f'<th aria-sort="{state}">{button}</th>'

    # a thumbnail is inside the page, a link to the picture is not
    body = []
    for i, row in enumerate(rows):
        cells = ""
        if table.picture:
            cells += f"<td>{_picture(table, row, folder, i < table.thumbnails)}</td>"
        for column in table.columns:
            cells += _cell(row[column.key], column.digits)
        body.append(f"<tr>{cells}</tr>")

    kind = " class=wide" if len(table.columns) > FEW_COLUMNS else ""
    title = escaped(table.title)
    if table.picture and len(rows) > table.thumbnails:
        title += f" (pictures of the first {table.thumbnails})"
    return (
        f"<section><h2>{title}</h2><div class=scroll><table{kind}>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return f"<td class=text>{escaped(value)}</td>"
    if value is None or value != value:  # unknown, or NaN
        return '<td class=number data-value="">\N{EN DASH}</td>'
    return f'<td class=number data-value="{value}">{value:.{digits}f}</td>'


def _picture(table: Table, row: dict, folder: Path, thumbnail: bool) -> str:
    """A link to the picture, which shows it small if `thumbnail`."""
    file = row[table.picture]
    name = escaped(str(row[table.columns[0].key]))
    inside = "show"
    if thumbnail:
        small = reduced(folder / file, table.thumbnail_px, table.strip)
        size = f"width={small.width} height={small.height}"
        inside = f'<img {size} alt="{name}" src="{_jpeg(small)}">'
    return f'<a class=picture href="{quote(file)}" title="enlarge {name}">{inside}</a>'


def _jpeg(image: Image.Image) -> str:
    """The picture as an address that holds it."""
    packed = io.BytesIO()
    image.save(packed, format="JPEG", quality=THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"


def escaped(text: str) -> str:
    """Text that HTML shows as it stands."""
    return html.escape(text)
