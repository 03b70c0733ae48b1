"""Tables as HTML, with pictures: small ones in the rows, the large ones behind them."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

FEW_COLUMNS = 6  # more get less room in a narrow window
ROWS_INSIDE = 200  # of a table that stand in the page itself


@dataclass(frozen=True)
class Column:
    """A column of a table: the key in its rows, the heading, and the digits of fractions."""

    key: str
    title: str
    digits: int = 0


@dataclass
class Table:
    """Rows to show, by `rank` with the largest first, or in their order.

    picture: key in the rows of a picture's file, relative to the page; a click enlarges it.
    thumbnail: key of the file that is shown small in its place, if another. link: key of a column
    of scans' names, which open them in the page's viewer, as do the pictures then.
    """

    title: str
    columns: list[Column]
    rows: list[dict]
    rank: str = ""
    picture: str = ""
    thumbnail: str = ""
    thumbnail_px: int = 220
    link: str = ""
    first: str = ""  # rows with a text under this key come before the others


@dataclass
class TableParts:
    """HTML of a table: its rows are many, and only the first need to be in the page."""

    title: str  # escaped
    head: str
    rows: list[str] = field(default_factory=list)
    wide: bool = False

    @property
    def rest(self) -> list[str]:
        """Rows that do not stand in the page."""
        return self.rows[ROWS_INSIDE:]

    def section(self, rest_file: str) -> str:
        """A section with the table. rest_file: of a script beside the page with the other rows."""
        kind = " class=wide" if self.wide else ""
        button = ""
        if self.rest:
            more = f"show all {len(self.rows)} rows"
            button = f'<button type=button class=rest data-rows="{rest_file}">{more}</button>'
        body = "".join(self.rows[:ROWS_INSIDE])
        return (
            f"<section><h2>{self.title}</h2><div class=scroll><table{kind}>"
            f"<thead><tr>{self.head}</tr></thead><tbody>{body}</tbody></table></div>"
            f"{button}</section>"
        )


def table_html(table: Table, folder: Path) -> TableParts:
    """The parts of a table. folder: of the page, where the pictures are."""
    rows = table.rows
    if table.rank:
        rows = sorted(rows, key=lambda row: -(row[table.rank] or 0))
    if table.first:
        rows = sorted(rows, key=lambda row: not row[table.first])

    # headings are buttons that sort
    heads = "<th>picture</th>" if table.picture else ""
    for column in table.columns:
        state = "descending" if column.key == table.rank else "none"
        button = f"<button type=button>{escaped(column.title)}</button>"
        heads += f'<th aria-sort="{state}">{button}</th>'

    parts = TableParts(escaped(table.title), heads, wide=len(table.columns) > FEW_COLUMNS)
    for row in rows:
        cells = ""
        if table.picture:
            cells += f"<td>{_picture(table, row, folder)}</td>"
        for column in table.columns:
            link = column.key == table.link
            cells += _cell(row[column.key], column.digits, link)
        parts.rows.append(f"<tr>{cells}</tr>")
    return parts


def _cell(value: Any, digits: int, link: bool) -> str:
    if isinstance(value, str):
        text = scan_link(value, escaped(value)) if link else escaped(value)
        return f"<td class=text>{text}</td>"
    if value is None or value != value:  # unknown, or NaN
        return '<td class=number data-value="">\N{EN DASH}</td>'
    return f'<td class=number data-value="{value}">{value:.{digits}f}</td>'


def scan_link(name: str, inside: str) -> str:
    """A link that opens a scan in the page's viewer. inside: HTML."""
    return f'<a href="#scan={quote(name, safe="")}">{inside}</a>'


def _picture(table: Table, row: dict, folder: Path) -> str:
    """A link to the picture, which shows it small."""
    file = row[table.thumbnail or table.picture]
    name = escaped(str(row[table.columns[0].key]))
    with Image.open(folder / file) as picture:
        width, height = picture.size
    shown = min(width, table.thumbnail_px)
    size = f"width={shown} height={round(height * shown / width)}"
    inside = f'<img loading=lazy {size} alt="{name}" src="{quote(file)}">'
    if table.link:
        return scan_link(row[table.link], inside)
    large = quote(row[table.picture])
    return f'<a class=picture href="{large}" title="enlarge {name}">{inside}</a>'


def escaped(text: str) -> str:
    """Text that HTML shows as it stands."""
    return html.escape(text)
