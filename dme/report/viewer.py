"""What the page's viewer knows of scans and volumes: the content of viewer/scans.js.

Pixels are not in it: they come from files of their own, see `dme.report.scan_files`.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dme.common.tasks import LAYERS
from dme.drawing.enface import COLOURS as MAP_COLOURS
from dme.drawing.html import Column
from dme.drawing.layers import COLOURS as BOUNDARY_COLOURS
from dme.report.doubts import SEPARATOR
from dme.report.wording import SHOWN_UNITS, shown_units
from dme.retina.rows import BOUNDARIES
from dme.retina.volume import SCALE

MAP_TITLES = {"fluid": "fluid thickness", "retina": "retinal thickness"}
IN_PX = {"fluid_area_mm2": "fluid_px", "largest_region_mm2": "largest_region_px"}
DIGITS = {"mm2": 4, "mm3": 4, "um": 1, "px": 0}  # of the ends of intervals
LOW = "_low"  # in the key of an interval's lower end; that of the upper one has HIGH instead
HIGH = "_high"


def viewer_content(
    folder: Path, rows: list[dict], volumes: list[dict], columns: Sequence[Column], rank: str
) -> dict:
    """What `dme.start` of the page's scripts is given, in JSON's types.

    folder: of the page and its pictures. columns: numbers of a scan to show and to sort by. rank:
    the key of the number that the first scan to open has most of.
    """
    # numbers with their intervals, both ends of which can be sorted by
    intervals = _intervals(rows)
    shown = []
    for column in columns:
        entry = {"key": column.key, "title": column.title, "digits": column.digits}
        if column.key in intervals:
            entry["interval"] = list(intervals[column.key])
        if column.key in IN_PX:
            entry["inPx"] = IN_PX[column.key]  # of scans without scale
        shown.append(entry)
    for ends in intervals.values():
        shown += [_end_column(key) for key in ends]

    # the names of layers are of use only where they were looked for
    most = max(range(len(rows)), key=lambda i: rows[i][rank] or 0)
    layers = any("boundaries" in row for row in rows)
    return {
        "columns": shown,
        "boundaries": _boundaries() if layers else [],
        "layers": list(LAYERS) if layers else [],
        "volumes": [_volume(folder, volume) for volume in volumes],
        "scans": [_scan(row, shown) for row in rows],
        "first": most,
    }


def _boundaries() -> list[dict]:
    named = zip(BOUNDARIES, BOUNDARY_COLOURS.tolist(), strict=True)
    return [{"name": name, "colour": _hex(colour)} for name, colour in named]


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


# ---- scans --------------------------------------------------------------------------------------
def _scan(row: dict, columns: list[dict]) -> dict:
    keys = [column["key"] for column in columns]
    keys += [column["inPx"] for column in columns if "inPx" in column]
    return {
        "name": row["scan"],
        "volume": row["volume"],
        "bscan": row["bscan"],
        "width": row["width_px"],
        "height": row["height_px"],
        "scale": [row[key] for key in SCALE],
        # files beside the page
        "image": row["image"],
        "values": row["values"],
        "flags": flags_of(row),
        # by the keys of the columns
        "numbers": {key: row.get(key) for key in keys},
    }


def flags_of(row: dict) -> list[str]:
    """Why the numbers of a scan are doubtful, in words."""
    return [shown_units(text) for text in row["doubt"].split(SEPARATOR) if text]


def _intervals(rows: list[dict]) -> dict[str, tuple[str, str]]:
    """Key of a number -> those of the ends of its interval, for all that rows have.

    Such as fluid_area_mm2 -> fluid_area_low_mm2, fluid_area_high_mm2.
    """
    intervals = {}
    for row in rows:
        for low in row:
            high = low.replace(LOW, HIGH, 1)
            if LOW in low and high in row:
                intervals[low.replace(LOW, "", 1)] = (low, high)
    return intervals


def _end_column(key: str) -> dict:
    """The column of one end of an interval, named after its key."""
    name, _, unit = key.rpartition("_")
    if unit not in SHOWN_UNITS:
        name, unit = key, ""
    title = f"{name.replace('_', ' ')} {shown_units(unit)}".strip()
    return {"key": key, "title": title, "digits": DIGITS.get(unit, 2), "end": True}


# ---- volumes ------------------------------------------------------------------------------------
def _volume(folder: Path, volume: dict) -> dict:
    maps = [_map(view, volume) for view in volume["maps"]]
    return {"name": volume["volume"], "maps": [*maps, _enface(folder, volume)]}


def _map(view: dict, volume: dict) -> dict:
    return {
        "title": MAP_TITLES[view["kind"]],
        "file": view["file"],
        # left, top, width and height in the picture
        "area": list(view["area"]),
        # width and height as it is shown
        "size": list(view["area"][2:]),
        "span": [view["lowest"], view["highest"]],
        "unit": view["unit"],
        "colours": [_hex(colour) for colour in MAP_COLOURS.tolist()],
        # B-scans are lines from side to side, the last one at the top
        "first": volume["first_bscan"],
        "rows": volume.get("bscan_rows") or list(range(view["map_rows"])),  # of the B-scans
        "count": view["map_rows"],
    }


def _enface(folder: Path, volume: dict) -> dict:
    """The mean grey, in the proportions of the other maps."""
    with Image.open(folder / volume["enface"]) as picture:
        width, height = picture.size
    return {
        "title": "mean grey",
        "file": volume["enface"],
        "area": [0, 0, width, height],
        "size": list(volume["maps"][0]["area"][2:]),
        "first": volume["first_bscan"],
        "rows": list(range(height)),
        "count": height,
    }
