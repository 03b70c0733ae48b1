"""Thickness of the layers and of the retina from boundary rows, and its names in tables."""

from collections.abc import Sequence

import numpy as np

from dme.retina.rows import THICKNESSES, check_rows, in_tables

THICKNESS_COLUMNS = {
    "px": tuple(f"{in_tables(name)}_thickness_px" for name in THICKNESSES),
    "um": tuple(f"{in_tables(name)}_thickness_um" for name in THICKNESSES),
}


def thickness_px(boundaries: np.ndarray) -> np.ndarray:
    """Thickness in every column, float64 (8, W): of the seven layers and of the retina.

    boundaries: rows (8, W). Order: THICKNESSES.
    """
    rows = check_rows(boundaries)
    layers = np.diff(rows, axis=0)  # (7, W)
    retina = rows[7:] - rows[:1]  # (1, W)
    return np.vstack([layers, retina])


def retina_px(boundaries: np.ndarray) -> np.ndarray:
    """Thickness of the retina in every column, float64 (W,), from rows (8, W)."""
    return thickness_px(boundaries)[-1]


def measure_layers(
    boundaries: np.ndarray, scale_um: Sequence[float] | None
) -> dict[str, float | None]:
    """Mean thickness of each layer and of the retina, in px and in um (None without a scale).

    boundaries: rows (8, W); the mean is over columns without NaN, None if there is none.
    scale_um: (axial, ...). Keys: THICKNESS_COLUMNS.
    """
    by_column = thickness_px(boundaries)
    known = np.isfinite(by_column).all(axis=0)
    measured: dict[str, float | None] = dict.fromkeys(
        THICKNESS_COLUMNS["px"] + THICKNESS_COLUMNS["um"]
    )
    if not known.any():
        return measured
    if not known.all():
        by_column = by_column[:, known]

    mean_px = by_column.mean(axis=1)
    for column, value in zip(THICKNESS_COLUMNS["px"], mean_px, strict=True):
        measured[column] = float(value)
    if scale_um:
        for column, value in zip(THICKNESS_COLUMNS["um"], mean_px, strict=True):
            measured[column] = float(value * scale_um[0])
    return measured
