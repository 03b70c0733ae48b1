"""A page to open in a browser: report.html.

The page is one file without links to the network: style, script and thumbnails are inside; the large pictures
are the PNG files beside it. It knows nothing of fluid: a caller gives tables of rows with columns.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dme.common.files import atomic_path
from dme.drawing.panels import reduced

TEMPLATE = Path(__file__).with_name("page.html")


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
    tiles = "".join(
        f"<div><b>{_text(value)}</b><span>{_text(what)}</span></div>" for what, value in headline
    )
    rest = "".join(f"<dt>{_text(what)}</dt><dd>{_text(value)}</dd>" for what, value in facts)
    lost = ""
    if skipped:
        lines = "".join(
            f"<li><code>{_text(file)}</code>: {_text(why)}</li>" for file, why in skipped
        )
        lost = f'<section id="skipped"><h2>Skipped ({len(skipped)})</h2><ul>{lines}</ul></section>'
    parts = {
        "title": _text(title),
        "headline": tiles,
        "skipped": lost,
        "tables": "".join(_table(table, path.parent) for table in tables if table.rows),
        "facts": rest,
    }
    page = re.sub(
        r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE.read_text(encoding="utf-8")
    )
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
        picture = (
            f"<td>{_picture(table, row, folder, i < table.thumbnails)}</td>"
            if table.picture
            else ""
        )
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
        small, packed = (
            reduced(folder / row[table.picture], table.thumbnail_px, table.strip),
            io.BytesIO(),
        )
        small.save(packed, format="JPEG", quality=82)
        data = base64.b64encode(packed.getvalue()).decode()
        size = f"width={small.width} height={small.height}"
        inside = f'<img {size} alt="{name}" src="data:image/jpeg;base64,{data}">'
    return f'<a class=picture href="{href}" title="enlarge {name}">{inside}</a>'


def _text(text: str) -> str:
    return html.escape(text)
