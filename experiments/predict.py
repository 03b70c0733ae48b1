"""Find fluid in B-scans: masks, overlays, measurements and a report to open in a browser.

INPUT: an image (8 or 16 bit, grey or colour, any size), an array (.npy), a volume (.mat), a folder of these,
or the word phantom for synthetic scans.

python experiments/predict.py my_scans/ --scale 3.87,11.33,123 --eye OD
python experiments/predict.py Subject_01.mat --out visit1
python experiments/predict.py --compare visit1 visit2
torchrun --nproc-per-node 4 experiments/predict.py my_scans/
"""

import argparse
import csv
import math
import shutil
from pathlib import Path

import numpy as np
import torch

from dme import ranks
from dme.compare import COLUMNS as CHANGE_COLUMNS
from dme.compare import compare
from dme.enface import map_picture
from dme.errors import InputError, run
from dme.etdrs import EYES
from dme.figures import save_png
from dme.files import atomic_path
from dme.infer import SIZES
from dme.inputs import SUFFIXES, list_items
from dme.measure import CONNECTIVITY, SCALE, measure_volume
from dme.predict import check_model
from dme.record import provenance, write_json
from dme.report import STRIP, Column, Table, contact_sheet, write_report
from dme.stream import FOLDERS, Work, amount
from dme.weights import load_model

SCAN_COLUMNS = (
    *("scan", "source", "volume", "bscan", "height_px", "width_px", *SCALE, "fluid_px", "fluid_area_mm2"),
    *("regions", "largest_region_px", "largest_region_mm2", "mean_fluid_probability", "mask", "overlay"),
)
VOLUME_COLUMNS = (
    *("volume", "bscans", "missing_bscans", "first_bscan", "last_bscan", "height_px", "width_px", *SCALE),
    *("fluid_px", "fluid_volume_mm3", "eye", "fovea_column", "fovea_bscan", "map"),
)
SECTOR_COLUMNS = ("volume", "sector", "covered_percent", "mean_um", "volume_mm3")
FILES = ("measurements.csv", "volumes.csv", "sectors.csv", "contact_sheet.png", "report.html")
ON_SHEET = 64  # scans on the contact sheet


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help=f"files ({' '.join(SUFFIXES)}), folders, or phantom")
    add("--out", type=Path, help="results folder (default runs/predict, or runs/compare)")
    add("--weights", default="dme-fluid", help="name or file of a network (default dme-fluid)")
    add("--threshold", type=float, default=0.5, help="fluid is where its probability is above (default 0.5)")
    add("--tta", action="store_true", help="average with the mirrored scan: twice the time")
    add("--scale", help="axial,lateral[,spacing] in um per pixel and B-scan (default: what the source says)")
    add("--volume", action="store_true", help="the images of a folder are the B-scans of one volume")
    add("--eye", choices=EYES, help="right (OD) or left (OS): sectors become nasal and temporal")
    add("--fovea", help="column,B-scan of the fovea, counted from 0 (default: the volume's centre)")
    add("--compare", nargs=2, metavar=("A", "B"), help="results folders of two visits: how fluid changed")
    args = parser.parse_args()
    if bool(args.inputs) == bool(args.compare):
        parser.error("give INPUT (files, folders or the word phantom), or --compare A B")
    args.out = args.out or Path("runs/compare" if args.compare else "runs/predict")
    return args


def main() -> int:
    args = parse_args()
    if args.compare:
        return print_comparison(*args.compare, args.out)
    scale_um = numbers("--scale", args.scale, "axial,lateral or axial,lateral,spacing", (2, 3), 1e-6)
    fovea = numbers("--fovea", args.fovea, "column,B-scan", (2,), 0)
    if not 0 <= args.threshold < 1:
        raise InputError(f"--threshold {args.threshold} is no probability: give 0 to 1")
    origin = provenance()
    rank, _, device = ranks.join()
    model = load_model(args.weights, device).to(memory_format=torch.channels_last)
    check_model(model)
    items, faults = list_items(args.inputs, args.volume)
    if not items:
        raise InputError("; ".join(faults.values()))
    work = Work(args.out, model, args.threshold, args.tta, scale_um)
    settings = {
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
        "size": model.preprocess["size"],
        "threshold": args.threshold,
        "tta": args.tta,
        "scale_um": scale_um,
        "eye": args.eye,
        "fovea": fovea,
        "connectivity": CONNECTIVITY,
    }
    origin |= {"inputs": args.inputs, "settings": settings}
    if rank == 0:
        make_ready(args.out, args.inputs)
        write_json(args.out / "measurements.json", {"finished": False, **origin})
        print(f"network: {model.weights_name} (sha256 {model.weights_sha256[:12]}), {origin['device']}")
        for source, reason in faults.items():
            work.skip(source, reason)
    ranks.total(torch.zeros(1, device=device))  # wait until the folder is ready
    work.run(items)
    work.gather()
    if rank == 0:
        finish(args, origin, work, [note for item in items for note in item.notes])
    ranks.leave()
    return int(rank == 0 and bool(work.skipped))  # torchrun would end rank 0 if another failed before it


