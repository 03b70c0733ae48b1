"""Where the fovea lies: the pit in a map of the retina's thickness, with a confidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import center_of_mass, gaussian_filter, map_coordinates

SMOOTH_UM = 100.0  # sigma of the smoothing
LEAST_KNOWN = 0.5  # of what is smoothed into a place
REACH_UM = 1500.0  # from the centre of the map: as far as people look beside the target
# the rim of the pit, all around it
RIM_UM = 800.0
RIM_PLACES = 8
DEEP_UM = 40.0  # a pit that is so much deeper than the lowest part of its rim is certain
LEAST_CONFIDENCE = 0.5  # less is no fovea
PIT_UM = 300.0  # radius in which its middle is sought
# a retina is thicker, and its thickness changes by less per um; else boundaries are wrong there
THIN_UM = 100.0
STEEP = 0.8
STEP_UM = 60.0  # over which the change is looked at
MOST_WRONG = 0.1  # of what lies within the rim


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
    depth over DEEP_UM, at most 1; less where boundaries within the rim must be wrong, which over
    large cysts make pits of their own; 0 where the rim is not known all around.
    """
    # depth of every place that is near enough
    cell_um = (spacing_um, lateral_um)
    wrong = _must_be_wrong(retina_um, cell_um)
    sound_um = np.where(retina_um < THIN_UM, np.nan, retina_um)
    depth_um = _depths(_smoothed(sound_um, cell_um), cell_um)
    height, width = retina_um.shape
    centre = ((height - 1) / 2, (width - 1) / 2)
    depth_um[_distances(retina_um.shape, cell_um, centre) > REACH_UM] = np.nan
    if not np.nanmax(depth_um, initial=0) > 0:
        return centre[1], centre[0], 0.0

    # the middle of what is deep around the deepest one
    deepest = np.unravel_index(np.nanargmax(depth_um), depth_um.shape)
    deepest_um = float(depth_um[deepest])
    distance_um = _distances(retina_um.shape, cell_um, deepest)
    deep_um = np.nan_to_num(depth_um) - deepest_um / 2
    weight = np.where(distance_um <= PIT_UM, deep_um, 0).clip(0)
    row, column = center_of_mass(weight)

    # how much of what made it can be right
    share_wrong = float(wrong[distance_um <= RIM_UM].mean())
    sound = max(0.0, 1 - share_wrong / MOST_WRONG)
    return float(column), float(row), sound * min(1.0, deepest_um / DEEP_UM)


def _distances(
    shape: tuple[int, int], cell_um: tuple[float, float], place: Sequence[float]
) -> np.ndarray:
    """From a place (row, column) to every cell of a map, um. cell_um: down, across."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    down_um = (rows - place[0]) * cell_um[0]
    across_um = (columns - place[1]) * cell_um[1]
    return np.hypot(down_um, across_um)


def _must_be_wrong(retina_um: np.ndarray, cell_um: tuple[float, float]) -> np.ndarray:
    """Where a map is unknown, too thin, or too steep for a retina, bool (B-scans, columns)."""
    wrong = ~(retina_um >= THIN_UM)  # NaN too
    for axis, step_um in enumerate(cell_um):
        cells = max(1, round(STEP_UM / step_um))
        if cells >= retina_um.shape[axis]:
            continue
        lines = np.moveaxis(retina_um, axis, 0)
        change_um = np.abs(lines[cells:] - lines[:-cells])
        steep = change_um > STEEP * cells * step_um
        # both ends of what is steep
        wrong_lines = np.moveaxis(wrong, axis, 0)
        wrong_lines[cells:] |= steep
        wrong_lines[:-cells] |= steep
    return wrong


def _smoothed(retina_um: np.ndarray, cell_um: tuple[float, float]) -> np.ndarray:
    """The map without its finest detail, NaN where less than half around a place is known."""
    sigma = [SMOOTH_UM / step_um for step_um in cell_um]
    known = np.isfinite(retina_um)
    share = gaussian_filter(known.astype(np.float64), sigma, mode="nearest")
    total_um = gaussian_filter(np.where(known, retina_um, 0.0), sigma, mode="nearest")
    mean_um = total_um / np.maximum(share, LEAST_KNOWN)
    return np.where(share >= LEAST_KNOWN, mean_um, np.nan)


def _depths(smooth_um: np.ndarray, cell_um: tuple[float, float]) -> np.ndarray:
    """Of every place the thinnest part of its rim less its own thickness; NaN where unknown."""
    rows, columns = np.indices(smooth_um.shape)
    rim_um = np.full(smooth_um.shape, np.inf)
    for step in range(RIM_PLACES):
        angle = 2 * math.pi * step / RIM_PLACES
        down = rows + RIM_UM * math.sin(angle) / cell_um[0]
        across = columns + RIM_UM * math.cos(angle) / cell_um[1]
        there_um = map_coordinates(smooth_um, [down, across], order=1, cval=np.nan)
        rim_um = np.minimum(rim_um, there_um)  # NaN stays
    return rim_um - smooth_um
