"""What `annotate` opens: results of a prediction, or scans on which nothing is drawn yet."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dme.annotation.server import Drawable
from dme.common.errors import InputError, with_flags
from dme.common.tasks import Task
from dme.data.corrections import Annotation, Place
from dme.report.inputs import list_items
from dme.report.scans import Scan
from dme.report.stored import Stored
from dme.retina.rows import BOUNDARIES
from dme.retina.volume import SCALE, scale_of

LAST_READ = 8  # scans that stay in memory


@dataclass(frozen=True)
class Sheet:
    """A scan to draw on, and its row for the viewer."""

    drawable: Drawable
    row: dict


def sheets_of_results(stored: Stored) -> list[Sheet]:
    """The scans of a prediction, on which its findings are drawn."""

    # a finding is asked for when its scan is opened, and again at every save
    @lru_cache(LAST_READ)
    def original(index: int) -> Annotation:
        finding = stored.finding(stored.rows[index])
        return Annotation(finding.mask, _inside(finding.boundaries, stored.rows[index]))

    sheets = []
    for index, row in enumerate(stored.rows):
        place = Place(row["scan"], row["volume"], row["bscan"], scale_of(row))
        drawable = Drawable(
            place,
            (row["height_px"], row["width_px"]),
            image=lambda row=row: stored.image(row),
            original=lambda index=index: original(index),
        )
        sheets.append(Sheet(drawable, row))
    return sheets


def _inside(boundaries: np.ndarray | None, row: dict) -> np.ndarray | None:
    """Boundaries within the image, where files of them have to lie."""
    if boundaries is None:
        return None
    return np.clip(boundaries, 0, row["height_px"])


def sheets_of_scans(
    inputs: Sequence[str], volume: bool, task: Task, leave: Callable[[str, np.ndarray], dict]
) -> list[Sheet]:
    """Scans of files and folders, on which nothing is drawn.

    leave: writes the files of a scan that the viewer shows, and returns their names by key. A scan
    that cannot be read is said and left out; raises InputError if there is no other.
    """
    # which scans there are
    items, faults = list_items(list(inputs), volume)
    for reason in faults.values():
        raise InputError(reason)
    scans: list[Scan] = []
    names: set[str] = set()
    for item in items:
        scans += item.scans(names)

    # those that can be read, one at a time
    sheets = []
    for scan in scans:
        try:
            image = scan.read_grey()
        except InputError as e:
            print(f"skipped: {with_flags(str(e))}", file=sys.stderr)
            continue
        place = Place(scan.name, scan.volume, scan.position, scan.scale_um)
        empty = _empty(image.shape, task)
        drawable = Drawable(
            place, image.shape, image=scan.read_grey, original=lambda empty=empty: empty
        )
        sheets.append(Sheet(drawable, _row(scan, image.shape, task) | leave(scan.name, image)))
    if not sheets:
        raise InputError("no scan could be read (see above)")
    return sheets


def _empty(shape: tuple[int, int], task: Task) -> Annotation:
    """No fluid, and boundaries that are unknown everywhere, as the task has them."""
    fluid = boundaries = None
    if task.finds_fluid:
        fluid = np.zeros(shape, np.uint8)
    if task.finds_layers:
        boundaries = np.full((len(BOUNDARIES), shape[1]), np.nan, np.float32)
    return Annotation(fluid, boundaries)


def _row(scan: Scan, shape: tuple[int, int], task: Task) -> dict:
    """What the viewer has to know, as a row of a prediction has it."""
    scale = dict.fromkeys(SCALE) | dict(zip(SCALE, scan.scale_um or (), strict=False))
    row = {
        "scan": scan.name,
        "volume": scan.volume,
        "bscan": scan.position,
        "height_px": shape[0],
        "width_px": shape[1],
        "doubt": "",
        **scale,
    }
    if task.finds_layers:
        row["boundaries"] = ""
    return row


def in_order(sheets: list[Sheet], names: Sequence[str], place: str) -> list[Sheet]:
    """Those with these names, in their order, each by itself. place: of the list, for messages."""
    by_name = {sheet.drawable.place.name: sheet for sheet in sheets}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise InputError(
            f"{place} lists {unknown[0]}, which is none of the {len(sheets)} scans: "
            "give the same scans to ./run.sh suggest and to ./run.sh annotate"
        )
    alone = {"volume": None, "bscan": None}
    ordered = []
    for name in dict.fromkeys(names):
        sheet = by_name[name]
        ordered.append(Sheet(sheet.drawable, sheet.row | alone))
    return ordered