def numbers(
    option: str, text: str | None, wanted: str, counts: tuple[int, ...], least: float
) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in counts or not all(math.isfinite(v) and v >= least for v in values):
        raise InputError(f"{option} {text}: expected {wanted}, numbers of at least {least:g}")
    return values


def make_ready(out: Path, inputs: list[str]) -> None:
    """A new or empty folder, or one with earlier results of ours, which are removed."""
    for text in inputs:
        if Path(text).resolve().is_relative_to(out.resolve()):
            raise InputError(f"{text} lies in {out}, whose content is replaced: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    ours = (out / "measurements.json").is_file()
    if not ours and (others := [f.name for f in out.iterdir() if f.name[0] != "."]):
        raise InputError(f"{out} holds other files ({others[0]}, ...): choose a new folder with --out")
    for name in (*FOLDERS, "maps"):
        if (out / name).exists():
            shutil.rmtree(out / name)
    for name in FILES:
        (out / name).unlink(missing_ok=True)


def finish(args: argparse.Namespace, origin: dict, work: Work, notes: list[str]) -> None:
    """Volumes, tables, contact sheet and report, from what every scan left."""
    out, rows, fovea = args.out, work.rows, origin["settings"]["fovea"]
    if not rows:
        raise InputError(f"no scan could be predicted, {len(work.skipped)} skipped (see above)")
    volumes = []
    for name, fluid_px in work.columns.items():
        of_volume = [row for row in rows if row["volume"] == name]
        try:
            volume, thickness = measure_volume(of_volume, fluid_px, work.ranges[name], args.eye, fovea)
        except InputError as e:
            work.skip(name, str(e))
            continue
        if fovea and volume["spacing_um"] and not volume["sectors"]:
            place = f"{volume['width_px']} columns, B-scans {volume['first_bscan']} to {volume['last_bscan']}"
            work.skip(name, f"no sectors: fovea {fovea[0]:g},{fovea[1]:g} lies outside ({place})")
        volume["map"] = f"maps/{name}.png"
        volumes.append(volume)
        save_png(out / volume["map"], volume_picture(volume, thickness, sorted(fluid_px)))
    unknown = sum(row["axial_um"] is None for row in rows)
    if unknown:
        notes.append(f"scale unknown for {unknown} of {len(rows)} scans: pixels only; give it with --scale")
        print(f"note: {notes[-1]}")
    if incomplete := [v for v in volumes if v["missing_bscans"]]:
        count = sum(v["missing_bscans"] for v in incomplete)
        notes.append(f"{count} B-scans missing within volumes: interpolated between their neighbours")
        print(f"note: {notes[-1]}")
    write_csv(out / "measurements.csv", SCAN_COLUMNS, rows)
    if volumes:
        write_csv(out / "volumes.csv", VOLUME_COLUMNS, volumes)
    if sectors := [{"volume": v["volume"], **sector} for v in volumes for sector in v["sectors"]]:
        write_csv(out / "sectors.csv", SECTOR_COLUMNS, sectors)
    shown = sorted(sorted(range(len(rows)), key=lambda i: -rows[i]["fluid_px"])[:ON_SHEET])
    captions = [f"{rows[i]['scan']}: {amount(rows[i])}" for i in shown]
    save_png(out / "contact_sheet.png", contact_sheet([out / rows[i]["overlay"] for i in shown], captions))
    write_page(out / "report.html", origin, rows, volumes, notes, work.skipped)
    results = {"notes": notes, "scans": rows, "volumes": volumes, "skipped": work.skipped}
    write_json(out / "measurements.json", {"finished": True, **origin, **results})

    print(f"scale: {scales_text(rows)}")
    wet = sum(row["fluid_px"] > 0 for row in rows)
    print(f"{len(rows)} scans, {wet} with fluid; {len(work.skipped)} skipped")
    for v in volumes:
        size = "volume unknown without B-scan spacing"
        if v["fluid_volume_mm3"] is not None:
            size = f"{v['fluid_volume_mm3']:.4f} mm3"
        print(f"volume {v['volume']}: fluid {v['fluid_px']} px, {size}, in {v['bscans']} B-scans")
    print(f"wrote {out}: open report.html; masks/, overlays/, measurements.csv. Not a medical device.")


def volume_picture(volume: dict, thickness: np.ndarray, predicted: list[int]) -> np.ndarray:
    first, known = volume["first_bscan"], volume["spacing_um"] is not None
    size = f": {volume['fluid_volume_mm3']:.4f} mm3" if known else ""
    return map_picture(
        thickness,
        f"{volume['volume']}{size}",
        f"fluid thickness ({'px' if volume['axial_um'] is None else 'um'})",
        (volume["lateral_um"], volume["spacing_um"]) if known else None,
        (volume["fovea_column"], volume["fovea_bscan"] - first) if volume["sectors"] else None,
        volume["eye"],
        [position - first for position in predicted],
    )


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="replace") as f,
    ):
        table = csv.DictWriter(f, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def write_page(
    path: Path, origin: dict, rows: list[dict], volumes: list[dict], notes: list[str], skipped: list[dict]
) -> None:
    settings = origin["settings"]
    known = [row["fluid_area_mm2"] is not None for row in rows]
    measured = all(v["fluid_volume_mm3"] is not None for v in volumes)
    headline = [
        ("scans", str(len(rows))),
        ("with fluid", str(sum(row["fluid_px"] > 0 for row in rows))),
        ("most in one scan", amount(max(rows, key=lambda row: row["fluid_px"])).replace("mm2", "mm²")),
    ]
    if volumes and measured:
        total_mm3 = sum(v["fluid_volume_mm3"] for v in volumes)
        headline.append((f"fluid in {len(volumes)} volume{'s' * (len(volumes) > 1)}", f"{total_mm3:.4f} mm³"))
    sectors = [{"volume": v["volume"], **sector} for v in volumes for sector in v["sectors"]]
    tables = [
        Table(
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
        ),
        Table(
            "ETDRS sectors",
            [
                *([Column("volume", "volume")] if len(volumes) > 1 else []),
                Column("sector", "sector"),
                Column("volume_mm3", "fluid mm³", 4),
                Column("mean_um", "mean fluid thickness µm", 2),
                Column("covered_percent", "covered by the scan %"),
            ],
            sectors,
        ),
        Table(
            "Scans",
            [
                Column("scan", "scan"),
                *([Column("fluid_area_mm2", "fluid mm²", 4)] if any(known) else []),
                Column("fluid_px", "fluid px"),
                Column("regions", "regions"),
                *([Column("largest_region_mm2", "largest region mm²", 4)] if any(known) else []),
                Column("largest_region_px", "largest region px"),
                Column("mean_fluid_probability", "mean probability in the fluid", 3),
                Column("source", "source"),
            ],
            rows,
            rank="fluid_area_mm2" if all(known) else "fluid_px",
            picture="overlay",
            strip=STRIP,
        ),
    ]
    facts = [
        ("network", f"{settings['weights']}, sha256 {settings['weights_sha256']}"),
        ("scans enter it as", SIZES[settings["size"]]),
        (
            "fluid is",
            f"probability above {settings['threshold']:g}" + ", mirrored scan averaged" * settings["tta"],
        ),
        ("regions", f"{settings['connectivity']}-connected, however small"),
        ("scale", scales_text(rows)),
        ("sectors", "ETDRS circles of 1, 3 and 6 mm diameter; the last B-scan is taken as superior"),
        ("command", origin["command"]),
        ("made", f"{origin['time_utc']}, commit {origin['commit']}, {origin['device']}"),
        *(("note", note) for note in notes),
    ]
    lost = [(fault["source"], fault["reason"]) for fault in skipped]
    write_report(path, f"Retinal fluid in {len(rows)} scans", headline, tables, facts, lost)


def scales_text(rows: list[dict]) -> str:
    texts = set()
    for scale in {tuple(row[key] for key in SCALE) for row in rows}:
        named = zip(("axial", "lateral", "B-scan spacing"), scale, strict=True)
        texts.add(", ".join(f"{name} {um:g} um" for name, um in named if um is not None) or "unknown")
    return "; ".join(sorted(texts))


def print_comparison(folder_a: str, folder_b: str, out: Path) -> int:
    rows = compare(folder_a, folder_b)
    print(f"A: {folder_a}\nB: {folder_b}")
    print("not registered: B-scans pair by position, sectors lie around the centre of each visit")
    for level, unit, what in (
        ("bscan", "mm2", "area"),
        ("sector", "mm3", "volume"),
        ("total", "mm3", "volume"),
    ):
        print(f"\n{level:<18} {f'A {unit}':>10} {f'B {unit}':>10} {'change':>10} {'%':>8}")
        for row in (row for row in rows if row["level"] == level):
            a, b, change = (row[f"{what}_{key}_{unit}"] for key in ("a", "b", "change"))
            percent = "-" if row["change_percent"] is None else f"{row['change_percent']:+.1f}"
            print(f"{row['place']:<18} {a:>10.4f} {b:>10.4f} {change:>+10.4f} {percent:>8}")
    write_csv(out / "comparison.csv", CHANGE_COLUMNS, rows)
    print(f"\nwrote {out / 'comparison.csv'}. Not a medical device.")
    return 0


if __name__ == "__main__":
    run(main)
