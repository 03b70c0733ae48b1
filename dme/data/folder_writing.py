"""A folder of B-scans, written as `dme.data.folder` reads it."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import atomic_path, is_plain_name
from dme.common.labels import IGNORE
from dme.data.boundary_files import write_boundaries
from dme.data.index import INDEX, PLACE_COLUMNS, SCALE_COLUMNS
from dme.drawing.canvas import save_png


def write_folder(folder: Path, scans: Iterable[BScan]) -> None:
    """Write images/, the masks and boundaries there are, and index.csv; regions are left out.

    Each file is whole or absent, and replaces that of an earlier call; the index comes last, so
    that a folder without it is not complete. Raises InputError for a name that is no file's or
    not the only one, for labels of an earlier call that this one has not, and for masks that
    would be read as something else.
    """
    # a line of the index per scan
    lines: dict[str, list] = {}
    values: set[int] = set()
    for scan in scans:
        if not is_plain_name(scan.name) or scan.name in lines:
            raise InputError(f"{folder}: expected scans of different plain names, got {scan.name}")
        _write_scan(folder, scan)
        if scan.fluid is not None:
            values |= set(np.unique(scan.fluid).tolist())
        lines[scan.name] = [scan.name, scan.subject, scan.position, *(scan.scale_um or ())]

    # 255 beside 0 alone is read as fluid
    if not values <= {0, 1, IGNORE} or IGNORE in values and 1 not in values:
        raise InputError(
            f"{folder}: masks hold {sorted(values)}; expected 0 and 1 (fluid), and {IGNORE} "
            "(unknown) only beside fluid"
        )
    _write_index(folder / INDEX, list(lines.values()))


def _write_scan(folder: Path, scan: BScan) -> None:
    files = {
        folder / "images" / f"{scan.name}.png": scan.image,
        folder / "fluid" / f"{scan.name}.png": scan.fluid,
        folder / "boundaries" / f"{scan.name}.npy": scan.layers,
    }
    for path, array in files.items():
        if array is None:
            if path.exists():
                raise InputError(f"{path} is of an earlier set: delete {folder} and start again")
        elif path.suffix == ".png":
            save_png(path, array)
        else:
            write_boundaries(path, array)


def _write_index(path: Path, lines: list[list]) -> None:
    """lines: name, subject and position, where it is known also the scale, of each scan."""
    columns = [*PLACE_COLUMNS, *SCALE_COLUMNS]
    longest = max(map(len, lines), default=len(PLACE_COLUMNS))
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns[:longest])
            for line in lines:
                table.writerow([*line, *[""] * (longest - len(line))])
