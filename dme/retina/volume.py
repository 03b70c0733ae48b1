"""Fluid and retina of a volume in numbers, from their en-face maps."""

from collections.abc import Mapping, Sequence

import numpy as np

from dme.common.errors import InputError
from dme.retina.etdrs import sector_table

SCALE = ("axial_um", "lateral_um", "spacing_um")  # of a row or a volume, None where unknown
SECTORS = {
    "fluid": "sectors",
    "retina": "retina_sectors",
}  # where a volume holds those of its maps


def enface_map(columns: Mapping[int, np.ndarray], first: int, last: int) -> np.ndarray:
    """Map (last - first + 1, W) of a volume from values (W,) of each B-scan, float64.

    B-scans missing between two others are interpolated linearly; beyond the outermost ones the map
    is NaN.
    """
    known = np.array(sorted(columns))
    values = np.stack([columns[i] for i in known]).astype(np.float64)
    rows = np.arange(first, last + 1)
    above = np.searchsorted(known, rows).clip(0, len(known) - 1)
    below = np.where(known[above] > rows, above - 1, above).clip(0)
    gap = np.maximum(known[above] - known[below], 1)
    share = ((rows - known[below]) / gap)[:, None]
    enface = values[below] * (1 - share) + values[above] * share
    enface[(rows < known[0]) | (rows > known[-1])] = np.nan
    return enface


def volume_mm3(thickness_um: np.ndarray, lateral_um: float, spacing_um: float) -> float:
    """Volume under a thickness map (B-scans, columns); a B-scan stands for one spacing."""
    return float(np.nansum(thickness_um)) * lateral_um * spacing_um / 1e9


def measure_volume(
    rows: Sequence[dict],
    columns_px: Mapping[str, Mapping[int, np.ndarray]],
    span: tuple[int, int],
    eye: str | None = None,
    fovea: Sequence[float] | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Numbers of a volume, and its maps of thickness (B-scans, columns) in um, in px without a
    scale.

    rows: of its predicted B-scans: volume, height_px, width_px, SCALE, fluid_px. columns_px: of
    "fluid", "retina" or both the thickness in every column (W,) of these B-scans by their
    position; the maps have the same keys. span: first and last position to expect; what lies
    beyond the first and last measured stays unknown. fovea: (column, position), by default the
    centre. The sectors (see SECTORS and `sector_table`) are empty when the scale is unknown or the
    fovea lies outside.
    Raises InputError when the B-scans differ in size or scale.
    """
    name = rows[0]["volume"]
    kinds = {tuple(row[key] for key in ("height_px", "width_px", *SCALE)) for row in rows}
    if len(kinds) > 1:
        raise InputError(f"{name}: its B-scans differ in size or scale: not measured as a volume")
    height, width, axial_um, lateral_um, spacing_um = kinds.pop()
    first, last = span
    measured_at = next(iter(columns_px.values()))
    maps = {
        of: enface_map(lines, first, last) * (axial_um or 1) for of, lines in columns_px.items()
    }
    x, y = fovea or ((width - 1) / 2, (first + last) / 2)
    sectors = {SECTORS[of]: [] for of in maps}
    if spacing_um and 0 <= x <= width - 1 and first <= y <= last:
        for of, thickness in maps.items():
            sectors[SECTORS[of]] = sector_table(
                thickness, lateral_um, spacing_um, (x, y - first), eye
            )
    measured = {}
    if "fluid" in maps:
        measured["fluid_px"] = sum(row["fluid_px"] for row in rows)
        measured["fluid_volume_mm3"] = (
            volume_mm3(maps["fluid"], lateral_um, spacing_um) if spacing_um else None
        )
    if "retina" in maps:
        mean, centre = (
            float(np.nanmean(maps["retina"])),
            next(iter(sectors[SECTORS["retina"]]), {}),
        )
        measured["retina_thickness_px"] = mean / (axial_um or 1)
        measured["retina_thickness_um"] = mean if axial_um else None
        measured["central_subfield_thickness_um"] = centre.get("mean_um")
    found = {
        "volume": name,
        "bscans": len(rows),
        "missing_bscans": last - first + 1 - len(rows),
        "first_bscan": first,
        "last_bscan": last,
        "first_measured": min(measured_at),
        "last_measured": max(measured_at),
        "height_px": height,
        "width_px": width,
        **dict(zip(SCALE, (axial_um, lateral_um, spacing_um), strict=True)),
        **measured,
        "eye": eye,
        "fovea_column": x,
        "fovea_bscan": y,
        **sectors,
    }
    return found, maps
