"""The CSV tables that `predict` leaves."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dme.common.files import atomic_path
from dme.common.tasks import Task
from dme.report.columns import EDITED, ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.retina.volume import SCALE, SECTORS

TABLES = ("measurements.csv", "volumes.csv", *(f"{key}.csv" for key in SECTORS.values()))


# end of a name -> decimals that mean something; a pixel is more than 2e-6 mm2, 1e-8 mm3
DECIMALS = {"_px": 2, "_um": 2, "_mm2": 6, "_mm3": 8, "_percent": 2, "_probability": 4}
SCALE_DECIMALS = 4
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with what a cell begins that a spreadsheet runs


def rounded(row: dict) -> dict:
    """A row, with those that it holds, whose numbers have the decimals that their names allow."""
    return {key: _rounded(key, value) for key, value in row.items()}


def _rounded(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [rounded(item) if isinstance(item, dict) else item for item in value]
    if not isinstance(value, float):
        return value
    decimals = SCALE_DECIMALS
    if key not in SCALE:
        for ending, count in DECIMALS.items():
            if key.endswith(ending):
                decimals = count
    # a product such as 0.00026308260000000003 ends where it should; 0 has no sign
    return round(value, decimals) + 0.0


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would run begins with an apostrophe."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    """Write rows atomically, rounded; what has no column is left out, text is never a formula."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="replace") as f:
            table = csv.DictWriter(f, columns, extrasaction="ignore")
            table.writeheader()
            for row in rows:
                table.writerow({key: _cell(value) for key, value in rounded(row).items()})


def write_tables(out: Path, task: Task, rows: list[dict], volumes: list[dict]) -> None:
    """measurements.csv; with volumes volumes.csv, and with sectors a table for each map."""
    columns = SCAN_COLUMNS[task.name]
    if EDITED[0] in rows[0]:
        columns += EDITED
    write_csv(out / "measurements.csv", columns, rows)
    if volumes:
        write_csv(out / "volumes.csv", VOLUME_COLUMNS[task.name], volumes)
    for key in SECTORS.values():
        sectors = sectors_of(volumes, key)
        if sectors:
            write_csv(out / f"{key}.csv", SECTOR_COLUMNS, sectors)


def sectors_of(volumes: list[dict], key: str) -> list[dict]:
    """The sectors of all volumes, each with its volume's name. key: one of SECTORS' values."""
    sectors = []
    for volume in volumes:
        for sector in volume.get(key, ()):
            sectors.append({"volume": volume["volume"], **sector})
    return sectors


def write_rows(path: Path, boundaries: np.ndarray) -> None:
    """CSV of rows (8, W): a line for each image column, in pixels, from 0 at pixel centres."""
    # a row of the table is a column of the image
    columns = np.arange(boundaries.shape[1])
    rows = np.round(boundaries.astype(np.float64), 3) + 0.0  # 0 has no sign
    table = np.vstack([columns, rows]).T  # (W, 9)
    formats = ["%d"] + ["%.3f"] * len(boundaries)
    header = ",".join(ROW_COLUMNS)
    with atomic_path(path) as temporary:
        np.savetxt(temporary, table, formats, delimiter=",", header=header, comments="")


def read_rows(path: Path) -> np.ndarray:
    """The boundary rows (8, W) of a table that `write_rows` wrote."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    return table.T[1:]
