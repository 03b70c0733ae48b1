"""A page to open in a browser: report.html.

The page is one file without links to the network: style, script and thumbnails are inside; the
large pictures are the PNG files beside it. It knows nothing of fluid: a caller gives headlines,
tables, facts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dme.common.files import atomic_path
from dme.drawing.html import Table, escaped, table_html

TEMPLATE = Path(__file__).with_name("page.html")
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")

Pairs = Sequence[tuple[str, str]]


@dataclass
class Page:
    """What stands on a page, from top to bottom."""

    title: str
    headline: Pairs  # what, number in large type
    skipped: Pairs  # file, reason
    tables: Sequence[Table]  # those without rows are left out
    facts: Pairs  # what, text
    doubtful: Pairs = ()  # scan, why its numbers are doubtful

    def write(self, path: str | Path) -> None:
        """Write it atomically; pictures of its tables are looked for beside it."""
        path = Path(path)
        tables = [table_html(table, path.parent) for table in self.tables if table.rows]
        parts = {
            "title": escaped(self.title),
            "headline": _headline(self.headline),
            "skipped": _listed("skipped", "Skipped", self.skipped),
            "doubtful": _listed("doubtful", "Doubtful", self.doubtful),
            "tables": "".join(tables),
            "facts": _facts(self.facts),
        }
        template = TEMPLATE.read_text(encoding="utf-8")
        text = PLACEHOLDER.sub(lambda place: parts[place[1]], template)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")


def _headline(headline: Pairs) -> str:
    text = ""
    for what, number in headline:
        text += f"<div><b>{escaped(number)}</b><span>{escaped(what)}</span></div>"
    return text


def _listed(name: str, title: str, pairs: Pairs) -> str:
    """A section of files or scans with a reason each; nothing without any."""
    if not pairs:
        return ""
    items = ""
    for file, reason in pairs:
        items += f"<li><code>{escaped(file)}</code>: {escaped(reason)}</li>"
    heading = f"<h2>{title} ({len(pairs)})</h2>"
    return f'<section id="{name}" class=listed>{heading}<ul>{items}</ul></section>'


def _facts(facts: Pairs) -> str:
    text = ""
    for what, value in facts:
        text += f"<dt>{escaped(what)}</dt><dd>{escaped(value)}</dd>"
    return text
