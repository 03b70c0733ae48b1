"""The page to open after `predict`: which numbers, tables and pictures stand on it."""

from collections.abc import Sequence
from pathlib import Path

from dme.drawing.overlays import STRIP
from dme.inference.sizes import SIZES
from dme.report.columns import FINDS
from dme.report.page import Column, Table, write_report
from dme.report.tables import sectors_of
from dme.report.wording import amount, retina, scales_text
from dme.retina.fluid import FLUID_COLUMNS
from dme.retina.rows import CLASSES, THICKNESSES
from dme.retina.thickness import THICKNESS_COLUMNS
from dme.retina.volume import SECTORS


def write_page(
    path: Path,
    origin: dict,
    task: str,
    rows: list[dict],
    volumes: list[dict],
    notes: list[str],
    skipped: list[dict],
) -> None:
    """report.html. origin: provenance with command, time_utc, commit, device and the run's settings."""
    settings = origin["settings"]
    headline, volume_tables, scan_columns, scan_tables, facts = (
        [("scans", str(len(rows)))],
        [],
        [],
        [],
        [],
    )
    rank = ""  # the scans' order: by fluid, without it by thickness
    if "fluid" in FINDS[task]:
        rank = (
            "fluid_area_mm2"
            if all(row["fluid_area_mm2"] is not None for row in rows)
            else "fluid_px"
        )
        headline += _fluid_headline(rows, volumes)
        volume_tables += _fluid_volumes(volumes)
        scan_columns += _fluid_columns(rows)
        facts += [
            ("network", f"{settings['weights']}, sha256 {settings['weights_sha256']}"),
            ("scans enter it as", SIZES[settings["size"]]),
            (
                "fluid is",
                f"probability above {settings['threshold']:g}"
                + ", mirrored scan averaged" * settings["tta"],
            ),
            ("regions", f"{settings['connectivity']}-connected, however small"),
        ]
    if "layers" in FINDS[task]:
        unit = "um" if all(row["axial_um"] is not None for row in rows) else "px"
        rank = rank or f"retina_thickness_{unit}"
        headline += _retina_headline(rows, volumes)
        volume_tables += _retina_volumes(volumes)
        scan_columns += _thickness_columns(unit, THICKNESSES[-1:])
        profile = [Column("scan", "scan"), *_thickness_columns(unit, THICKNESSES)]
        scan_tables.append(Table("Mean thickness of the layers", profile, rows, picture="profile"))
        if task == "both":
            scan_tables.append(_fluid_in_layers(rows))
        facts += [
            (
                "layer network",
                f"{settings['layers_weights']}, sha256 {settings['layers_weights_sha256']}",
            ),
            (
                "scans enter it as",
                SIZES[settings["layers_size"]] + ", mirrored averaged" * settings["tta"],
            ),
            (
                "boundaries",
                "rows count from 0 at pixel centres; the retina is all from ILM to RPE/choroid",
            ),
        ]
    scans = Table(
        "Scans",
        [Column("scan", "scan"), *scan_columns, Column("source", "source")],
        rows,
        rank=rank,
        picture="overlay",
        strip=STRIP if task == "fluid" else 0,
    )
    facts += [
        ("scale", scales_text(rows)),
        (
            "sectors",
            "ETDRS circles of 1, 3 and 6 mm diameter; the last B-scan is taken as superior",
        ),
        ("command", origin["command"]),
        ("made", f"{origin['time_utc']}, commit {origin['commit']}, {origin['device']}"),
        *(("note", note) for note in notes),
    ]
    lost = [(fault["source"], fault["reason"]) for fault in skipped]
    found = " and ".join(FINDS[task])
    title = f"Retinal {found} in {len(rows)} scans"
    write_report(path, title, headline, [*volume_tables, scans, *scan_tables], facts, lost)


def _fluid_headline(rows: list[dict], volumes: list[dict]) -> list[tuple[str, str]]:
    most = max(rows, key=lambda row: row["fluid_px"])
    headline = [
        ("with fluid", str(sum(row["fluid_px"] > 0 for row in rows))),
        ("most in one scan", amount(most).replace("mm2", "mm²")),
    ]
    if volumes and all(v["fluid_volume_mm3"] is not None for v in volumes):
        total_mm3 = sum(v["fluid_volume_mm3"] for v in volumes)
        headline.append(
            (f"fluid in {len(volumes)} volume{'s' * (len(volumes) > 1)}", f"{total_mm3:.4f} mm³")
        )
    return headline


