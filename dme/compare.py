"""Two visits of an eye: how fluid changed between two results of `predict`."""

import json
from pathlib import Path

from dme.errors import InputError

# what must agree for a difference to be the eye's: of the run, and of a volume
SAME_RUN = ("weights_sha256", "threshold", "tta")
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
    *("volume_a", "volume_b", "level", "place", "area_a_mm2", "area_b_mm2", "area_change_mm2"),
    *("volume_a_mm3", "volume_b_mm3", "volume_change_mm3", "change_percent"),
)


def read_results(folder: str | Path) -> dict:
    """measurements.json of a finished `predict`. Raises InputError for anything else."""
    path = Path(folder) / "measurements.json"
    try:
        found = json.loads(path.read_text())
        found["settings"], found["volumes"], found["scans"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{folder} holds no results of ./run.sh predict (no readable {path.name})") from e
    if not found.get("finished"):
        raise InputError(f"{folder}: the prediction did not finish; run it again")
    return found


def compare(folder_a: str | Path, folder_b: str | Path) -> list[dict]:
    """Rows (COLUMNS) of the change from visit A to B: per B-scan, per ETDRS sector, in all, volume by volume.

    Volumes pair by name, or when there is one on either side. Nothing is registered: positions are those of
    the scanner, sectors those around each visit's own centre. Raises InputError when the two cannot be
    compared.
    """
    a, b = read_results(folder_a), read_results(folder_b)
    for key in SAME_RUN:
        if a["settings"][key] != b["settings"][key]:
            found = f"{key} is {a['settings'][key]} in {folder_a} and {b['settings'][key]} in {folder_b}"
            raise InputError(f"{found}; predict both visits alike")
    rows = []
    for volume_a, volume_b in _pairs(a, b, folder_a, folder_b):
        _check_alike(volume_a, volume_b)
        names = {"volume_a": volume_a["volume"], "volume_b": volume_b["volume"]}
        areas = [
            {
                row["bscan"]: row["fluid_area_mm2"]
                for row in visit["scans"]
                if row["volume"] == volume["volume"]
            }
            for visit, volume in ((a, volume_a), (b, volume_b))
        ]
        for position in sorted(areas[0].keys() & areas[1].keys()):
            change = _change("area", "mm2", areas[0][position], areas[1][position])
            rows.append(names | {"level": "bscan", "place": str(position)} | change)
        for sector_a, sector_b in zip(volume_a["sectors"], volume_b["sectors"], strict=True):
            change = _change("volume", "mm3", sector_a["volume_mm3"], sector_b["volume_mm3"])
            rows.append(names | {"level": "sector", "place": sector_a["sector"]} | change)
        change = _change("volume", "mm3", volume_a["fluid_volume_mm3"], volume_b["fluid_volume_mm3"])
        rows.append(names | {"level": "total", "place": "all"} | change)
    return rows


def _pairs(a: dict, b: dict, folder_a: str | Path, folder_b: str | Path) -> list[tuple[dict, dict]]:
    for visit, folder in ((a, folder_a), (b, folder_b)):
        if not visit["volumes"]:
            raise InputError(
                f"{folder} holds no volume, only single scans: nothing to compare position by position"
            )
    if len(a["volumes"]) == len(b["volumes"]) == 1:
        return [(a["volumes"][0], b["volumes"][0])]
    by_name = [{volume["volume"]: volume for volume in visit["volumes"]} for visit in (a, b)]
    if by_name[0].keys() != by_name[1].keys():
        names = [", ".join(sorted(volumes)) for volumes in by_name]
        raise InputError(f"volumes differ in name: {names[0]} in {folder_a}, {names[1]} in {folder_b}")
    return [(volume, by_name[1][name]) for name, volume in by_name[0].items()]


def _check_alike(a: dict, b: dict) -> None:
    for key in SAME_VOLUME:
        if a[key] != b[key]:
            raise InputError(
                f"{key} is {a[key]} in volume {a['volume']} and {b[key]} in {b['volume']}; "
                "only volumes of one size and scale can be compared"
            )
    if not a["sectors"] or not b["sectors"]:
        why = "its scale is unknown (predict both visits with --scale axial,lateral,spacing)"
        raise InputError(f"volume {a['volume']} has no ETDRS sectors: {why}, or its fovea lies outside")


def _change(what: str, unit: str, a: float, b: float) -> dict:
    percent = 100 * (b - a) / a if a else None
    names = (f"{what}_a_{unit}", f"{what}_b_{unit}", f"{what}_change_{unit}")
    return dict(zip(names, (a, b, b - a), strict=True)) | {"change_percent": percent}
