"""The CSV tables that `predict` leaves."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dme.common.files import atomic_path
from dme.common.tasks import Task
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.retina.volume import SECTORS

TABLES = ("measurements.csv", "volumes.csv", *(f"{key}.csv" for key in SECTORS.values()))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    """Write rows atomically; what has no column is left out."""
    with atomic_path(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8", errors="replace") as f:
            table = csv.DictWriter(f, columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)


def write_tables(out: Path, task: Task, rows: list[dict], volumes: list[dict]) -> None:
    """measurements.csv; with volumes volumes.csv, and with sectors a table for each map."""
    write_csv(out / "measurements.csv", SCAN_COLUMNS[task.name], rows)
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
    table = np.vstack([columns, boundaries]).T  # (W, 9)
    formats = ["%d"] + ["%.3f"] * len(boundaries)
    header = ",".join(ROW_COLUMNS)
    with atomic_path(path) as temporary:
        np.savetxt(temporary, table, formats, delimiter=",", header=header, comments="")
