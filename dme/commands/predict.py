"""Find fluid or layers in B-scans: masks, boundaries, overlays, measurements and a report for a browser.

INPUT: an image (8 or 16 bit, grey or colour, any size), an array (.npy), a volume (.mat), a folder of these,
or the word phantom for synthetic scans.

python experiments/predict.py my_scans/ --scale 3.87,11.33,123 --eye OD
python experiments/predict.py Subject_01.mat --out visit1
python experiments/predict.py my_scans/ --task layers
python experiments/predict.py --compare visit1 visit2
torchrun --nproc-per-node 4 experiments/predict.py my_scans/
"""

import argparse
import math
import shutil
from pathlib import Path

import numpy as np
import torch

from dme.common import ranks
from dme.common.errors import InputError
from dme.common.files import write_json
from dme.common.provenance import provenance
from dme.drawing.canvas import save_png
from dme.drawing.enface import map_picture
from dme.drawing.overlays import STRIP
from dme.drawing.panels import contact_sheet
from dme.inference.scan import network_for
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, Segmenter, require_arch
from dme.report.batch import FOLDERS, Work
from dme.report.columns import FINDS
from dme.report.compare import change_columns, compare
from dme.report.inputs import SUFFIXES, list_items
from dme.report.page_contents import write_page
from dme.report.tables import FILES, write_csv, write_tables
from dme.report.wording import caption, scales_text
from dme.retina.etdrs import EYES
from dme.retina.fluid import CONNECTIVITY, FLUID_COLUMNS
from dme.retina.volume import SECTORS, measure_volume

DEFAULT_WEIGHTS = {"fluid": "dme-fluid", "layers": "octlayers"}
ON_SHEET = 64  # scans on the contact sheet
OUTSIDE = FLUID_COLUMNS["px"][0], FLUID_COLUMNS["px"][-1]
LOW = 248  # px; half the height of the scans that the networks learnt from


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help=f"files ({' '.join(SUFFIXES)}), folders, or phantom",
    )
    add("--out", type=Path, help="results folder (default runs/predict, or runs/compare)")
    add("--task", choices=FINDS, default="fluid", help="what to find (default fluid)")
    add(
        "--weights",
        action="append",
        metavar="NETWORK",
        help="name or file (default dme-fluid, for layers octlayers); given twice where it takes two",
    )
    add(
        "--backbone",
        choices=BACKBONES,
        help="what the network's must be (default: whatever it is)",
    )
    add(
        "--threshold",
        type=float,
        default=0.5,
        help="fluid is where its probability is above (default 0.5)",
    )
    add("--tta", action="store_true", help="average with the mirrored scan: twice the time")
    add(
        "--scale",
        help="axial,lateral[,spacing] in um per pixel and B-scan (default: what the source says)",
    )
    add(
        "--volume",
        action="store_true",
        help="the images of a folder are the B-scans of one volume",
    )
    add("--eye", choices=EYES, help="right (OD) or left (OS): sectors become nasal and temporal")
    add(
        "--fovea",
        help="its column, from 0, and B-scan, as numbered in measurements.csv (default: centre)",
    )
    add(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="results folders of two visits: what changed",
    )
    args = parser.parse_args()
    if bool(args.inputs) == bool(args.compare):
        parser.error("give INPUT (files, folders or the word phantom), or --compare A B")
    args.out = args.out or Path("runs/compare" if args.compare else "runs/predict")
    return args


