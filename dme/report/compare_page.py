"""The page of a comparison: maps of both visits, what changed between them, and the numbers."""

from pathlib import Path

import numpy as np

from dme.common.errors import with_flags
from dme.drawing.canvas import save_png
from dme.drawing.enface import Place, Span, map_picture
from dme.drawing.html import Column, Table
from dme.report.compare import LEVELS, OTHER, Comparison, Pair, same_place
from dme.report.page import Page
from dme.report.privacy import Privacy
from dme.report.wording import SHOWN_UNITS, shown_units
from dme.retina.volume import SECTORS

MAPS = "comparison_maps"
MAP_PX = 560
TITLES = {
    "bscan": "Fluid of B-scans",
    "sector": "Fluid in ETDRS sectors",
    "total": "Fluid in all",
    "retina": "Thickness of the retina in ETDRS sectors",
}
DIGITS = {"mm2": 4, "mm3": 4, "um": 1}


def write_comparison_page(out: Path, comparison: Comparison, record: dict) -> None:
    """comparison.html and the pictures of its maps. record: provenance."""
    # no path of the machine stands in it
    folders = [str(comparison.a.folder), str(comparison.b.folder)]
    record = Privacy().record(record | {"inputs": folders})
    folders = record["inputs"]
    notes = [shown_units(with_flags(note)) for note in comparison.notes()]
    tables = []
    for kind in comparison.kinds:
        maps = []
        for number, pair in enumerate(comparison.pairs):
            maps += _maps(out, comparison, pair, kind, number)
        columns = [
            Column("what", "map"),
            Column("total", _total_title(kind), 4 if kind == "fluid" else 1),
        ]
        title = f"Thickness of {'the retina' if kind == 'retina' else 'fluid'} from the front"
        tables.append(Table(title, columns, maps, picture="map", thumbnail_px=MAP_PX))
    for level in LEVELS:
        tables.append(_changes(comparison, level))

    facts = [("visit A", folders[0]), ("visit B", folders[1])]
    facts += [("place", note) for note in notes]
    facts.append(
        ("registration", "none: B-scans pair by position, sectors lie around each centre")
    )
    facts.append(("made", f"{record['time_utc']}, commit {record['commit']}"))
    facts.append(("command", record["command"]))
    page = Page(
        title="What changed from visit A to visit B",
        headline=headline_of(comparison),
        skipped=[],
        tables=tables,
        facts=facts,
        doubtful=[tuple(note.split(": ", 1)) for note in notes if "did not move" not in note],
    )
    page.write(out / "comparison.html")


def _total_title(kind: str) -> str:
    return (
        "fluid mm\N{SUPERSCRIPT THREE}" if kind == "fluid" else "central subfield \N{MICRO SIGN}m"
    )


def headline_of(comparison: Comparison) -> list[tuple[str, str]]:
    """Of each volume its fluid, and the thickness in its centre."""
    headline = []
    for row in comparison.rows:
        name = f", {row['volume_a']}" if len(comparison.pairs) > 1 else ""
        if row["level"] == "total":
            change = f"{row['volume_change_mm3']:+.4f} {SHOWN_UNITS['mm3']}"
            headline.append((f"fluid{name}", change))
        if row["level"] == "retina" and row["place"] == "center":
            what = f"central subfield thickness{name}"
            change = f"{row['retina_change_um']:+.0f} {SHOWN_UNITS['um']}"
            if row["same_place"] == OTHER:
                what += ": the eye moved"
                change = "unknown"
            headline.append((what, change))
    return headline


def _maps(out: Path, comparison: Comparison, pair: Pair, kind: str, number: int) -> list[dict]:
    """Draws A, B and their difference; rows of a table. Empty without the files of the maps."""
    volume_a, volume_b = pair
    a = comparison.a.map_um(volume_a, kind)
    b = comparison.b.map_um(volume_b, kind)
    if a is None or b is None:
        return []

    # one span for both visits, one that is even around 0 for the change
    both = np.stack([a, b])
    known = both[np.isfinite(both)]
    highest = float(known.max(initial=0))
    lowest = 0.0
    if kind == "retina" and known.size:
        lowest = float(known.min())
    span = Span(lowest, highest)
    change = b - a
    most = float(np.nanmax(np.abs(change), initial=1))
    change_span = Span(-most, most, change=True)

    # what stands in the sectors, and beside the pictures
    means_a = _means(volume_a, kind)
    means_b = _means(volume_b, kind)
    total_a = _total(volume_a, kind)
    total_b = _total(volume_b, kind)
    differences = [_difference(*means) for means in zip(means_a, means_b, strict=True)]
    moved = same_place("sector", comparison.shifts[number], pair) == OTHER
    if moved:  # they are of other places
        differences = [None] * len(differences)
    name = volume_a["volume"]
    sheets = [
        ("A", a, span, _place(volume_a, means_a), total_a),
        ("B", b, span, _place(volume_b, means_b), total_b),
        ("B - A", change, change_span, _place(volume_a, differences, changes=True), None),
    ]

    rows = []
    for what, values, colours, place, total in sheets:
        file = f"{MAPS}/{number}_{kind}_{what.replace(' ', '')}.png"
        quantity = f"{kind} thickness (\N{MICRO SIGN}m)"
        picture = map_picture(values, f"{name}: {what}", quantity, place, span=colours)
        save_png(out / file, picture)
        rows.append({"what": f"{name}: {what}", "map": file, "total": total})
    if kind == "fluid" or not moved:
        rows[-1]["total"] = _difference(total_a, total_b)
    return rows


def _means(volume: dict, kind: str) -> list[float | None]:
    return [sector.get("mean_um") for sector in volume[SECTORS[kind]]]


def _total(volume: dict, kind: str) -> float | None:
    """Fluid in all, or the thickness in the centre."""
    if kind == "fluid":
        return volume["fluid_volume_mm3"]
    return volume[SECTORS["retina"]][0]["mean_um"]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _place(volume: dict, numbers: list[float | None], changes: bool = False) -> Place:
    scale_um = (volume["lateral_um"], volume["spacing_um"])
    centre = (volume["fovea_column"], volume["fovea_bscan"] - volume["first_bscan"])
    return Place(scale_um, centre, volume["eye"], numbers, changes)


def _changes(comparison: Comparison, level: str) -> Table:
    """What changed in B-scans, sectors, or in all."""
    quantity, unit = LEVELS[level]
    shown = SHOWN_UNITS[unit]
    digits = DIGITS[unit]
    columns = [
        Column("place", "B-scan" if level == "bscan" else "where"),
        Column(f"{quantity}_a_{unit}", f"A {shown}", digits),
        Column(f"{quantity}_b_{unit}", f"B {shown}", digits),
        Column(f"{quantity}_change_{unit}", f"change {shown}", digits),
        Column("change_percent", "change %", 1),
    ]
    if len(comparison.pairs) > 1:
        columns.insert(0, Column("volume_a", "volume"))
    rows = [row for row in comparison.rows if row["level"] == level]
    if any(row["same_place"] == OTHER for row in rows):
        columns.append(Column("same_place", "same place"))
    return Table(TITLES[level], columns, rows)
