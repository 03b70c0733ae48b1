"""Boundaries beside those that the device itself stored in its file."""

from collections.abc import Sequence

import numpy as np

from dme.common.errors import InputError
from dme.report.scans import Scan

# name of a device's line -> row of `dme.retina.rows.BOUNDARIES` that is the same
SAME = {"ILM": 0, "BM": 7}


def device_distances(scan: Scan, boundaries: np.ndarray) -> dict[str, float | int]:
    """Of each line of SAME that the scan's file has: mean distance, and in how many columns.

    boundaries: rows (8, W). Keys: device_ilm_px, device_ilm_columns and so on.
    """
    if scan.record is None or scan.record.lines is None:
        return {}
    try:
        lines = scan.record.lines(scan.index)
    except InputError:  # no layers are needed of the device
        return {}
    distances: dict[str, float | int] = {}
    for name, row in SAME.items():
        if name not in lines:
            continue
        apart_px = np.abs(lines[name] - boundaries[row])
        known = np.isfinite(apart_px)
        if known.any():
            distances[f"device_{name.lower()}_px"] = float(apart_px[known].mean())
            distances[f"device_{name.lower()}_columns"] = int(known.sum())
    return distances


def distance_lines(rows: Sequence[dict]) -> list[str]:
    """How far the boundaries of all scans lie from the device's, a line for each.

    Of boundaries that a person corrected nothing is known.
    """
    lines = []
    for name in SAME:
        key = f"device_{name.lower()}_px"
        known = [row for row in rows if row.get(key) is not None]
        columns = sum(row[f"device_{name.lower()}_columns"] for row in known)
        if columns:
            total = sum(row[key] * row[f"device_{name.lower()}_columns"] for row in known)
            where = f"{columns} columns of {len(known)} scans"
            lines.append(
                f"mean distance from the device's {name}: {total / columns:.2f} px ({where})"
            )
    return lines
