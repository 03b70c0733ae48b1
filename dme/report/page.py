"""A page to open in a browser: report.html.

The page asks nothing of the network: style, scripts and pictures are files beside it, which it
names itself. It knows nothing of fluid: a caller gives headlines, tables, facts, and what the
viewer shows.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dme.common.files import atomic_path
from dme.drawing.html import Table, escaped, scan_link, table_html

HERE = Path(__file__).parent
TEMPLATE = HERE / "page.html"
VIEWER_TEMPLATE = HERE / "viewer.html"
WEB = HERE / "web"  # style and scripts, copied beside the page
FOLDER = "viewer"  # where they are copied to
MOST_OPEN = 3  # doubtful scans whose reasons are seen at once
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")

STYLES = ("page.css",)
SCRIPTS = ("page.js",)
VIEWER_STYLES = ("viewer.css",)
# in this order: each builds on those before it
VIEWER_SCRIPTS = ("state.js", "stage.js", "layers.js", "maps.js", "list.js", "controls.js")
SCANS = "scans.js"  # what the viewer shows, after its scripts

# files beside the page alone; `file:` is what some browsers need where others understand 'self',
# a server of the page on this machine may be asked
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'"
)

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
    viewer: dict | None = None  # as of `dme.report.viewer`; None for a page without one

    def write(self, path: str | Path) -> list[str]:
        """Write it atomically, and the files it needs; returns their names from its folder on.

        Pictures of its tables are looked for beside it.
        """
        path = Path(path)
        tables = [table_html(table, path.parent) for table in self.tables if table.rows]
        files = {f"{FOLDER}/{name}": _web(name) for name in self._web_files()}

        # of long tables the rest of the rows, and what the viewer shows
        sections = []
        for number, table in enumerate(tables):
            name = f"{FOLDER}/rows-{number}.js"
            sections.append(table.section(name))
            if table.rest:
                files[name] = f"dmeRows({json.dumps(''.join(table.rest))});\n"
        scripts = self._scripts()
        if self.viewer is not None:
            files[f"{FOLDER}/{SCANS}"] = f"dme.start({json.dumps(self.viewer)});\n"

        parts = {
            "policy": POLICY,
            "title": escaped(self.title),
            "styles": _tags('<link rel="stylesheet" href="{}">', self._styles()),
            "headline": _headline(self.headline),
            "skipped": _listed("skipped", "Skipped", self.skipped),
            "doubtful": _listed("doubtful", "Doubtful", self.doubtful, self.viewer is not None),
            "viewer": "" if self.viewer is None else VIEWER_TEMPLATE.read_text("utf-8"),
            "tables": "".join(sections),
            "facts": _facts(self.facts),
            "scripts": _tags('<script src="{}"></script>', scripts),
        }
        template = TEMPLATE.read_text(encoding="utf-8")
        text = PLACEHOLDER.sub(lambda place: parts[place[1]], template)
        for name, content in {**files, path.name: text}.items():  # the page last
            with atomic_path(path.parent / name) as temporary:
                temporary.write_text(content, encoding="utf-8", errors="replace")
        return [*files, path.name]

    def _styles(self) -> Sequence[str]:
        return STYLES if self.viewer is None else (*STYLES, *VIEWER_STYLES)

    def _scripts(self) -> Sequence[str]:
        return SCRIPTS if self.viewer is None else (*SCRIPTS, *VIEWER_SCRIPTS, SCANS)

    def _web_files(self) -> list[str]:
        """Names of style and scripts that are copied."""
        return [name for name in (*self._styles(), *self._scripts()) if name != SCANS]


def _web(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _tags(tag: str, names: Sequence[str]) -> str:
    return "\n".join(tag.format(f"{FOLDER}/{name}") for name in names)


def _headline(headline: Pairs) -> str:
    text = ""
    for what, number in headline:
        text += f"<div><b>{escaped(number)}</b><span>{escaped(what)}</span></div>"
    return text


def _listed(name: str, title: str, pairs: Pairs, links: bool = False) -> str:
    """A section of files or scans with a reason each; nothing without any. links: to scans."""
    if not pairs:
        return ""
    items = ""
    for file, reason in pairs:
        shown = f"<code>{escaped(file)}</code>"
        if links:
            shown = scan_link(file, shown)
        items += f"<li>{shown}: {escaped(reason)}</li>"
    # in the viewer doubtful scans are marked too: a long list of them may be closed
    state = "" if links and len(pairs) > MOST_OPEN else " open"
    heading = f"<summary><h2>{title} ({len(pairs)})</h2></summary>"
    return f'<details id="{name}" class=listed{state}>{heading}<ul>{items}</ul></details>'


def _facts(facts: Pairs) -> str:
    text = ""
    for what, value in facts:
        text += f"<dt>{escaped(what)}</dt><dd>{escaped(value)}</dd>"
    return text
