"""The folder of a prediction's results: announced before its scans, completed after them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import sealed, sha256_file, write_json
from dme.common.tasks import Task
from dme.drawing.canvas import save_png
from dme.drawing.panels import contact_sheet
from dme.inference.sizes import Physical
from dme.report import journal
from dme.report.batch import FOLDERS, Work, legend_height
from dme.report.device_layers import distance_lines
from dme.report.doubts import doubt_lines
from dme.report.mending import mending_lines
from dme.report.output_folder import RESULTS, STAGING, OutputFolder, put_in_place
from dme.report.page_contents import Results, write_page
from dme.report.standard_files import FOLDERS as STANDARD_FOLDERS
from dme.report.standard_files import write_standard
from dme.report.surfaces import draw_surfaces
from dme.report.tables import TABLES, rounded, write_tables
from dme.report.volumes import MAP_FOLDERS, measure_volumes
from dme.report.wording import (
    caption,
    count_wet,
    least_fluid,
    scales_text,
    shown_units,
    volume_line,
)
from dme.retina.fluid import FLUID_COLUMNS

ON_SHEET = 64  # scans on the contact sheet
LOW = 248  # px; half the height of the scans that the networks learnt from
OUTSIDE = (FLUID_COLUMNS["px"][0], FLUID_COLUMNS["px"][-1])  # fluid above and below the retina
FILES = (*TABLES, "contact_sheet.png")


@dataclass(frozen=True)
class Origin:
    """What a prediction was asked for, and where its results come from."""

    task: Task
    eye: str | None
    fovea: Sequence[float] | None  # column, B-scan
    record: dict  # provenance, inputs and settings, as they stand in the results file
    write: Sequence[str] = ()  # keys of dme.report.standard_files.FOLDERS


@contextlib.contextmanager
def announced(out: Path, origin: Origin) -> Iterator[None]:
    """Leave a results file that says that the prediction has not finished, as long as it runs.

    Taken back where it ended before anything was done from which another could go on. What is
    private is not known yet: neither the command's words nor inputs stand in it.
    """
    nameless = origin.record | {"command": "predict", "inputs": []}
    nameless.pop("edited", None)
    write_json(out / RESULTS, sealed({"finished": False, **nameless}))
    try:
        yield
    finally:
        _take_back(out)


def _take_back(out: Path) -> None:
    """Remove what says that a prediction began, unless it left anything else."""
    names = [path.name for path in out.glob("*") if path.name[0] != "."]
    if names == [RESULTS] and not any(journal.entries(out)):
        journal.remove(out)
        (out / RESULTS).unlink()
        if out.name == STAGING:
            out.rmdir()


def complete(work: Work, origin: Origin, notes: list[str], folder: OutputFolder) -> None:
    """Volumes, tables, contact sheet and report, from what every scan left; prints the outcome.

    notes: of the inputs. folder: that of `work`. Raises InputError if no scan could be predicted.
    """
    out = work.out
    if not work.rows:
        if work.labelled and work.labelled.left_out and not work.skipped:
            raise InputError("all scans are labelled: nothing is left to predict")
        raise InputError(f"no scan could be predicted, {len(work.skipped)} skipped (see above)")
    warnings: list[str] = []
    # which may measure scans again
    measured = measure_volumes(work, origin.eye, origin.fovea, warnings)
    volumes = [rounded(volume) for volume in measured]
    surfaces = draw_surfaces(work, volumes, warnings)
    warnings += write_standard(work, origin.write, origin.record["commit"] or "unknown")
    rows = [rounded(row) for row in work.rows]
    warnings += warnings_of(origin, rows, volumes)
    for warning in warnings:
        print(f"note: {warning}")

    # nothing private stays in texts
    privacy = work.privacy
    input_notes = [privacy.text(note) for note in notes]
    shown_notes = input_notes + [privacy.text(warning) for warning in warnings]
    skipped = []
    for fault in work.skipped:
        skipped.append({key: privacy.text(text) for key, text in fault.items()})
    results = Results(rows, volumes, shown_notes, skipped, surfaces)
    record = privacy.record(origin.record)

    # files for people, then the one for programs, which says that all is there
    write_tables(out, origin.task, rows, volumes)
    save_png(out / "contact_sheet.png", _sheet(out, origin.task, rows), fast=True)
    page = write_page(out / "report.html", record, origin.task, results)
    content = {
        "notes": results.notes,
        "input_notes": input_notes,
        "scans": rows,
        "volumes": volumes,
        "surfaces": surfaces,
        "skipped": results.skipped,
    }
    pictures = [row["surface"] for row in surfaces]
    content["files"] = checksums(work, volumes, [*page, *pictures])
    write_json(out / RESULTS, sealed({"finished": True, **record, **content}))
    journal.remove(out)
    if folder.final != out:
        put_in_place(folder)
    _print_outcome(folder.final, origin.task, results)


def checksums(work: Work, volumes: list[dict], page: list[str]) -> dict[str, str]:
    """Of every file of the results, as it was written: name from the folder on -> sha256.

    page: names of the page's own files, and of pictures that only it shows.
    """
    names = [name for name in FILES if (work.out / name).is_file()] + page
    for volume in volumes:
        for folder in MAP_FOLDERS:
            name = f"{folder}/{volume['volume']}.png"
            if (work.out / name).is_file():
                names.append(name)
    return work.files | {name: sha256_file(work.out / name) for name in names}


def warnings_of(origin: Origin, rows: list[dict], volumes: list[dict]) -> list[str]:
    """What a reader of the numbers has to know."""
    task = origin.task
    settings = origin.record["settings"]
    warnings = []
    # numbers in pixels only, and scans unlike those that the networks know
    unknown = sum(row["axial_um"] is None for row in rows)
    if unknown:
        scans = f"{unknown} of {len(rows)} scans"
        line = f"scale unknown for {scans}: pixels only; give it with --scale"
        warnings.append(f"{line}, else networks of a physical scale guess it")
    low = [row["scan"] for row in rows if row["height_px"] < LOW]
    sizes = {settings.get(key, Physical.name) for key in ("size", "layers_size")}
    if low and sizes != {Physical.name}:
        few = f"{len(low)} of {len(rows)} scans less than {LOW} px high ({low[0]})"
        why = "the networks learnt from larger ones and may miss much in them"
        warnings.append(f"{few}: {why}")

    # where the two networks contradict each other, and B-scans that are missing
    warnings += doubt_lines(rows)
    warnings += distance_lines(rows)
    warnings += mending_lines(volumes)
    if task.finds_fluid and task.finds_layers:
        warnings += _fluid_outside(rows)
    return warnings + _missing_bscans(volumes)


def _fluid_outside(rows: list[dict]) -> list[str]:
    """That fluid lies above or below the retina, and where most of it."""
    above, below = OUTSIDE
    fluid_px = 0
    outside_px = {}
    for row in rows:
        fluid_px += row["fluid_px"]
        outside_px[row["scan"]] = row[above] + row[below]
    total_px = sum(outside_px.values())
    if not total_px:
        return []
    worst = max(outside_px, key=outside_px.get)
    share = f"{total_px} of {fluid_px} px of fluid lie above or below the retina"
    return [f"{share}, most in {worst}: there the boundaries are wrong"]


def _missing_bscans(volumes: list[dict]) -> list[str]:
    """How many B-scans are missing between others, and how many beyond them."""
    missing = within = 0
    for volume in volumes:
        missing += volume["missing_bscans"]
        within += volume["last_measured"] - volume["first_measured"] + 1 - volume["bscans"]
    beyond = missing - within
    warnings = []
    if within:
        what = f"{within} B-scans missing within volumes"
        warnings.append(f"{what}: interpolated between their neighbours")
    if beyond:
        what = f"{beyond} B-scans missing at the end of volumes"
        warnings.append(f"{what}: their part of the volume is unknown")
    return warnings


def _sheet(out: Path, task: Task, rows: list[dict]) -> np.ndarray:
    """The overlays with most fluid or the thickest retina, in the order of the scans."""
    most = "fluid_px" if task.finds_fluid else "retina_thickness_px"
    by_size = sorted(range(len(rows)), key=lambda i: -(rows[i][most] or 0))
    overlays = []
    captions = []
    for i in sorted(by_size[:ON_SHEET]):
        overlays.append(out / rows[i]["overlay"])
        captions.append(shown_units(f"{rows[i]['scan']}: {caption(rows[i])}"))
    return contact_sheet(overlays, captions, strip=legend_height(task))


def _print_outcome(out: Path, task: Task, results: Results) -> None:
    rows = results.rows
    print(f"scale: {scales_text(rows)}")
    wet = ""
    if task.finds_fluid:
        wet = f", {count_wet(rows)} with fluid ({least_fluid(rows)})"
    print(f"{len(rows)} scans{wet}; {len(results.skipped)} skipped")
    for volume in results.volumes:
        print(volume_line(volume))
    names = (*FOLDERS, *STANDARD_FOLDERS.values())
    folders = ", ".join(f"{name}/" for name in names if (out / name).exists())
    print(f"wrote {out}: open report.html; {folders}, measurements.csv. Not a medical device.")