def _retina_headline(rows: list[dict], volumes: list[dict]) -> list[tuple[str, str]]:
    if len(volumes) == 1 and volumes[0]["central_subfield_thickness_um"] is not None:
        return [
            ("central subfield thickness", f"{volumes[0]['central_subfield_thickness_um']:.0f} µm")
        ]
    thickest = max(rows, key=lambda row: row["retina_thickness_px"])
    return [("thickest retina, mean of a scan", retina(thickest).replace("um", "µm"))]


def _fluid_volumes(volumes: list[dict]) -> list[Table]:
    measured = all(v["fluid_volume_mm3"] is not None for v in volumes)
    seen = Table(
        "Volumes: fluid seen from the front",
        [
            Column("volume", "volume"),
            Column("bscans", "B-scans"),
            *([Column("fluid_volume_mm3", "fluid mm³", 4)] if measured else []),
            Column("fluid_px", "fluid px"),
        ],
        volumes,
        rank="fluid_volume_mm3" if measured else "fluid_px",
        picture="map",
        thumbnail_px=560,
    )
    columns = (
        Column("volume_mm3", "fluid mm³", 4),
        Column("mean_um", "mean fluid thickness µm", 2),
    )
    return [seen, _sector_table("ETDRS sectors", volumes, "fluid", columns)]


def _retina_volumes(volumes: list[dict]) -> list[Table]:
    columns = [
        Column("volume", "volume"),
        Column("bscans", "B-scans"),
        Column("central_subfield_thickness_um", "central subfield thickness µm", 1),
        Column("retina_thickness_um", "mean retinal thickness µm", 1),
        Column("retina_thickness_px", "mean retinal thickness px", 1),
    ]
    shown = [c for c in columns if any(v[c.key] is not None for v in volumes)]
    seen = Table(
        "Volumes: thickness of the retina", shown, volumes, picture="retina_map", thumbnail_px=560
    )
    columns = (
        Column("mean_um", "mean retinal thickness µm", 1),
        Column("volume_mm3", "retina mm³", 3),
    )
    return [
        seen,
        _sector_table("ETDRS sectors: thickness of the retina", volumes, "retina", columns),
    ]


def _sector_table(title: str, volumes: list[dict], of: str, values: Sequence[Column]) -> Table:
    columns = [
        *([Column("volume", "volume")] if len(volumes) > 1 else []),
        Column("sector", "sector"),
        *values,
        Column("covered_percent", "covered by the scan %"),
    ]
    return Table(title, columns, sectors_of(volumes, SECTORS[of]))


def _fluid_columns(rows: list[dict]) -> list[Column]:
    known = [row["fluid_area_mm2"] is not None for row in rows]
    return [
        *([Column("fluid_area_mm2", "fluid mm²", 4)] if any(known) else []),
        Column("fluid_px", "fluid px"),
        Column("regions", "regions"),
        *([Column("largest_region_mm2", "largest region mm²", 4)] if any(known) else []),
        Column("largest_region_px", "largest region px"),
        Column("mean_fluid_probability", "mean probability in the fluid", 3),
    ]


def _thickness_columns(unit: str, names: Sequence[str]) -> list[Column]:
    shown = {"um": "µm"}.get(unit, unit)
    keys = THICKNESS_COLUMNS[unit][-len(names) :]
    return [Column(key, f"{name} {shown}", 1) for key, name in zip(keys, names, strict=True)]


def _fluid_in_layers(rows: list[dict]) -> Table:
    unit = "mm2" if all(row["fluid_area_mm2"] is not None for row in rows) else "px"
    columns = [
        Column(key, f"{name} {unit.replace('2', '²')}", 4 if unit == "mm2" else 0)
        for key, name in zip(FLUID_COLUMNS[unit], CLASSES, strict=True)
    ]
    return Table("Fluid in the layers", [Column("scan", "scan"), *columns], rows)
