"""Layers of one scan in numbers: rows, mean thickness, fluid within each; and their names in tables."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dme.files import atomic_path
from dme.layers import BOUNDARIES, CLASSES, THICKNESSES, fluid_per_layer, thickness_um
from dme.measure import area_mm2


def in_tables(name: str) -> str:
    """Name of a boundary or layer as in the head of a table: GCL+IPL is gcl_ipl."""
    return re.sub(r"\W+", "_", name).lower()


ROW_COLUMNS = ("column", *(f"{in_tables(name)}_px" for name in BOUNDARIES))
THICKNESS_COLUMNS = {
    unit: tuple(f"{in_tables(name)}_thickness_{unit}" for name in THICKNESSES) for unit in ("px", "um")
}
# fluid above the retina and below it is a mistake of one of the networks: shown, not hidden
FLUID_COLUMNS = {unit: tuple(f"fluid_{in_tables(name)}_{unit}" for name in CLASSES) for unit in ("px", "mm2")}


def measure_layers(boundaries: np.ndarray, scale_um: Sequence[float] | None) -> dict[str, float | None]:
    """Mean thickness of each layer and of the retina, in px and in um (None without a scale).

    boundaries: rows (8, W) without NaN. scale_um: (axial, ...). Keys: THICKNESS_COLUMNS.
    """
    mean_px = thickness_um(boundaries, 1).mean(axis=1)
    mean_um = mean_px * scale_um[0] if scale_um else [None] * len(mean_px)
    keys = (*THICKNESS_COLUMNS["px"], *THICKNESS_COLUMNS["um"])
    values = (None if value is None else float(value) for value in (*mean_px, *mean_um))
    return dict(zip(keys, values, strict=True))


def measure_fluid_in_layers(
    boundaries: np.ndarray, mask: np.ndarray, scale_um: Sequence[float] | None
) -> dict[str, int | float | None]:
    """Area of fluid in each of CLASSES, in px and in mm^2 (None without a scale). Keys: FLUID_COLUMNS."""
    pixels = fluid_per_layer(boundaries, mask).tolist()
    areas = [area_mm2(count, scale_um) for count in pixels]
    return dict(zip((*FLUID_COLUMNS["px"], *FLUID_COLUMNS["mm2"]), (*pixels, *areas), strict=True))


def retina_px(boundaries: np.ndarray) -> np.ndarray:
    """Thickness of the retina in every column, float64 (W,), from rows (8, W)."""
    return thickness_um(boundaries, 1)[-1]


def write_rows(path: Path, boundaries: np.ndarray) -> None:
    """CSV of rows (8, W): a line for each image column, in pixels, counted from 0 at pixel centres."""
    table = np.vstack([np.arange(boundaries.shape[1]), boundaries]).T
    with atomic_path(path) as temporary:
        np.savetxt(
            temporary, table, ["%d", *["%.3f"] * 8], delimiter=",", header=",".join(ROW_COLUMNS), comments=""
        )
