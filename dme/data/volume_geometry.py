"""How the B-scans of a file lie, from where each begins and ends: pattern, gaps, order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.volume_record import BScanPlace

LEVEL = math.tan(math.radians(15))  # steepest of a raster whose maps need not be turned
PARALLEL = math.cos(math.radians(3))
SAME = 0.02  # of lengths that differ by less
# pattern that a file states -> how its B-scans may lie then
ALLOWED = {
    "line": ("line", "raster", "turned raster"),
    "circle": ("circle",),
    "raster": ("raster", "turned raster", "line"),
    "radial": ("radial",),
}
NEAR = 0.1  # of a B-scan's length; so far may the B-scans of a star pass its centre


@dataclass(frozen=True)
class Geometry:
    """What the places of B-scans say. gaps_um: of a raster, from each B-scan to the next."""

    pattern: str  # one of dme.data.volume_record.PATTERNS
    gaps_um: tuple[float, ...] | None = None
    superior_first: bool = False
    note: str | None = None


def length_mm(place: BScanPlace) -> float:
    """From the begin to the end of a B-scan that is no circle; of a circle its radius."""
    return math.dist(place.start_mm, place.end_mm)


def geometry_of(places: Sequence[BScanPlace], width_mm: float) -> Geometry:
    """Geometry of B-scans, width_mm being how long each of them is by its width and scale.

    A start and an end look like those of a line; where they are the start and the centre of a
    circle, the B-scan is as long as that circle.
    """
    if len(places) == 1:
        around_mm = 2 * math.pi * length_mm(places[0])
        circle = abs(around_mm - width_mm) < SAME * width_mm
        return Geometry("circle" if circle else "line")

    # directions, and whether all have the same
    starts = np.array([place.start_mm for place in places])  # (B-scans, 2)
    steps = np.array([place.end_mm for place in places]) - starts
    lengths = np.hypot(*steps.T)
    if not lengths.all():
        return Geometry("other", note="B-scans without length")
    directions = steps / lengths[:, None]
    middles = starts + steps / 2
    parallel = (directions @ directions[0] >= PARALLEL).all()
    if not parallel:  # a star's cross in the middle
        spread = np.hypot(*(middles - middles.mean(axis=0)).T)
        star = (spread <= NEAR * lengths).all()
        return Geometry("radial" if star else "other")
    return _raster(middles, directions[0])


def check_pattern(path: Path, stated: str | None, geometry: Geometry) -> None:
    """Refuse B-scans that lie otherwise than their file states; stated: a key of ALLOWED."""
    if stated is None or geometry.pattern in ALLOWED[stated]:
        return
    found = f"says that it is a {stated} scan, but its B-scans lie as: {geometry.pattern}"
    if geometry.note:
        found += f" ({geometry.note})"
    raise InputError(f"{path}: {found}; export it again")


def _raster(middles: np.ndarray, direction: np.ndarray) -> Geometry:
    """Of parallel B-scans: middles (B-scans, 2) mm, direction (2,)."""
    # distances across them: downwards, where they run to the right
    across = np.array([-direction[1], direction[0]])
    down_mm = middles @ across
    gaps_um = np.diff(down_mm) * 1e3
    ascending = (gaps_um > 0).all()
    if not ascending and not (gaps_um < 0).all():
        return Geometry("other", note="parallel B-scans that do not follow each other")

    # maps are drawn as if B-scans were level and ran to the right
    if direction[0] <= 0 or abs(direction[1]) > LEVEL * direction[0]:
        degrees = math.degrees(math.atan2(-direction[1], direction[0]))
        return Geometry("turned raster", note=f"B-scans turned by {degrees:.0f} degrees: no maps")
    gaps = tuple(abs(gap) for gap in gaps_um.tolist())
    return Geometry("raster", gaps, superior_first=bool(ascending))
