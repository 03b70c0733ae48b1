"""Two visits of an eye: how fluid and thickness changed between two results of `predict`."""

import json
from dataclasses import dataclass
from pathlib import Path

from dme.common.errors import InputError
from dme.retina.volume import SECTORS

# what must agree for a difference to be the eye's: of the run, its network first, and of a volume
# (that for fluid tells that for layers where fluid is)
SAME_RUN = {
    "fluid": ("weights_sha256", "threshold", "tta"),
    "retina": ("layers_weights_sha256", "weights_sha256", "tta"),
}
SAME_VOLUME = (
    "height_px",
    "width_px",
    "first_bscan",
    "last_bscan",
    "axial_um",
    "lateral_um",
    "spacing_um",
    "eye",
)
COLUMNS = (
    "volume_a",
    "volume_b",
    "level",
    "place",
    "area_a_mm2",
    "area_b_mm2",
    "area_change_mm2",
    "volume_a_mm3",
    "volume_b_mm3",
    "volume_change_mm3",
    "change_percent",
)
RETINA_COLUMNS = ("retina_a_um", "retina_b_um", "retina_change_um")
# level of a row -> quantity and unit in the names of its columns
LEVELS = {
    "bscan": ("area", "mm2"),
    "sector": ("volume", "mm3"),
    "total": ("volume", "mm3"),
    "retina": ("retina", "um"),  # of which the sector center is the central subfield thickness
}


@dataclass(frozen=True)
class Visit:
    """Results of one prediction: its folder and what measurements.json holds of it."""

    folder: str | Path
    settings: dict
    scans: list[dict]
    volumes: list[dict]

    def names(self) -> list[str]:
        """Of the volumes."""
        return [volume["volume"] for volume in self.volumes]

    def areas_mm2(self, volume: dict) -> dict[int, float]:
        """Fluid of a volume's B-scans by position."""
        areas = {}
        for scan in self.scans:
            if scan["volume"] == volume["volume"]:
                areas[scan["bscan"]] = scan["fluid_area_mm2"]
        return areas


Pair = tuple[dict, dict]  # a volume at visit A and at visit B


