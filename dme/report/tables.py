"""The CSV tables that `predict` leaves."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dme.common.files import atomic_path
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.retina.volume import SECTORS

FILES = (
    *("measurements.csv", "volumes.csv", "sectors.csv", "retina_sectors.csv"),
    *("contact_sheet.png", "report.html"),
)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict]) -> None:
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="replace") as f,
    ):
        table = csv.DictWriter(f, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def write_tables(out: Path, task: str, rows: list[dict], volumes: list[dict]) -> None:
    """measurements.csv; with volumes volumes.csv, and of those with sectors one table for each map."""
    write_csv(out / "measurements.csv", SCAN_COLUMNS[task], rows)
    if volumes:
        write_csv(out / "volumes.csv", VOLUME_COLUMNS[task], volumes)
    for key in SECTORS.values():
        if sectors := sectors_of(volumes, key):
            write_csv(out / f"{key}.csv", SECTOR_COLUMNS, sectors)


def sectors_of(volumes: list[dict], key: str) -> list[dict]:
    return [{"volume": v["volume"], **sector} for v in volumes for sector in v.get(key, ())]


def write_rows(path: Path, boundaries: np.ndarray) -> None:
    """CSV of rows (8, W): a line for each image column, in pixels, counted from 0 at pixel centres."""
    table = np.vstack([np.arange(boundaries.shape[1]), boundaries]).T
    with atomic_path(path) as temporary:
        np.savetxt(
            temporary,
            table,
            ["%d", *["%.3f"] * 8],
            delimiter=",",
            header=",".join(ROW_COLUMNS),
            comments="",
        )
