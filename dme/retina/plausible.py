"""Retinas that cannot be as they were found: without thickness, cut by the frame, or jumping.

B-scans of a volume are 30 to 250 um apart, over which the retina's thickness changes little: one
that differs from all around it is a mistake of the network. It is mended from its neighbours where
these agree, else left out.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dme.retina.rows import check_rows
from dme.retina.thickness import retina_px

COLLAPSED_UM = 20.0  # the fovea's floor is thicker
USUAL_AXIAL_UM = 4.0  # where the scale is unknown
USUAL_SPACING_UM = 125.0

REACH_UM = 400.0  # neighbours are B-scans as far away as this
LEAST_NEIGHBOURS = 4  # that tell where the retina must lie
JUMP_UM = 75.0  # from the median of the neighbours, at least
JUMP_SPREADS = 3.0  # and so many times their own spread
SURE_UM = 75.0  # neighbours on both sides that differ by less are interpolated between
SMOOTH = 15  # columns over which thickness is smoothed before it is compared
WHOLE = 31  # columns of which the worse half takes the others along
MAD_TO_SD = 1.4826  # of a normal distribution


def impossible_columns(boundaries: np.ndarray, height: int, axial_um: float | None) -> np.ndarray:
    """Columns (W,) in which rows (8, W) meet, or end at the frame of a scan so many px high."""
    rows = check_rows(boundaries)
    thickness_um = retina_px(rows) * (axial_um or USUAL_AXIAL_UM)
    cut = (rows[0] <= 0) | (rows[-1] >= height - 1)
    return (thickness_um < COLLAPSED_UM) | cut  # NaN, unknown, is neither


@dataclass(frozen=True)
class Mended:
    """Thickness lines of a volume after the comparison of its B-scans, by position."""

    lines: dict[int, np.ndarray]  # (W,), NaN where unknown or left out
    mended: dict[int, np.ndarray]  # bool (W,): from the neighbours
    left_out: dict[int, np.ndarray]  # bool (W,)
    jumping: dict[int, np.ndarray]  # bool (W,): mended or left out for a jump


def mend(lines_um: dict[int, np.ndarray], spacing_um: float | None) -> Mended:
    """Compare every B-scan with its neighbours.

    lines_um: thickness (W,) of the retina by position, NaN where unknown, below COLLAPSED_UM where
    it is impossible (`impossible_columns`).
    """
    # as a map, in which B-scans that are missing have no row
    positions = sorted(lines_um)
    thickness = np.stack([lines_um[position] for position in positions]).astype(np.float64)
    places_um = np.array(positions) * (spacing_um or USUAL_SPACING_UM)
    known = np.isfinite(thickness)

    # what is wrong by itself, and what beside its neighbours
    impossible = known & (thickness < COLLAPSED_UM)
    trusted = np.where(impossible, np.nan, thickness)
    jumps = known & ~impossible & _jumps(trusted, places_um)
    wrong = _whole(impossible | jumps) & known

    # what lies between B-scans that agree
    trusted[wrong] = np.nan
    between = np.full_like(thickness, np.nan)
    for i in range(len(positions)):
        above = _nearest(trusted, places_um, i, -1)
        below = _nearest(trusted, places_um, i, 1)
        agree = np.abs(above[0] - below[0]) < SURE_UM
        share = above[1] / (above[1] + below[1])
        between[i] = np.where(agree, above[0] * (1 - share) + below[0] * share, np.nan)
    mended = wrong & np.isfinite(between)
    result = np.where(wrong, between, thickness)

    # by position again
    def by_position(values: np.ndarray) -> dict[int, np.ndarray]:
        return dict(zip(positions, values, strict=True))

    return Mended(
        by_position(result),
        by_position(mended),
        by_position(wrong & ~mended),
        by_position(wrong & ~impossible),
    )


def _jumps(trusted: np.ndarray, places_um: np.ndarray) -> np.ndarray:
    """Where thickness (B-scans, W) lies far from the median of the neighbours, bool."""
    smooth = _smoothed(trusted)
    jumps = np.zeros(trusted.shape, bool)
    for i, place in enumerate(places_um):
        distance = np.abs(places_um - place)
        around = (distance <= REACH_UM) & (distance > 0)
        if not around.any():
            continue
        # columns of which too few neighbours are known are not judged
        neighbours = smooth[around]
        enough = np.isfinite(neighbours).sum(axis=0) >= LEAST_NEIGHBOURS
        filled = np.where(enough, neighbours, 0.0)
        median = np.nanmedian(filled, axis=0)
        spread = np.nanmedian(np.abs(filled - median), axis=0) * MAD_TO_SD
        limit = np.maximum(JUMP_UM, JUMP_SPREADS * spread)
        jumps[i] = enough & (np.abs(smooth[i] - median) > limit)
    return jumps


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Means over SMOOTH columns of (B-scans, W), NaN left out."""
    known = np.isfinite(values)
    total = ndimage.uniform_filter1d(np.where(known, values, 0.0), SMOOTH, axis=1)
    share = ndimage.uniform_filter1d(known.astype(float), SMOOTH, axis=1)
    return np.where(known, total / np.maximum(share, 1 / SMOOTH), np.nan)


def _whole(wrong: np.ndarray) -> np.ndarray:
    """Columns among which half are wrong are so too, bool (B-scans, W)."""
    share = ndimage.uniform_filter1d(wrong.astype(float), WHOLE, axis=1)
    return wrong | (share >= 0.5)


def _nearest(
    trusted: np.ndarray, places_um: np.ndarray, i: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of each column the nearest trusted thickness before (-1) or after (1) B-scan i, (W,), and
    how far away it is; NaN without any within REACH_UM.
    """
    thickness = np.full(trusted.shape[1], np.nan)
    distance = np.full(trusted.shape[1], np.nan)
    j = i + side
    while 0 <= j < len(places_um) and abs(places_um[j] - places_um[i]) <= REACH_UM:
        first = np.isnan(thickness) & np.isfinite(trusted[j])
        thickness[first] = trusted[j][first]
        distance[first] = abs(places_um[j] - places_um[i])
        j += side
    return thickness, distance
