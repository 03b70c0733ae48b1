"""The page to open after `predict`: which numbers, tables and pictures stand on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dme.common.tasks import Task
from dme.drawing.html import Column, Table
from dme.inference.sizes import SIZES
from dme.report.columns import EDITED
from dme.report.networks import targets_of
from dme.report.page import Page
from dme.report.tables import sectors_of
from dme.report.viewer import flags_of, viewer_content
from dme.report.wording import (
    SHOWN_UNITS,
    amount,
    count_wet,
    counted,
    least_fluid,
    retina,
    scales_text,
    shown_units,
)
from dme.retina.fluid import FLUID_COLUMNS
from dme.retina.rows import CLASSES, THICKNESSES
from dme.retina.thickness import THICKNESS_COLUMNS
from dme.retina.volume import SECTORS

MAP_PX = 560  # width of maps on the page
BOUNDARIES_FACT = "rows count from 0 at pixel centres; the retina is all from ILM to RPE/choroid"
SECTORS_FACT = "ETDRS circles of 1, 3 and 6 mm diameter; the last B-scan is taken as superior"

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Results:
    """What a prediction leaves: rows of scans and of volumes, notes, and what was skipped."""

    rows: list[dict]
    volumes: list[dict]
    notes: list[str]
    skipped: list[dict]  # source, reason
    surfaces: Sequence[dict] = ()  # of `dme.report.surfaces`


def write_page(path: Path, record: dict, task: Task, results: Results) -> list[str]:
    """report.html and the files it needs; returns their names from its folder on.

    record: provenance with command, time_utc, commit, device and the settings.
    """
    rows = results.rows
    volumes = results.volumes
    settings = record["settings"]
    headline = [("scans", str(len(rows)))]
    volume_tables: list[Table] = []
    scan_columns: list[Column] = []
    scan_tables: list[Table] = []
    facts: Pairs = []

    # the scans' order: by fluid, without it by thickness
    rank = ""
    if task.finds_fluid:
        rank = "fluid_area_mm2" if _all_known(rows, "fluid_area_mm2") else "fluid_px"
        headline += _fluid_headline(rows, volumes)
        volume_tables += _fluid_volumes(volumes)
        scan_columns += _fluid_columns(rows)
        facts += _fluid_facts(settings)
    if task.finds_layers:
        unit = "um" if _all_known(rows, "axial_um") else "px"
        rank = rank or f"retina_thickness_{unit}"
        headline += _retina_headline(rows, volumes)
        volume_tables += _retina_volumes(volumes)
        scan_columns += _thickness_columns(unit, THICKNESSES[-1:])
        scan_tables.append(_profiles(rows, unit))
        facts += _layer_facts(settings)
    if task.finds_fluid and task.finds_layers:
        scan_tables.append(_fluid_in_layers(rows))

    if EDITED[0] in rows[0]:
        scan_columns += _edit_columns(rows)

    # volumes come first, then the scans, then what is worth a table of its own
    doubtful = [row for row in rows if row["doubt"]]
    columns = [Column("scan", "scan"), *scan_columns, Column("source", "source")]
    if doubtful:
        columns.insert(1, Column("doubt", "doubt"))
    if EDITED[0] in rows[0]:
        columns.insert(1, Column(EDITED[0], "by a person"))
    scans = Table("Scans", columns, rows, rank, "overlay", "thumbnail", link="scan", first="doubt")
    viewer = viewer_content(path.parent, rows, volumes, scan_columns, rank)
    page = Page(
        title=f"Retinal {' and '.join(targets_of(task))} in {counted(len(rows), 'scan')}",
        headline=headline,
        skipped=[(fault["source"], fault["reason"]) for fault in results.skipped],
        doubtful=[(row["scan"], "; ".join(flags_of(row))) for row in doubtful],
        tables=[*volume_tables, _surfaces(results.surfaces), scans, *scan_tables],
        facts=facts + _origin_facts(record, results),
        viewer=viewer,
    )
    return page.write(path)


def _all_known(rows: Sequence[dict], key: str) -> bool:
    return all(row[key] is not None for row in rows)


def _any_known(rows: Sequence[dict], key: str) -> bool:
    return any(row[key] is not None for row in rows)


# ---- facts at the foot --------------------------------------------------------------------------
def _fluid_facts(settings: dict) -> Pairs:
    rule = f"probability above {settings['threshold']:g}"
    if settings["tta"]:
        rule += ", mirrored scan averaged"
    return [
        ("network", f"{settings['weights']}, sha256 {settings['weights_sha256']}"),
        ("computed in", settings.get("precision", "float32")),  # older results do not say it
        ("scans enter it as", SIZES[settings["size"]].description),
        ("fluid is", rule),
        ("regions", f"{settings['connectivity']}-connected, however small"),
    ]


def _layer_facts(settings: dict) -> Pairs:
    network = f"{settings['layers_weights']}, sha256 {settings['layers_weights_sha256']}"
    size = SIZES[settings["layers_size"]].description
    if settings["tta"]:
        size += ", mirrored averaged"
    return [
        ("layer network", network),
        ("scans enter it as", size),
        ("boundaries", BOUNDARIES_FACT),
    ]


def _origin_facts(record: dict, results: Results) -> Pairs:
    made = f"{record['time_utc']}, commit {record['commit']}, {record['device']}"
    return [
        ("scale", shown_units(scales_text(results.rows))),
        ("sectors", SECTORS_FACT),
        ("command", record["command"]),
        ("made", made),
    ] + [("note", shown_units(note)) for note in results.notes]


# ---- numbers in large type ----------------------------------------------------------------------
def _fluid_headline(rows: list[dict], volumes: list[dict]) -> Pairs:
    most = max(rows, key=lambda row: row["fluid_px"])
    headline = [
        (f"with fluid ({shown_units(least_fluid(rows))})", str(count_wet(rows))),
        ("most in one scan", shown_units(amount(most))),
    ]
    if volumes and _all_known(volumes, "fluid_volume_mm3"):
        total_mm3 = sum(volume["fluid_volume_mm3"] for volume in volumes)
        where = f"fluid in {counted(len(volumes), 'volume')}"
        headline.append((where, f"{total_mm3:.4f} mm³"))
    return headline


def _retina_headline(rows: list[dict], volumes: list[dict]) -> Pairs:
    # of one volume the number that ophthalmologists know, else the thickest scan
    if len(volumes) == 1:
        thickness_um = volumes[0]["central_subfield_thickness_um"]
        if thickness_um is not None:
            return [("central subfield thickness", f"{thickness_um:.0f} µm")]
    thickest = max(rows, key=lambda row: row["retina_thickness_px"] or 0)
    return [("thickest retina, mean of a scan", shown_units(retina(thickest)))]


# ---- tables -------------------------------------------------------------------------------------
def _fluid_volumes(volumes: list[dict]) -> list[Table]:
    # seen from the front, ordered by volume where it is known of all
    columns = [Column("volume", "volume"), Column("bscans", "B-scans")]
    rank = "fluid_px"
    if _all_known(volumes, "fluid_volume_mm3"):
        rank = "fluid_volume_mm3"
        columns.append(Column("fluid_volume_mm3", "fluid mm³", 4))
    columns.append(Column("fluid_px", "fluid px"))
    title = "Volumes: fluid seen from the front"
    maps = Table(title, columns, volumes, rank=rank, picture="map", thumbnail_px=MAP_PX)

    sector_columns = [
        Column("volume_mm3", "fluid mm³", 4),
        Column("mean_um", "mean fluid thickness µm", 2),
    ]
    return [maps, _sector_table("ETDRS sectors", volumes, "fluid", sector_columns)]


def _retina_volumes(volumes: list[dict]) -> list[Table]:
    columns = [
        Column("volume", "volume"),
        Column("bscans", "B-scans"),
        Column("central_subfield_thickness_um", "central subfield thickness µm", 1),
        Column("retina_thickness_um", "mean retinal thickness µm", 1),
        Column("retina_thickness_px", "mean retinal thickness px", 1),
    ]
    # without a scale only pixels are known
    columns = [column for column in columns if _any_known(volumes, column.key)]
    title = "Volumes: thickness of the retina"
    maps = Table(title, columns, volumes, picture="retina_map", thumbnail_px=MAP_PX)

    sector_columns = [
        Column("mean_um", "mean retinal thickness µm", 1),
        Column("volume_mm3", "retina mm³", 3),
    ]
    sector_title = "ETDRS sectors: thickness of the retina"
    return [maps, _sector_table(sector_title, volumes, "retina", sector_columns)]


def _sector_table(title: str, volumes: list[dict], kind: str, values: Sequence[Column]) -> Table:
    """kind: "fluid" or "retina". values: the columns of their numbers."""
    columns = [Column("sector", "sector"), *values]
    if len(volumes) > 1:
        columns.insert(0, Column("volume", "volume"))
    columns.append(Column("covered_percent", "covered by the scan %"))
    return Table(title, columns, sectors_of(volumes, SECTORS[kind]))


def _surfaces(surfaces: Sequence[dict]) -> Table:
    """Where the B-scans lie on the device's picture of the eye."""
    columns = [Column("volume", "volume"), Column("pattern", "B-scans lie as")]
    title = "En-face pictures of the device"
    return Table(title, columns, surfaces, picture="surface", thumbnail_px=MAP_PX)


