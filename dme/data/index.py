"""index.csv of a folder: subject, B-scan and scale of each image."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dme.common.errors import InputError
from dme.data.source import listing

PLACE_COLUMNS = ("name", "subject", "bscan")
SCALE_COLUMNS = ("axial_um", "lateral_um", "spacing_um")
EXPECTED = f"UTF-8, subject >= 1, bscan >= 0, and {', '.join(SCALE_COLUMNS)} > 0 or all empty"


class IndexRow(NamedTuple):
    """Where an image belongs; rows sort by subject and position."""

    subject: int
    position: int
    name: str
    scale_um: tuple[float, ...] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """(subject, position)"""
        return self.subject, self.position


def read_index(path: Path, images: Iterable[str]) -> list[IndexRow]:
    """Rows of index.csv: name (extension or not), subject from 1, bscan from 0, optional scale in
    um.

    images: stems of the images there are. Raises InputError with the line that is wrong.
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
    subject = int(cells["subject"])
    position = int(cells["bscan"])
    if subject < 1 or position < 0:
        raise ValueError
    given = [key for key in SCALE_COLUMNS if cells.get(key)]
    scale_um = tuple(float(cells[key]) for key in given)
    complete = len(scale_um) in (0, len(SCALE_COLUMNS))
    possible = all(0 < um < math.inf for um in scale_um)
    if not complete or not possible:
        raise ValueError
    return IndexRow(subject, position, name, scale_um or None)
