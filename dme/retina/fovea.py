"""Where the fovea lies: the pit in a map of the retina's thickness, with a confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

SMOOTH_UM = 100.0  # sigma of the smoothing
LEAST_KNOWN = 0.5  # of what is smoothed into a place
REACH_UM = 1500.0  # from the centre of the map: as far as people look beside the target
# the rim of the pit, all around it
RIM_UM = 800.0
RIM_PLACES = 8
DEEP_UM = 40.0  # a pit that is so much deeper than the lowest part of its rim is certain
LEAST_CONFIDENCE = 0.5  # less is no fovea
PIT_UM = 300.0  # radius in which its middle is sought


@dataclass(frozen=True)
class Fovea:
    """The centre of a volume's sectors: (column, bscan) in cells of its map from its first row."""

    column: float
    bscan: float
    origin: str  # "given", "found" or "centre"
    confidence: float | None = None  # 0 to 1 that a pit was found; None where none was sought


def place_fovea(
    retina_um: np.ndarray | None,
    lateral_um: float | None,
    spacing_um: float | None,
    centre: Sequence[float],
) -> Fovea:
    """The pit of a map, or where there is none the centre (column, bscan).

    retina_um: thickness (B-scans, columns) um, NaN where unknown; None without layers.
    """
    if retina_um is None or not lateral_um or not spacing_um:
        return Fovea(*centre, "centre")
    column, bscan, confidence = find_pit(retina_um, lateral_um, spacing_um)
    if confidence < LEAST_CONFIDENCE:
        return Fovea(*centre, "centre", confidence)
    return Fovea(column, bscan, "found", confidence)


def find_pit(
    retina_um: np.ndarray, lateral_um: float, spacing_um: float
) -> tuple[float, float, float]:
    """Column, B-scan and confidence of the deepest pit near the centre of a map.

    The depth of a place is how much thicker the thinnest of eight places of its rim is, so that
    slopes, such as that to the optic disc, and cysts at one side have none. The confidence is that
    depth over DEEP_UM, 0 to 1, 0 where the rim is not known all around.
    """
    smooth_um = _smoothed(retina_um, lateral_um, spacing_um)
    depth_um = _depths(smooth_um, lateral_um, spacing_um)
    bscans, columns = retina_um.shape
    x_um = (np.arange(columns) - (columns - 1) / 2) * lateral_um
    y_um = ((np.arange(bscans) - (bscans - 1) / 2) * spacing_um)[:, None]
    depth_um[np.hypot(x_um, y_um) > REACH_UM] = np.nan
    if not np.isfinite(depth_um).any():
        return (columns - 1) / 2, (bscans - 1) / 2, 0.0

    # the middle of what is deep around the deepest place
    row, column = np.unravel_index(np.nanargmax(depth_um), depth_um.shape)
    deepest_um = float(depth_um[row, column])
    near = np.hypot(x_um - x_um[column], y_um - y_um[row]) <= PIT_UM
    weight = np.where(near, np.nan_to_num(depth_um) - deepest_um / 2, 0).clip(0)
    rows, columns_at = np.mgrid[:bscans, :columns]
    total = weight.sum()
    if not total:
        return float(column), float(row), 0.0
    confidence = min(1.0, max(0.0, deepest_um / DEEP_UM))
    middle = (weight * columns_at).sum() / total, (weight * rows).sum() / total
    return float(middle[0]), float(middle[1]), confidence


def _smoothed(retina_um: np.ndarray, lateral_um: float, spacing_um: float) -> np.ndarray:
    """The map without its finest detail, NaN where less than half around a place is known."""
    sigma = (SMOOTH_UM / spacing_um, SMOOTH_UM / lateral_um)
    known = np.isfinite(retina_um)
    share = gaussian_filter(known.astype(np.float64), sigma, mode="nearest")
    total_um = gaussian_filter(np.where(known, retina_um, 0.0), sigma, mode="nearest")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(share >= LEAST_KNOWN, total_um / share, np.nan)


def _depths(smooth_um: np.ndarray, lateral_um: float, spacing_um: float) -> np.ndarray:
    """Of every place the thinnest part of its rim less its own thickness; NaN where unknown."""
    rows, columns = np.mgrid[: smooth_um.shape[0], : smooth_um.shape[1]]
    rim_um = np.full(smooth_um.shape, np.inf)
    for step in range(RIM_PLACES):
        angle = 2 * math.pi * step / RIM_PLACES
        down = rows + RIM_UM * math.sin(angle) / spacing_um
        across = columns + RIM_UM * math.cos(angle) / lateral_um
        there_um = map_coordinates(smooth_um, [down, across], order=1, cval=np.nan)
        rim_um = np.minimum(rim_um, there_um)  # NaN stays
    return rim_um - smooth_um
