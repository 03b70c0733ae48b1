"""Boundary rows: what they mean, their names, and the labels of the layers between them.

Rows count from 0 and whole numbers are pixel centres: pixel y covers y - 0.5 to y + 0.5. A pixel
belongs to the layer in which its centre lies, so the first pixel below a boundary at row b is
ceil(b), and a boundary between the pixels y - 1 and y lies at y - 0.5. The phantom's rows are
exact in this sense.

Rows that count from 1, as MATLAB's do, lie one pixel too low here. It shows at the ILM and IS/OS,
dark above and bright below: on average over columns, brightness rises most steeply at row b when
rows count from 0, at b - 1 when they count from 1. Thickness, and errors within one set, do not
depend on it.
"""

import re

import numpy as np

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.common.tasks import LAYER_CLASSES, LAYERS, TASKS

BOUNDARIES = ("ILM", "NFL/GCL", "IPL/INL", "INL/OPL", "OPL/ONL", "IS/OS", "OS/RPE", "RPE/choroid")
CLASSES = LAYER_CLASSES  # 0 to 8, of which LAYERS are 1 to 7
FLUID_LABEL = TASKS["layers+fluid"].fluid_label  # beside layers 9; alone it is 1
THICKNESSES = (*LAYERS, "retina")  # the retina from ILM to RPE/choroid

MAX_CROSSING_PX = 3.0  # boundaries that cross by more are wrong, not merely noisy


def check_rows(boundaries: np.ndarray, width: int | None = None) -> np.ndarray:
    """Boundary rows as float64 (8, W), or InputError for another shape or width, or crossings."""
    rows = np.asarray(boundaries, np.float64)
    shaped = rows.ndim == 2 and len(rows) == len(BOUNDARIES)
    if not shaped or width is not None and rows.shape[1] != width:
        columns = "width" if width is None else width
        names = f"rows from {BOUNDARIES[0]} to {BOUNDARIES[-1]}"
        raise InputError(
            f"boundaries have shape {rows.shape}, expected ({len(BOUNDARIES)}, {columns}), {names}"
        )
    crossing = np.fmax.accumulate(rows, axis=0) - rows
    if (crossing > 0).any():
        k, column = np.unravel_index(np.nanargmax(crossing), crossing.shape)
        lies = f"lies {crossing[k, column]:.2f} px above an upper boundary in column {column}"
        raise InputError(
            f"{BOUNDARIES[k]} {lies}, expected rows in order: "
            "use dme.retina.rows.repair_boundaries"
        )
    return rows


def layer_labels(
    boundaries: np.ndarray, height: int, fluid: np.ndarray | None = None
) -> np.ndarray:
    """Label map uint8 (height, W): 0 above the retina, 1 to 7 the layers, 8 below, 9 fluid.

    boundaries: (8, W); a column with any NaN is unknown, 255. fluid: uint8 (height, W); 1 becomes
    9 in graded columns, 255 stays 255. Raises InputError as `check_rows` does, and for a mask of
    another shape.
    """
    # layers, then fluid on top, then what is unknown
    rows = check_rows(boundaries)
    labels = np.zeros((height, rows.shape[1]), np.uint8)
    for row in rows:
        labels += np.arange(height)[:, None] >= row  # the centre lies at or below the boundary
    if fluid is not None:
        if fluid.shape != labels.shape:
            raise InputError(
                f"fluid mask is {fluid.shape}, expected {labels.shape} as boundaries and height"
            )
        labels[fluid == 1] = FLUID_LABEL
        labels[fluid == IGNORE] = IGNORE
    labels[:, np.isnan(rows).any(axis=0)] = IGNORE
    return labels


def scale_rows(
    boundaries: np.ndarray, shape: tuple[int, int], scaled: tuple[int, int]
) -> np.ndarray:
    """Rows (8, W) of a scan as float32 rows (8, W') of the scan resized.

    shape: (H, W) of the scan, scaled: (H', W'). A new column has the mean of the columns it
    covers, unknown where one of them is.
    """
    rows = np.array(boundaries, np.float32)
    if shape[1] != scaled[1]:
        rows = _average_columns(rows, scaled[1])
    factor = np.float32(scaled[0] / shape[0])
    return (rows + np.float32(0.5)) * factor - np.float32(0.5)


def _average_columns(rows: np.ndarray, width: int) -> np.ndarray:
    """Means (8, width) of the columns that each new one covers, summed from left to right."""
    old_width = rows.shape[1]
    new = np.arange(width)
    first = new * old_width // width
    end = -(-(new + 1) * old_width // width)  # rounded up
    count = end - first
    total = np.zeros((len(rows), width), np.float32)
    for step in range(count.max()):
        covered = step < count
        total[:, covered] += rows[:, first[covered] + step]
    return total / count.astype(np.float32)


def in_tables(name: str) -> str:
    """Name of a boundary or layer as in the head of a table: GCL+IPL is gcl_ipl."""
    return re.sub(r"\W+", "_", name).lower()


def repair_boundaries(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boundaries (B, W) put in order downwards, float32, and by how many px each crossed.

    Boundaries that cross move to the mean of the running maximum from above and the running
    minimum from below; everything else, NaN (ungraded) included, stays as it is.
    """
    rows = np.asarray(rows, np.float64)
    above = np.fmax.accumulate(rows, axis=0)
    upwards = np.fmin.accumulate(rows[::-1], axis=0)
    below = upwards[::-1]
    middle = (above + below) / 2
    monotone = np.where(np.isnan(rows), np.nan, middle)
    return monotone.astype(np.float32), np.nan_to_num(above - rows)