def _fluid_columns(rows: list[dict]) -> list[Column]:
    columns = [
        Column("fluid_area_mm2", "fluid mm²", 4),
        Column("fluid_px", "fluid px"),
        Column("regions", "regions"),
        Column("largest_region_mm2", "largest region mm²", 4),
        Column("largest_region_px", "largest region px"),
        Column("mean_fluid_probability", "mean probability in the fluid", 3),
    ]
    if "predicted_dice" in rows[0]:
        columns.insert(1, Column("fluid_area_low_mm2", "at least mm²", 4))
        columns.insert(2, Column("fluid_area_high_mm2", "at most mm²", 4))
        columns.append(Column("predicted_dice", "predicted Dice", 2))
    if _any_known(rows, "fluid_area_mm2"):
        return columns
    return [column for column in columns if not column.key.endswith("mm2")]


def _thickness_columns(unit: str, names: Sequence[str]) -> list[Column]:
    """Columns of the last of THICKNESSES, which have these names. unit: px or um."""
    columns = []
    keys = THICKNESS_COLUMNS[unit][-len(names) :]
    for key, name in zip(keys, names, strict=True):
        columns.append(Column(key, f"{name} {SHOWN_UNITS[unit]}", 1))
    return columns


def _edit_columns(rows: list[dict]) -> list[Column]:
    """What a person changed, as far as there is any of it."""
    _, added, removed, shift = EDITED
    columns = [
        Column(added, "fluid added px"),
        Column(removed, "fluid removed px"),
        Column(shift, "boundaries moved px", 2),
    ]
    return [column for column in columns if _any_known(rows, column.key)]


def _profiles(rows: list[dict], unit: str) -> Table:
    columns = [Column("scan", "scan"), *_thickness_columns(unit, THICKNESSES)]
    return Table("Mean thickness of the layers", columns, rows, picture="profile")


def _fluid_in_layers(rows: list[dict]) -> Table:
    unit, digits = "px", 0
    if _all_known(rows, "fluid_area_mm2"):
        unit, digits = "mm2", 4
    columns = [Column("scan", "scan")]
    for key, name in zip(FLUID_COLUMNS[unit], CLASSES, strict=True):
        columns.append(Column(key, f"{name} {SHOWN_UNITS[unit]}", digits))
    return Table("Fluid in the layers", columns, rows, link="scan")
