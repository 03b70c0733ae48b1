"""Layer boundaries of a folder, one array of rows per scan."""

from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.retina.rows import MAX_CROSSING_PX, repair_boundaries


def read_boundaries(path: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows float32 (8, W) of a .npy file, in order, and by how many px each crossed an upper one,
    (8, W).

    shape: (height, width) of the scan. Raises InputError for another shape, rows outside the
    image, and crossings of more than MAX_CROSSING_PX.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except Exception as e:  # NumPy raises OSError, ValueError, TokenError, BadZipFile, ...
        raise InputError(f"{path}: not a readable .npy array ({e})") from e
    if not isinstance(rows, np.ndarray):
        raise InputError(
            f"{path}: an archive of arrays (.npz), expected one array; save it by numpy.save"
        )

    height, width = shape
    if rows.shape != (8, width) or rows.dtype.kind not in "uif":
        raise InputError(f"{path}: {rows.dtype} {rows.shape}, expected numbers (8, width {width})")
    if (rows < 0).any() or (rows > height).any():
        found = f"rows {np.nanmin(rows):g}..{np.nanmax(rows):g}"
        raise InputError(f"{path}: {found} leave the image, {height} px high")

    repaired, crossing = repair_boundaries(rows)
    if crossing.max() > MAX_CROSSING_PX:
        k, column = np.unravel_index(crossing.argmax(), crossing.shape)
        lies = f"lies {crossing.max():.1f} px above an upper one in column {column}"
        remedy = f"only crossings up to {MAX_CROSSING_PX:g} px are repaired"
        raise InputError(f"{path}: boundary {k + 1} {lies}; {remedy}")
    return repaired, crossing


def write_boundaries(path: Path, rows: np.ndarray) -> None:
    """Write rows (8, W), as float32, to a .npy file that is whole or not there."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, rows.astype(np.float32))
