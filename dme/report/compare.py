"""Two visits of an eye: how fluid and retinal thickness changed between two results of `predict`."""

import json
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
    *("volume_a", "volume_b", "level", "place", "area_a_mm2", "area_b_mm2", "area_change_mm2"),
    *("volume_a_mm3", "volume_b_mm3", "volume_change_mm3", "change_percent"),
)
RETINA_COLUMNS = ("retina_a_um", "retina_b_um", "retina_change_um")


def read_results(folder: str | Path) -> dict:
    """measurements.json of a finished `predict`. Raises InputError for anything else."""
    path = Path(folder) / "measurements.json"
    try:
        found = json.loads(path.read_text())
        found["settings"], found["volumes"], found["scans"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{folder} holds no results of ./run.sh predict (no readable {path.name})"
        ) from e
    if not found.get("finished"):
        raise InputError(f"{folder}: the prediction did not finish; run it again")
    return found


def compare(folder_a: str | Path, folder_b: str | Path) -> list[dict]:
    """Rows (see change_columns) of the change from visit A to B, volume by volume, of what both measured.

    Fluid per B-scan, per ETDRS sector and in all; then the retina's thickness per sector, of which "center"
    is the central subfield. Volumes pair by name, or when there is one on either side. Nothing is registered:
    positions are those of the scanner, sectors those around each visit's own centre. Raises InputError when
    the two cannot be compared.
    """
    a, b = read_results(folder_a), read_results(folder_b)
    common = [of for of, keys in SAME_RUN.items() if all(keys[0] in v["settings"] for v in (a, b))]
    if not common:
        raise InputError(
            f"one of {folder_a} and {folder_b} holds fluid, the other layers; predict both with one --task"
        )
    for key in dict.fromkeys(key for of in common for key in SAME_RUN[of]):
        of_a, of_b = (visit["settings"].get(key) for visit in (a, b))
        if of_a != of_b:
            found = f"{key} is {of_a} in {folder_a} and {of_b} in {folder_b}"
            raise InputError(f"{found}; predict both visits alike, with one --task")
    rows = []
    for pair in _pairs(a, b, folder_a, folder_b):
        _check_alike(*pair, SECTORS[common[0]])
        names = dict(
            zip(("volume_a", "volume_b"), (volume["volume"] for volume in pair), strict=True)
        )
        changes = []
        if "fluid" in common:
            changes += _fluid_changes((a, b), pair)
        if "retina" in common:
            changes += _retina_changes(pair)
        rows += [names | change for change in changes]
    return rows


def change_columns(rows: list[dict]) -> tuple[str, ...]:
    """Columns of a table of these rows."""
    return COLUMNS + RETINA_COLUMNS * any(row["level"] == "retina" for row in rows)


def _fluid_changes(visits: tuple[dict, dict], pair: tuple[dict, dict]) -> list[dict]:
    areas = [
        {
            row["bscan"]: row["fluid_area_mm2"]
            for row in visit["scans"]
            if row["volume"] == volume["volume"]
        }
        for visit, volume in zip(visits, pair, strict=True)
    ]
    rows = []
    for position in sorted(areas[0].keys() & areas[1].keys()):
        change = _change("area", "mm2", areas[0][position], areas[1][position])
        rows.append({"level": "bscan", "place": str(position)} | change)
    for a, b in zip(*(volume["sectors"] for volume in pair), strict=True):
        change = _change("volume", "mm3", a["volume_mm3"], b["volume_mm3"])
        rows.append({"level": "sector", "place": a["sector"]} | change)
    change = _change("volume", "mm3", *(volume["fluid_volume_mm3"] for volume in pair))
    return [*rows, {"level": "total", "place": "all"} | change]


def _retina_changes(pair: tuple[dict, dict]) -> list[dict]:
    """Of the sectors that both visits cover at least in part."""
    return [
        {"level": "retina", "place": a["sector"]}
        | _change("retina", "um", a["mean_um"], b["mean_um"])
        for a, b in zip(*(volume["retina_sectors"] for volume in pair), strict=True)
        if a["mean_um"] is not None and b["mean_um"] is not None
    ]


def _pairs(
    a: dict, b: dict, folder_a: str | Path, folder_b: str | Path
) -> list[tuple[dict, dict]]:
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
        raise InputError(
            f"volumes differ in name: {names[0]} in {folder_a}, {names[1]} in {folder_b}"
        )
    return [(volume, by_name[1][name]) for name, volume in by_name[0].items()]


def _check_alike(a: dict, b: dict, sectors: str) -> None:
    for key in SAME_VOLUME:
        if a[key] != b[key]:
            raise InputError(
                f"{key} is {a[key]} in volume {a['volume']} and {b[key]} in {b['volume']}; "
                "only volumes of one size and scale can be compared"
            )
    ends = [(v["first_measured"], v["last_measured"]) for v in (a, b)]
    if ends[0] != ends[1]:
        found = " and ".join(f"{first} to {last}" for first, last in ends)
        raise InputError(
            f"of volume {a['volume']} B-scans {found} could be predicted; leave out what one visit lacks"
        )
    if not a[sectors] or not b[sectors]:
        why = "its scale is unknown (predict both visits with --scale axial,lateral,spacing)"
        raise InputError(
            f"volume {a['volume']} has no ETDRS sectors: {why}, or its fovea lies outside"
        )


def _change(what: str, unit: str, a: float, b: float) -> dict:
    percent = 100 * (b - a) / a if a else None
    names = (f"{what}_a_{unit}", f"{what}_b_{unit}", f"{what}_change_{unit}")
    return dict(zip(names, (a, b, b - a), strict=True)) | {"change_percent": percent}
