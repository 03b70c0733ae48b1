"""The ETDRS grid on an en-face map: nine sectors within circles of 1, 3 and 6 mm diameter.

Early Treatment Diabetic Retinopathy Study report 10 (Ophthalmology 1991; 98:786). Rings are cut
along the diagonals. Rows of a map are B-scans from inferior to superior, which is how Spectralis
volumes are exported (B-scan 0 is the lowest); columns run as in a fundus picture, so that nasal is
right in a right eye (OD).
"""

import math
from collections.abc import Sequence

import numpy as np

from dme.common.errors import InputError
from dme.common.words import EYES

DIAMETERS_MM = (1.0, 3.0, 6.0)
RADII_UM = tuple(1000 * diameter / 2 for diameter in DIAMETERS_MM)
SIDES = {
    "OD": ("temporal", "nasal"),
    "OS": ("nasal", "temporal"),
    None: ("left", "right"),
}
RINGS = ("inner", "outer")
# a map's cells are long: sampled this finely, at most so many times a side
SAMPLE_UM = 12.0
MAX_SAMPLES = 32


def side_names(eye: str | None) -> tuple[str, str]:
    """What lies to the left and to the right of a scan; without an eye just that."""
    if eye not in (None, *EYES):
        raise InputError(f"eye {eye!r} is unknown; give {' or '.join(EYES)}")
    return SIDES[eye]


def sector_names(eye: str | None = None) -> list[str]:
    """Names of the nine sectors, in the order of `sector_shares`."""
    left, right = side_names(eye)
    names = ["center"]
    for ring in RINGS:
        names += [f"{ring}_{side}" for side in ("superior", right, "inferior", left)]
    return names


def sector_shares(
    shape: tuple[int, int], lateral_um: float, spacing_um: float, centre: Sequence[float]
) -> np.ndarray:
    """Share of every cell of a map that lies in every sector, float32 (9, B-scans, columns).

    shape: (B-scans, columns). centre: (column, B-scan) of the fovea in cells, fractions allowed;
    an integer is the middle of its cell.
    """
    # samples lie evenly within the cells, `down` x `across` in each
    bscans, columns = shape
    down = _samples(spacing_um)
    across = _samples(lateral_um)
    shares = np.zeros((9, bscans, columns), np.float32)
    for i in range(down):
        y = np.arange(bscans) + (i + 0.5) / down - 0.5
        y_um = (y - centre[1])[:, None] * spacing_um
        for j in range(across):
            x = np.arange(columns) + (j + 0.5) / across - 0.5
            x_um = (x - centre[0]) * lateral_um
            sector = _sectors(x_um, y_um)
            for k in range(9):
                shares[k] += sector == k
    return shares / (down * across)


def _samples(step_um: float) -> int:
    """How often a cell is sampled along a side of this length."""
    return min(MAX_SAMPLES, math.ceil(step_um / SAMPLE_UM))


def _sectors(x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
    """Sector of points at these distances from the fovea, 0 to 8, more outside the grid."""
    ring = np.searchsorted(RADII_UM, np.hypot(x_um, y_um))  # 0 centre, 1, 2, 3 outside
    vertical = np.where(y_um > 0, 0, 2)
    horizontal = np.where(x_um > 0, 1, 3)
    steep = np.abs(y_um) > np.abs(x_um)
    quadrant = np.where(steep, vertical, horizontal)
    return np.where(ring == 0, 0, 4 * ring - 3 + quadrant)


def sector_table(
    thickness_um: np.ndarray,
    lateral_um: float,
    spacing_um: float,
    centre: Sequence[float],
    eye: str | None = None,
) -> list[dict]:
    """Volume and mean thickness in each sector of a map.

    thickness_um: (B-scans, columns), NaN where unknown. The others as of `sector_shares`. Returns
    nine rows: sector, covered_percent (of the sector's area by known cells), mean_um over those
    (None without any) and volume_mm3 over those.
    """
    shares = sector_shares(thickness_um.shape, lateral_um, spacing_um, centre)
    known = np.isfinite(thickness_um)
    values_um = np.where(known, thickness_um, 0.0)
    cell_mm2 = lateral_um * spacing_um / 1e6
    rows = []
    areas_mm2 = sector_areas_mm2()
    for name, share, whole_mm2 in zip(sector_names(eye), shares, areas_mm2, strict=True):
        covered = share[known].sum(dtype=np.float64)  # cells
        covered_mm2 = float(covered) * cell_mm2
        volume = (share * values_um).sum(dtype=np.float64)  # um of cells
        volume_mm3 = float(volume) * cell_mm2 / 1e3
        rows.append(
            {
                "sector": name,
                "covered_percent": min(100.0, 100 * covered_mm2 / whole_mm2),
                "mean_um": 1e3 * volume_mm3 / covered_mm2 if covered_mm2 else None,
                "volume_mm3": volume_mm3,
            }
        )
    return rows


def sector_areas_mm2() -> list[float]:
    """Areas of the nine sectors in mm^2."""
    discs = [math.pi * diameter**2 / 4 for diameter in DIAMETERS_MM]
    centre, inner, outer = discs
    inner_quarter = (inner - centre) / 4
    outer_quarter = (outer - inner) / 4
    return [centre] + 4 * [inner_quarter] + 4 * [outer_quarter]
