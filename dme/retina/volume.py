"""Fluid and retina of a volume in numbers, from their en-face maps."""

from collections.abc import Mapping, Sequence

import numpy as np

from dme.common.errors import InputError
from dme.retina.etdrs import sector_table

SCALE = ("axial_um", "lateral_um", "spacing_um")  # of a row or a volume, None where unknown
# where a volume holds the sectors of its maps
SECTORS = {
    "fluid": "sectors",
    "retina": "retina_sectors",
}


def enface_map(columns: Mapping[int, np.ndarray], first: int, last: int) -> np.ndarray:
    """Map (last - first + 1, W) of a volume from values (W,) of each B-scan, float64.

    B-scans missing between two others are interpolated linearly; beyond the outermost ones the map
    is NaN.
    """
    known = np.array(sorted(columns))
    lines = [columns[position] for position in known]
    values = np.stack(lines).astype(np.float64)  # (known, W)

    # of every row the next known B-scan at or above it, the one below, and where it lies between
    rows = np.arange(first, last + 1)
    above = np.searchsorted(known, rows).clip(0, len(known) - 1)
    below = np.where(known[above] > rows, above - 1, above).clip(0)
    gap = np.maximum(known[above] - known[below], 1)
    share = ((rows - known[below]) / gap)[:, None]
    enface = values[below] * (1 - share) + values[above] * share
    beyond = (rows < known[0]) | (rows > known[-1])
    enface[beyond] = np.nan
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
    """Numbers of a volume, and its thickness maps (B-scans, columns) in um, px without a scale.

    rows: of its predicted B-scans: volume, height_px, width_px, SCALE, fluid_px.
    columns_px: of "fluid", "retina" or both the thickness in every column (W,) of these B-scans by
    their position; the maps have the same keys.
    span: first and last position to expect; what lies beyond the first and last measured stays
    unknown.
    fovea: (column, position), by default the centre. The sectors (see SECTORS and `sector_table`)
    are empty when the scale is unknown or the fovea lies outside.
    Raises InputError when the B-scans differ in size or scale.
    """
    # what its B-scans have in common
    name = rows[0]["volume"]
    alike = ("height_px", "width_px", *SCALE)
    kinds = {tuple(row[key] for key in alike) for row in rows}
    if len(kinds) > 1:
        raise InputError(f"{name}: its B-scans differ in size or scale: not measured as a volume")
    height, width, *scale_um = kinds.pop()
    axial_um, lateral_um, spacing_um = scale_um
    first, last = span
    measured_at = next(iter(columns_px.values()))

    # maps in um, and their sectors around the fovea
    maps = {}
    for kind, columns in columns_px.items():
        maps[kind] = enface_map(columns, first, last) * (axial_um or 1)
    x, y = fovea or ((width - 1) / 2, (first + last) / 2)
    sectors = {SECTORS[kind]: [] for kind in maps}
    if spacing_um and 0 <= x <= width - 1 and first <= y <= last:
        centre = (x, y - first)
        for kind, thickness in maps.items():
            table = sector_table(thickness, lateral_um, spacing_um, centre, eye)
            sectors[SECTORS[kind]] = table

    volume = {
        "volume": name,
        "bscans": len(rows),
        "missing_bscans": last - first + 1 - len(rows),
        "doubtful_bscans": sum(bool(row.get("doubt")) for row in rows),
        "first_bscan": first,
        "last_bscan": last,
        "first_measured": min(measured_at),
        "last_measured": max(measured_at),
        "height_px": height,
        "width_px": width,
        **dict(zip(SCALE, scale_um, strict=True)),
        **_measure_maps(rows, maps, sectors, scale_um),
        "eye": eye,
        "fovea_column": x,
        "fovea_bscan": y,
        **sectors,
    }
    return volume, maps


def _measure_maps(
    rows: Sequence[dict],
    maps: dict[str, np.ndarray],
    sectors: dict[str, list[dict]],
    scale_um: Sequence[float | None],
) -> dict[str, float | None]:
    """Fluid and thickness of the retina over their maps, and in the centre of the sectors."""
    axial_um, lateral_um, spacing_um = scale_um
    measured = {}
    if "fluid" in maps:
        known_mm3 = volume_mm3(maps["fluid"], lateral_um, spacing_um) if spacing_um else None
        measured["fluid_px"] = sum(row["fluid_px"] for row in rows)
        measured["fluid_volume_mm3"] = known_mm3
    if "retina" in maps:
        mean = None
        if np.isfinite(maps["retina"]).any():
            mean = float(np.nanmean(maps["retina"]))
        table = sectors[SECTORS["retina"]]
        measured["retina_thickness_px"] = None if mean is None else mean / (axial_um or 1)
        measured["retina_thickness_um"] = mean if axial_um else None
        measured["central_subfield_thickness_um"] = table[0]["mean_um"] if table else None
    return measured
