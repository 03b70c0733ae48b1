"""Thickness of the layers and of the retina from boundary rows, and its names in tables."""

from collections.abc import Sequence

import numpy as np

from dme.common.errors import InputError
from dme.retina.rows import THICKNESSES, check_rows, in_tables

THICKNESS_COLUMNS = {
    unit: tuple(f"{in_tables(name)}_thickness_{unit}" for name in THICKNESSES)
    for unit in ("px", "um")
}


def thickness_um(boundaries: np.ndarray, axial_um: float | None) -> np.ndarray:
    """Thickness in every column, float64 (8, W): of the seven layers and of the retina (see
    THICKNESSES).

    boundaries: rows (8, W). Raises InputError without an axial scale.
    """
    if not axial_um:
        raise InputError(
            "thickness in um needs the axial scale, which is unknown: give it in index.csv"
        )
    rows = check_rows(boundaries)
    return np.vstack([np.diff(rows, axis=0), rows[7:] - rows[:1]]) * axial_um


def measure_layers(
    boundaries: np.ndarray, scale_um: Sequence[float] | None
) -> dict[str, float | None]:
    """Mean thickness of each layer and of the retina, in px and in um (None without a scale).

    boundaries: rows (8, W) without NaN. scale_um: (axial, ...). Keys: THICKNESS_COLUMNS.
    """
    mean_px = thickness_um(boundaries, 1).mean(axis=1)
    mean_um = mean_px * scale_um[0] if scale_um else [None] * len(mean_px)
    keys = (*THICKNESS_COLUMNS["px"], *THICKNESS_COLUMNS["um"])
    values = (None if value is None else float(value) for value in (*mean_px, *mean_um))
    return dict(zip(keys, values, strict=True))


def retina_px(boundaries: np.ndarray) -> np.ndarray:
    """Thickness of the retina in every column, float64 (W,), from rows (8, W)."""
    return thickness_um(boundaries, 1)[-1]
