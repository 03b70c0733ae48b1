"""The page of `annotate`: the report's viewer alone, with the scripts of the editor on top.

Written into a folder of its own, from which the server gives it out.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dme.annotation.sheets import Sheet
from dme.drawing.canvas import save_png
from dme.report.page import SCANS, Page
from dme.report.scan_files import write_values
from dme.report.viewer import viewer_content

EDITOR_STYLES = ("editor.css",)
EDITOR_SCRIPTS = ("editing.js", "tools.js", "toolbar.js")


class EditorPage(Page):
    """A page whose viewer can be drawn on."""

    def _styles(self) -> Sequence[str]:
        return (*super()._styles(), *EDITOR_STYLES)

    def _scripts(self) -> Sequence[str]:
        """The editor comes before the scans, whose script starts the page."""
        *scripts, scans = super()._scripts()
        if scans != SCANS:
            raise ValueError(f"the last script is {scans}, expected {SCANS}")
        return (*scripts, *EDITOR_SCRIPTS, SCANS)


def write_editor_page(
    folder: Path, pictures: Path, sheets: list[Sheet], volumes: list[dict], facts: Sequence
) -> None:
    """report.html and its files. pictures: where those of the maps are, if there are volumes."""
    rows = [sheet.row for sheet in sheets]
    # no numbers: they would be those of before the corrections
    content = viewer_content(pictures, rows, volumes, [], "bscan") | {"first": 0}
    EditorPage(
        title=f"Correct {len(rows)} scans",
        headline=(),
        skipped=(),
        tables=(),
        facts=facts,
        viewer=content,
    ).write(folder / "report.html")


def leave_scan(folder: Path, name: str, image: np.ndarray) -> dict[str, str]:
    """Files that the viewer needs of a scan that was not predicted: its picture, no values."""
    files = {"image": f"scans/{name}.png", "values": f"scans/{name}.js"}
    save_png(folder / files["image"], image, fast=True)
    write_values(folder / files["values"], name, {})
    return files