def main() -> int:
    args = parse_args()
    if args.compare:
        return print_comparison(*args.compare, args.out)
    scale_um = numbers(
        "--scale", args.scale, "axial,lateral or axial,lateral,spacing", (2, 3), 1e-6
    )
    fovea = numbers("--fovea", args.fovea, "column,B-scan", (2,), 0)
    if not 0 <= args.threshold < 1:
        raise InputError(f"--threshold {args.threshold} is out of range: give 0 or more, below 1")
    origin = provenance()
    rank, _, device = ranks.join()
    networks = choose_networks(args.task, args.weights, args.backbone, device)
    items, faults = list_items(args.inputs, args.volume)
    if not items:
        raise InputError("; ".join(faults.values()))
    work = Work(args.out, networks, args.threshold, args.tta, scale_um)
    settings = {}
    for what, model in networks.items():
        prefix = "layers_" * (what == "layers")
        settings[f"{prefix}weights"] = model.weights_name
        settings[f"{prefix}weights_sha256"] = model.weights_sha256
        settings[f"{prefix}size"] = model.preprocess["size"]
    settings |= {
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
        for model in dict.fromkeys(networks.values()):
            print(
                f"network: {model.weights_name} (sha256 {model.weights_sha256[:12]}), {origin['device']}"
            )
        for source, reason in faults.items():
            work.skip(source, reason)
    ranks.total(torch.zeros(1, device=device))  # wait until the folder is ready
    work.run(items)
    work.gather()
    if rank == 0:
        finish(args, origin, work, [note for item in items for note in item.notes])
    ranks.leave()
    return int(
        rank == 0 and bool(work.skipped)
    )  # torchrun would end rank 0 if another failed before it


def choose_networks(
    task: str, names: list[str] | None, backbone: str | None, device: torch.device
) -> dict[str, Segmenter]:
    """What the task finds -> the network for it, which may be one for both."""
    names = names or [DEFAULT_WEIGHTS[what] for what in FINDS[task]]
    models = [folded(load_model(name, device)) for name in names]
    for model in models:
        require_arch(model, backbone=backbone)
    networks = {what: network_for(what, models) for what in FINDS[task]}
    if idle := [model.weights_name for model in models if model not in networks.values()]:
        raise InputError(
            f"--task {task} has no use for {', '.join(idle)}: leave it out of --weights"
        )
    return networks


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
            raise InputError(
                f"{text} lies in {out}, whose content is replaced: choose another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    ours = (out / "measurements.json").is_file()
    if not ours and (others := [f.name for f in out.iterdir() if f.name[0] != "."]):
        raise InputError(
            f"{out} holds other files ({others[0]}, ...): choose a new folder with --out"
        )
    for name in (*FOLDERS, "maps", "retina_maps"):
        if (out / name).exists():
            shutil.rmtree(out / name)
    for name in FILES:
        (out / name).unlink(missing_ok=True)


def finish(args: argparse.Namespace, origin: dict, work: Work, notes: list[str]) -> None:
    """Volumes, tables, contact sheet and report, from what every scan left."""
    out, rows = args.out, work.rows
    if not rows:
        raise InputError(f"no scan could be predicted, {len(work.skipped)} skipped (see above)")
    volumes = measure_volumes(out, work, args.eye, origin["settings"]["fovea"])
    unknown = sum(row["axial_um"] is None for row in rows)
    if unknown:
        notes.append(
            f"scale unknown for {unknown} of {len(rows)} scans: pixels only; give it with --scale"
        )
        print(f"note: {notes[-1]}")
    if low := [row["scan"] for row in rows if row["height_px"] < LOW]:
        few = f"{len(low)} of {len(rows)} scans less than {LOW} px high ({low[0]})"
        notes.append(f"{few}: the networks learnt from larger ones and may miss much in them")
        print(f"note: {notes[-1]}")
    if args.task == "both":
        outside = {row["scan"]: row[OUTSIDE[0]] + row[OUTSIDE[1]] for row in rows}
        if px := sum(outside.values()):
            share = f"{px} of {sum(row['fluid_px'] for row in rows)} px of fluid lie above or below the retina"
            notes.append(
                f"{share}, most in {max(outside, key=outside.get)}: there the boundaries are wrong"
            )
            print(f"note: {notes[-1]}")
    within = sum(v["last_measured"] - v["first_measured"] + 1 - v["bscans"] for v in volumes)
    if within:
        notes.append(
            f"{within} B-scans missing within volumes: interpolated between their neighbours"
        )
        print(f"note: {notes[-1]}")
    if beyond := sum(v["missing_bscans"] for v in volumes) - within:
        notes.append(
            f"{beyond} B-scans missing at the end of volumes: their part of the volume is unknown"
        )
        print(f"note: {notes[-1]}")
    write_tables(out, args.task, rows, volumes)
    most = "retina_thickness_px" if args.task == "layers" else "fluid_px"
    shown = sorted(sorted(range(len(rows)), key=lambda i: -rows[i][most])[:ON_SHEET])
    captions = [f"{rows[i]['scan']}: {caption(rows[i])}" for i in shown]
    strip = STRIP if args.task == "fluid" else 0
    overlays = [out / rows[i]["overlay"] for i in shown]
    save_png(out / "contact_sheet.png", contact_sheet(overlays, captions, strip=strip))
    write_page(out / "report.html", origin, args.task, rows, volumes, notes, work.skipped)
    results = {"notes": notes, "scans": rows, "volumes": volumes, "skipped": work.skipped}
    write_json(out / "measurements.json", {"finished": True, **origin, **results})

    print(f"scale: {scales_text(rows)}")
    wet = (
        f", {sum(row['fluid_px'] > 0 for row in rows)} with fluid"
        if "fluid" in work.networks
        else ""
    )
    print(f"{len(rows)} scans{wet}; {len(work.skipped)} skipped")
    for v in volumes:
        print_volume(v)
    made = ", ".join(f"{name}/" for name in FOLDERS if (out / name).exists())
    print(f"wrote {out}: open report.html; {made}, measurements.csv. Not a medical device.")


def measure_volumes(
    out: Path, work: Work, eye: str | None, fovea: tuple[float, ...] | None
) -> list[dict]:
    """Numbers of each volume, with its maps as pictures; what cannot be measured is reported."""
    volumes = []
    for name in dict.fromkeys(volume for volume, _ in work.columns):
        of_volume = [row for row in work.rows if row["volume"] == name]
        columns_px = {of: lines for (volume, of), lines in work.columns.items() if volume == name}
        try:
            volume, maps = measure_volume(of_volume, columns_px, work.ranges[name], eye, fovea)
        except InputError as e:
            work.skip(name, str(e))
            continue
        if fovea and volume["spacing_um"] and not any(volume[SECTORS[of]] for of in maps):
            place = f"{volume['width_px']} columns, B-scans {volume['first_bscan']} to {volume['last_bscan']}"
            work.skip(name, f"no sectors: fovea {fovea[0]:g},{fovea[1]:g} lies outside ({place})")
        for of, thickness in maps.items():
            key = {"fluid": "map", "retina": "retina_map"}[of]
            volume[key] = f"{key}s/{name}.png"
            save_png(
                out / volume[key], volume_picture(volume, of, thickness, sorted(columns_px[of]))
            )
        volumes.append(volume)
    return volumes


def volume_picture(
    volume: dict, of: str, thickness: np.ndarray, predicted: list[int]
) -> np.ndarray:
    first, known = volume["first_bscan"], volume["spacing_um"] is not None
    if of == "fluid":
        size = f": {volume['fluid_volume_mm3']:.4f} mm3" if known else ""
    else:
        cst_um = volume["central_subfield_thickness_um"]
        size = f": central subfield {cst_um:.0f} um" if cst_um is not None else ""
    return map_picture(
        thickness,
        f"{volume['volume']}{size}",
        f"{of} thickness ({'px' if volume['axial_um'] is None else 'um'})",
        (volume["lateral_um"], volume["spacing_um"]) if known else None,
        (volume["fovea_column"], volume["fovea_bscan"] - first) if volume[SECTORS[of]] else None,
        volume["eye"],
        [position - first for position in predicted],
        lowest=0.0 if of == "fluid" else float(np.nanmin(thickness)),
    )


def print_volume(volume: dict) -> None:
    found = []
    if "fluid_px" in volume:
        size = "volume unknown without B-scan spacing"
        if volume["fluid_volume_mm3"] is not None:
            size = f"{volume['fluid_volume_mm3']:.4f} mm3"
        found.append(f"fluid {volume['fluid_px']} px, {size}")
    if "retina_thickness_px" in volume:
        mean_um, cst_um = volume["retina_thickness_um"], volume["central_subfield_thickness_um"]
        mean = (
            f"{volume['retina_thickness_px']:.1f} px" if mean_um is None else f"{mean_um:.1f} um"
        )
        cst = "unknown without scale, or with the fovea outside"
        if cst_um is not None:
            cst = f"{cst_um:.1f} um"
            if (covered := volume["retina_sectors"][0]["covered_percent"]) < 99:
                cst += f" ({covered:.0f} % of it scanned)"
        found.append(f"retina {mean}, central subfield thickness (CST) {cst}")
    print(f"volume {volume['volume']}: {', '.join(found)}, in {volume['bscans']} B-scans")


def print_comparison(folder_a: str, folder_b: str, out: Path) -> int:
    rows = compare(folder_a, folder_b)
    print(f"A: {folder_a}\nB: {folder_b}")
    print("not registered: B-scans pair by position, sectors lie around the centre of each visit")
    for level, unit, what in (
        ("bscan", "mm2", "area"),
        ("sector", "mm3", "volume"),
        ("total", "mm3", "volume"),
        ("retina", "um", "retina"),  # of which the sector center is the central subfield thickness
    ):
        if not (of_level := [row for row in rows if row["level"] == level]):
            continue
        print(f"\n{level:<18} {f'A {unit}':>10} {f'B {unit}':>10} {'change':>10} {'%':>8}")
        for row in of_level:
            a, b, change = (row[f"{what}_{key}_{unit}"] for key in ("a", "b", "change"))
            percent = "-" if row["change_percent"] is None else f"{row['change_percent']:+.1f}"
            print(f"{row['place']:<18} {a:>10.4f} {b:>10.4f} {change:>+10.4f} {percent:>8}")
    write_csv(out / "comparison.csv", change_columns(rows), rows)
    print(f"\nwrote {out / 'comparison.csv'}. Not a medical device.")
    return 0
