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
    shown = [_shown_column(column, rows) for column in columns]
    keys = {column["key"] for column in shown}
    shown += [column for column in _interval_columns(rows) if column["key"] not in keys]
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
    keys = []
    for column in columns:
        keys += [column["key"], *column.get("interval", ())]
    return {
        "name": row["scan"],
        "volume": row["volume"],
        "bscan": row["bscan"],
        "width": row["width_px"],
        "height": row["height_px"],
        "scale": [row[key] for key in SCALE],
        "image": row["image"],
        "values": row["values"],
        "flags": flags_of(row),
        "numbers": {key: row.get(key) for key in keys},
    }


def flags_of(row: dict) -> list[str]:
    """Why the numbers of a scan are doubtful, in words."""
    texts = [*row["doubt"].split(SEPARATOR), *row.get("flags", ())]
    return [shown_units(text) for text in texts if text]


def _shown_column(column: Column, rows: list[dict]) -> dict:
    shown = {"key": column.key, "title": column.title, "digits": column.digits}
    for low in _interval_keys(rows):
        if low.replace(LOW, "", 1) == column.key:
            shown["interval"] = [low, low.replace(LOW, HIGH, 1)]
    return shown


def _interval_keys(rows: list[dict]) -> list[str]:
    """Keys of the lower ends of intervals, such as fluid_area_low_mm2, that rows have."""
    keys = {}
    for row in rows:
        for key in row:
            if LOW in key and key.replace(LOW, HIGH, 1) in row:
                keys[key] = None
    return list(keys)


def _interval_columns(rows: list[dict]) -> list[dict]:
    """Both ends of every interval, to sort by."""
    columns = []
    for low in _interval_keys(rows):
        for key in (low, low.replace(LOW, HIGH, 1)):
            unit = key.rpartition("_")[2]
            title = key.removesuffix(f"_{unit}") if unit in SHOWN_UNITS else key
            title = f"{title} {unit}" if unit in SHOWN_UNITS else title
            column = {"key": key, "title": shown_units(title.replace("_", " "))}
            columns.append(column | {"digits": DIGITS.get(unit, 2)})
    return columns


# ---- volumes ------------------------------------------------------------------------------------
def _volume(folder: Path, volume: dict) -> dict:
    maps = [_map(view, volume) for view in volume["maps"]]
    return {"name": volume["volume"], "maps": [*maps, _enface(folder, volume)]}


def _map(view: dict, volume: dict) -> dict:
    return {
        "title": MAP_TITLES[view["kind"]],
        "file": view["file"],
        "area": list(view["area"]),  # of the picture: left, top, width, height
        "size": list(view["area"][2:]),  # as it is shown
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
