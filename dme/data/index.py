"""index.csv of a folder: subject, B-scan, scale, eye, fovea and ungraded columns of each image."""

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dme.common.errors import InputError
from dme.common.scale import check_scale
from dme.common.words import EYES
from dme.data.source import listing

INDEX = "index.csv"  # its name
PLACE_COLUMNS = ("name", "subject", "bscan")
SCALE_COLUMNS = ("axial_um", "lateral_um", "spacing_um")
FOVEA_COLUMNS = ("fovea_column", "fovea_bscan")
UNGRADED_COLUMN = "ungraded"
RANGES = re.compile(r"(\d{1,6})-(\d{1,6})")  # of columns, such as 0-98
MOST_SUBJECT = 2**63 - 1  # what int64 holds
MOST_BSCAN = 9999  # far more than any volume has: greater numbers are dates or times
EXPECTED = (
    f"UTF-8, subject >= 1, bscan 0 to {MOST_BSCAN} (its place in the volume, no date), both empty "
    f"where the eye is unknown, and {', '.join(SCALE_COLUMNS)} > 0, the last or all empty; where "
    f"known eye {' or '.join(EYES)}, and "
    f"{' and '.join(FOVEA_COLUMNS)} >= 0; {UNGRADED_COLUMN} such as 0-98 or 0-98 625-767"
)

Ranges = tuple[tuple[int, int], ...]  # first and last column of each


class IndexRow(NamedTuple):
    """Where an image belongs; rows sort by subject and position, where both are known."""

    subject: int | None  # None like the position: a scan of an eye that nobody named
    position: int | None
    name: str
    scale_um: tuple[float, ...] | None = None
    eye: str | None = None  # one of EYES
    fovea: tuple[float, ...] | None = None  # column, B-scan
    ungraded: Ranges = ()  # columns that nobody looked at

    @property
    def place(self) -> tuple[int | None, int | None]:
        """(subject, position)"""
        return self.subject, self.position


def read_index(path: Path, images: Iterable[str]) -> list[IndexRow]:
    """Rows of index.csv: name (extension or not), subject from 1, bscan from 0.

    Both are None, their cells empty, for a scan of an eye that nobody named. Optional: scale in
    um, eye, and fovea, which stand for all B-scans of a volume and need not be repeated, and the
    columns that nobody graded. images: stems of the images there are. Raises InputError with the
    line that is wrong.
    """
    rows: dict[str, IndexRow] = {}
    line = 1
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            _check_columns(path, table.fieldnames or [])
            for line, cells in enumerate(table, start=2):
                stem = Path(cells["name"]).stem
                name = cells["name"] if cells["name"] in images else stem
                if name not in images:
                    raise InputError(f"{path} line {line}: there is no image {cells['name']}")
                if name in rows:
                    raise InputError(f"{path} line {line}: {name} is listed twice; keep one line")
                rows[name] = _row(name, cells)
                if rows[name].scale_um:
                    check_scale(rows[name].scale_um, f"{path} line {line}")
    except (ValueError, TypeError, csv.Error) as e:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path} line {line}: expected {EXPECTED}") from e
    if not rows:
        raise InputError(f"{path} has no rows: list one image per line or remove the file")
    return list(rows.values())


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [column for column in PLACE_COLUMNS if column not in columns]
    if missing:
        raise InputError(f"{path}: no column {listing(missing)}; found {listing(columns)}")


def _row(name: str, cells: dict[str, str]) -> IndexRow:
    """The row of one line, or ValueError or TypeError for numbers that cannot be."""
    subject, position = _place(cells)
    scale_um = _scale(cells)
    if scale_um and min(scale_um) <= 0:
        raise ValueError
    eye = (cells.get("eye") or "").strip().upper() or None
    if eye not in (None, *EYES):
        raise ValueError
    fovea = _numbers(cells, FOVEA_COLUMNS)
    ungraded = read_ranges(cells.get(UNGRADED_COLUMN) or "")
    return IndexRow(subject, position, name, scale_um, eye, fovea, ungraded)


def _place(cells: dict[str, str]) -> tuple[int, int] | tuple[None, None]:
    """Subject and B-scan, None where both cells are empty; ValueError for anything else."""
    texts = [cells["subject"], cells["bscan"]]
    if None not in texts and not "".join(texts).strip():
        return None, None
    subject = int(cells["subject"])
    position = int(cells["bscan"])
    if not 1 <= subject <= MOST_SUBJECT or not 0 <= position <= MOST_BSCAN:
        raise ValueError
    return subject, position


def _scale(cells: dict[str, str]) -> tuple[float, ...] | None:
    """Axial, lateral and, where it is known, spacing in um; ValueError for anything else."""
    *within, spacing = SCALE_COLUMNS
    return _numbers(cells, SCALE_COLUMNS if cells.get(spacing) else tuple(within))


def read_ranges(text: str) -> Ranges:
    """Ranges of columns such as 0-98 625-767, or ValueError for anything else."""
    ranges = []
    for part in text.split():
        match = RANGES.fullmatch(part)
        if match is None or int(match[1]) > int(match[2]):
            raise ValueError
        ranges.append((int(match[1]), int(match[2])))
    return tuple(ranges)


def ranges_text(ranges: Ranges) -> str:
    """What `read_ranges` reads."""
    return " ".join(f"{first}-{last}" for first, last in ranges)


def _numbers(cells: dict[str, str], columns: tuple[str, ...]) -> tuple[float, ...] | None:
    """Those of all columns, None where all are empty; ValueError for anything else."""
    given = [cells[key] for key in columns if cells.get(key)]
    if not given:
        return None
    values = tuple(float(text) for text in given)
    possible = all(0 <= value < math.inf for value in values)
    if len(values) != len(columns) or not possible:
        raise ValueError
    return values
