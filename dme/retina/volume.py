"""Fluid and retina of a volume in numbers, from their en-face maps."""

from collections.abc import Mapping, Sequence

import numpy as np

from dme.common.errors import InputError
from dme.retina.etdrs import sector_table
from dme.retina.fovea import Fovea, place_fovea

SCALE = ("axial_um", "lateral_um", "spacing_um")  # of a row or a volume, None where unknown
ALIKE = ("height_px", "width_px", *SCALE)  # what the B-scans of a volume have in common
# where a volume holds the sectors of its maps
SECTORS = {
    "fluid": "sectors",
    "retina": "retina_sectors",
}
# of B-scans at unequal distances: samples of a map's row, which is their mean
SAMPLES = 16
ROUNDED_UM = 1.5  # gaps that differ by no more are equal: devices round places to um
UNEQUAL = 0.05  # or by no more than this share


def scale_of(row: dict) -> tuple[float, ...] | None:
    """Axial, lateral and spacing of a scan or a volume, as far as they are known."""
    known = [row[key] for key in SCALE if row[key] is not None]
    return tuple(known) or None


def enface_map(
    columns: Mapping[int, np.ndarray],
    first: int,
    last: int,
    rows_at: Sequence[float] | None = None,
) -> np.ndarray:
    """Map (last - first + 1, W) of a volume from values (W,) of each B-scan, float64.

    B-scans missing between two others are interpolated linearly; beyond the outermost ones the map
    is NaN. rows_at: the rows at which the B-scans from `first` to `last` lie where their distances
    are not equal, as of `rows_of_gaps`; a row of the map is then the mean over its extent.
    """
    known = np.array(sorted(columns))
    lines = [columns[position] for position in known]
    values = np.stack(lines).astype(np.float64)  # (known, W)
    rows = np.arange(first, last + 1)
    if rows_at is None:
        return _interpolated(values, known, rows)

    places = first + np.asarray(rows_at)[known - first]
    total = np.zeros((len(rows), values.shape[1]))
    for sample in range(SAMPLES):
        within = (sample + 0.5) / SAMPLES - 0.5
        # the outermost rows end where the B-scans do
        at = np.clip(rows + within, first, last)
        total += _interpolated(values, places, at)
    return total / SAMPLES


def _interpolated(values: np.ndarray, known: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows between those (known, W) that lie at the places `known`; NaN beyond them."""
    # of every row the next known B-scan at or above it, the one below, and where it lies between
    above = np.searchsorted(known, rows).clip(0, len(known) - 1)
    below = np.where(known[above] > rows, above - 1, above).clip(0)
    gap = known[above] - known[below]
    gap = np.where(gap > 0, gap, 1)
    share = ((rows - known[below]) / gap)[:, None]
    enface = values[below] * (1 - share) + values[above] * share
    beyond = (rows < known[0]) | (rows > known[-1])
    enface[beyond] = np.nan
    return enface


def rows_of_gaps(gaps_um: Sequence[float] | None) -> list[float] | None:
    """Rows at which B-scans lie, in steps of their mean distance; None where all are equal.

    gaps_um: from each B-scan to the next. The first lies at 0, the last at len(gaps_um).
    """
    if not gaps_um:
        return None
    gaps = np.array(gaps_um)
    mean = gaps.mean()
    if (np.abs(gaps - mean) <= max(ROUNDED_UM, UNEQUAL * mean)).all():
        return None
    return [0.0, *(np.cumsum(gaps) / mean).tolist()]


def volume_mm3(thickness_um: np.ndarray, lateral_um: float, spacing_um: float) -> float:
    """Volume under a thickness map (B-scans, columns); a B-scan stands for one spacing."""
    return float(np.nansum(thickness_um)) * lateral_um * spacing_um / 1e9


def measure_volume(
    rows: Sequence[dict],
    columns_px: Mapping[str, Mapping[int, np.ndarray]],
    span: tuple[int, int],
    eye: str | None = None,
    fovea: Sequence[float] | None = None,
    rows_at: Sequence[float] | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Numbers of a volume, and its thickness maps (B-scans, columns) in um, px without a scale.

    rows: of its predicted B-scans: volume, height_px, width_px, SCALE, fluid_px.
    columns_px: of "fluid", "retina" or both the thickness in every column (W,) of these B-scans by
    their position; the maps have the same keys.
    span: first and last position to expect; beyond the first and last measured all is unknown.
    fovea: (column, position), by default the pit of the retina's map, without one the centre. The
    sectors (see SECTORS, `sector_table`) are empty without a scale or with the fovea outside.
    rows_at: as of `enface_map`.
    Raises InputError when the B-scans differ in size or scale.
    """
    # what its B-scans have in common
    name = rows[0]["volume"]
    kinds = {tuple(row[key] for key in ALIKE) for row in rows}
    if len(kinds) > 1:
        raise InputError(f"{name}: its B-scans differ in size or scale: not measured as a volume")
    height, width, *scale_um = kinds.pop()
    first, last = span
    measured_at = next(iter(columns_px.values()))

    # maps in um, and their sectors around the fovea
    maps = {}
    for kind, columns in columns_px.items():
        maps[kind] = enface_map(columns, first, last, rows_at) * (scale_um[0] or 1)
    centre = ((width - 1) / 2, (last - first) / 2)
    place = place_fovea(maps.get("retina"), *scale_um[1:], centre)
    if fovea:
        place = Fovea(fovea[0], fovea[1] - first, "given")
    sectors = _sectors(maps, scale_um, place, eye)

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
        "fovea_column": place.column,
        "fovea_bscan": place.bscan + first,
        "fovea_from": place.origin,
        "fovea_confidence": place.confidence,
        "bscan_rows": rows_at,
        **sectors,
    }
    return volume, maps


def _sectors(
    maps: dict[str, np.ndarray], scale_um: Sequence[float | None], fovea: Fovea, eye: str | None
) -> dict[str, list[dict]]:
    """By the values of SECTORS, empty without a scale and with the fovea outside of the maps."""
    _, lateral_um, spacing_um = scale_um
    centre = (fovea.column, fovea.bscan)
    sectors = {}
    for kind, thickness in maps.items():
        bscans, columns = thickness.shape
        inside = 0 <= fovea.column <= columns - 1 and 0 <= fovea.bscan <= bscans - 1
        sectors[SECTORS[kind]] = []
        if spacing_um and inside:
            table = sector_table(thickness, lateral_um, spacing_um, centre, eye)
            sectors[SECTORS[kind]] = table
    return sectors


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
