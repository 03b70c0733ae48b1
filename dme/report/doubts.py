"""Scans whose numbers are doubtful, and why: darker or brighter than what networks learnt from."""

import numpy as np

from dme.retina.greys import grey_counts, percentiles
from dme.retina.plausible import COLLAPSED_UM, USUAL_AXIAL_UM
from dme.retina.thickness import retina_px
from dme.retina.wedge import saturated_wedge

# grey value that all but 0.5 % of a scan's pixels stay below: of scans that networks read well it
# is 145 to 240, below 120 they miss fluid and layers
WHITE_PERCENTILE = 99.5
DIM = 120
BRIGHT = 250
THIN_UM = 100.0  # a retina is thicker than this on average
MOST_COLLAPSED = 0.1  # of the columns; the optic disc takes less of a long scan

SEPARATOR = "; "
MOST_NAMED = 10  # scans of a line
DIM_DOUBT = f"dim (its bright pixels are below grey {DIM})"
BRIGHT_DOUBT = f"overexposed (its bright pixels reach grey {BRIGHT})"
NO_DATA = "no column with data"
THIN = f"retina of almost no thickness (mean below {THIN_UM:g} um)"
UNSURE = "fluid that the network is unsure of (its predicted Dice is low)"
JUMPING = "boundaries that jump beside neighbouring B-scans"
COLLAPSED = f"boundaries that meet (below {COLLAPSED_UM:g} um) in over {MOST_COLLAPSED:.0%} of it"


def doubts_of(
    image: np.ndarray, boundaries: np.ndarray | None, axial_um: float | None
) -> list[str]:
    """What is doubtful in a scan, uint8 (H, W), with boundaries (8, W) if they were looked for."""
    doubts = []
    counts = grey_counts(image, ~saturated_wedge(image))
    if counts.any():
        (white,) = percentiles(counts, (WHITE_PERCENTILE,))
        if white < DIM:
            doubts.append(DIM_DOUBT)
        elif white >= BRIGHT:
            doubts.append(BRIGHT_DOUBT)
    if boundaries is not None:
        doubts += _retina_doubts(boundaries, axial_um or USUAL_AXIAL_UM)
    return doubts


def _retina_doubts(boundaries: np.ndarray, axial_um: float) -> list[str]:
    thickness_um = retina_px(boundaries) * axial_um  # (W,)
    known_um = thickness_um[np.isfinite(thickness_um)]
    if not known_um.size:
        return [NO_DATA]
    if known_um.mean() < THIN_UM:
        return [THIN]
    if (known_um < COLLAPSED_UM).mean() > MOST_COLLAPSED:
        return [COLLAPSED]
    return []


def doubt_lines(rows: list[dict]) -> list[str]:
    """A line for each kind of doubt: how many scans, and which."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for doubt in filter(None, row["doubt"].split(SEPARATOR)):
            names.setdefault(doubt, []).append(row["scan"])
    lines = []
    for doubt, scans in names.items():
        shown = ", ".join(scans[:MOST_NAMED])
        if len(scans) > MOST_NAMED:
            shown += ", ..."
        lines.append(f"{len(scans)} of {len(rows)} scans doubtful: {doubt}: {shown}")
    return lines