def read_results(folder: str | Path) -> Visit:
    """What a finished `predict` left in a folder. Raises InputError for anything else."""
    path = Path(folder) / "measurements.json"
    try:
        content = json.loads(path.read_text())
        visit = Visit(folder, content["settings"], content["scans"], content["volumes"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{folder} holds no results of ./run.sh predict (no readable {path.name})"
        ) from e
    if not content.get("finished"):
        raise InputError(f"{folder}: the prediction did not finish; run it again")
    return visit


def compare(folder_a: str | Path, folder_b: str | Path) -> list[dict]:
    """Rows (see change_columns) of the change from visit A to B of what both measured.

    Fluid per B-scan, per ETDRS sector and in all; then the retina's thickness per sector, of which
    "center" is the central subfield. Volumes pair by name, or when there is one on either side.
    Nothing is registered: positions are those of the scanner, sectors those around each visit's
    own centre. Raises InputError when the two cannot be compared.
    """
    a = read_results(folder_a)
    b = read_results(folder_b)
    kinds = _common_kinds(a, b)
    rows = []
    for pair in _pairs(a, b):
        _check_alike(*pair, SECTORS[kinds[0]])
        changes = []
        if "fluid" in kinds:
            changes += _fluid_changes(a, b, pair)
        if "retina" in kinds:
            changes += _retina_changes(pair)
        volume_a, volume_b = pair
        names = {"volume_a": volume_a["volume"], "volume_b": volume_b["volume"]}
        for change in changes:
            rows.append(names | change)
    return rows


def change_columns(rows: list[dict]) -> tuple[str, ...]:
    """Columns of a table of these rows."""
    if any(row["level"] == "retina" for row in rows):
        return COLUMNS + RETINA_COLUMNS
    return COLUMNS


def change_lines(rows: list[dict]) -> list[str]:
    """The rows as lines of text, a table for each level."""
    lines = []
    for level, (quantity, unit) in LEVELS.items():
        of_level = [row for row in rows if row["level"] == level]
        if not of_level:
            continue
        lines.append("")
        lines.append(f"{level:<18} {f'A {unit}':>10} {f'B {unit}':>10} {'change':>10} {'%':>8}")
        for row in of_level:
            a = row[f"{quantity}_a_{unit}"]
            b = row[f"{quantity}_b_{unit}"]
            change = row[f"{quantity}_change_{unit}"]
            percent = "-"
            if row["change_percent"] is not None:
                percent = f"{row['change_percent']:+.1f}"
            lines.append(f"{row['place']:<18} {a:>10.4f} {b:>10.4f} {change:>+10.4f} {percent:>8}")
    return lines


def _common_kinds(a: Visit, b: Visit) -> list[str]:
    """What both visits measured, keys of SAME_RUN, in the same way; else raises InputError."""
    kinds = []
    for kind, (network, *_) in SAME_RUN.items():
        if network in a.settings and network in b.settings:
            kinds.append(kind)
    if not kinds:
        folders = f"{a.folder} and {b.folder}"
        raise InputError(
            f"one of {folders} holds fluid, the other layers; predict both with one `task`"
        )
    for kind in kinds:
        for key in SAME_RUN[kind]:
            at_a = a.settings.get(key)
            at_b = b.settings.get(key)
            if at_a != at_b:
                difference = f"{key} is {at_a} in {a.folder} and {at_b} in {b.folder}"
                raise InputError(f"{difference}; predict both visits alike, with one `task`")
    return kinds


def _fluid_changes(a: Visit, b: Visit, pair: Pair) -> list[dict]:
    """Of the B-scans that both visits predicted, of the sectors, and of the whole volume."""
    volume_a, volume_b = pair
    areas_a = a.areas_mm2(volume_a)
    areas_b = b.areas_mm2(volume_b)
    rows = []

    # B-scans pair by position, sectors by name
    for position in sorted(areas_a.keys() & areas_b.keys()):
        rows.append(_change("bscan", str(position), areas_a[position], areas_b[position]))
    for sector_a, sector_b in zip(volume_a["sectors"], volume_b["sectors"], strict=True):
        name = sector_a["sector"]
        rows.append(_change("sector", name, sector_a["volume_mm3"], sector_b["volume_mm3"]))
    total_a = volume_a["fluid_volume_mm3"]
    total_b = volume_b["fluid_volume_mm3"]
    rows.append(_change("total", "all", total_a, total_b))
    return rows


def _retina_changes(pair: Pair) -> list[dict]:
    """Of the sectors that both visits cover at least in part."""
    volume_a, volume_b = pair
    sectors = zip(volume_a["retina_sectors"], volume_b["retina_sectors"], strict=True)
    rows = []
    for sector_a, sector_b in sectors:
        mean_a = sector_a["mean_um"]
        mean_b = sector_b["mean_um"]
        if mean_a is not None and mean_b is not None:
            rows.append(_change("retina", sector_a["sector"], mean_a, mean_b))
    return rows


def _pairs(a: Visit, b: Visit) -> list[Pair]:
    """The volumes of two visits, paired."""
    for visit in (a, b):
        if not visit.volumes:
            found = f"{visit.folder} holds no volume, only single scans"
            raise InputError(f"{found}: nothing to compare position by position")
    if len(a.volumes) == len(b.volumes) == 1:
        return [(a.volumes[0], b.volumes[0])]

    names_a = sorted(a.names())
    names_b = sorted(b.names())
    if names_a != names_b:
        text_a = f"{', '.join(names_a)} in {a.folder}"
        text_b = f"{', '.join(names_b)} in {b.folder}"
        raise InputError(f"volumes differ in name: {text_a}, {text_b}")
    by_name = dict(zip(b.names(), b.volumes, strict=True))
    return [(volume, by_name[volume["volume"]]) for volume in a.volumes]


def _check_alike(a: dict, b: dict, sectors: str) -> None:
    """Raise InputError unless size, scale and range agree. sectors: their key in a volume."""
    for key in SAME_VOLUME:
        if a[key] != b[key]:
            raise InputError(
                f"{key} is {a[key]} in volume {a['volume']} and {b[key]} in {b['volume']}; "
                "only volumes of one size and scale can be compared"
            )
    range_a = (a["first_measured"], a["last_measured"])
    range_b = (b["first_measured"], b["last_measured"])
    if range_a != range_b:
        ranges = "{} to {} and {} to {}".format(*range_a, *range_b)
        raise InputError(
            f"of volume {a['volume']} B-scans {ranges} could be predicted; "
            "leave out what one visit lacks"
        )
    if not a[sectors] or not b[sectors]:
        why = "its scale is unknown (predict both visits with `scale` axial,lateral,spacing)"
        raise InputError(
            f"volume {a['volume']} has no ETDRS sectors: {why}, or its fovea lies outside"
        )


def _change(level: str, place: str, a: float, b: float) -> dict:
    quantity, unit = LEVELS[level]
    percent = None  # of nothing
    if a:
        percent = 100 * (b - a) / a
    return {
        "level": level,
        "place": place,
        f"{quantity}_a_{unit}": a,
        f"{quantity}_b_{unit}": b,
        f"{quantity}_change_{unit}": b - a,
        "change_percent": percent,
    }
