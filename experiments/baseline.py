"""Table 1 of the study: HRF-pretrained UNets, or any other networks, on OCT B-scans without fine-tuning.

The measure of that table is the IoU of class 1 (vessel read as fluid) per scan, averaged over all scans, a
scan with an empty union counting 0; it is not the mIoU of Table 2. Beside it stand IoU and Dice of fluid
pooled over the set. Of a network with more classes the one called fluid is scored, or, where none is, class 1
as in the study (of Cityscapes that is sidewalk); every other class counts as background.

python experiments/baseline.py --weights hrf-psp cityscapes-psp-mobilenet_v2-openmmlab
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.provenance import device_name, provenance
from dme.data.cache import Cache, open_cache
from dme.data.opening import open_source
from dme.drawing.canvas import save_png
from dme.drawing.overlays import GREEN, overlay
from dme.drawing.panels import panel, typical
from dme.inference.protocols import PROTOCOLS, run_protocol
from dme.metrics import ConfusionMeter, table1_measure
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, Segmenter, require_arch
from dme.nets.zoo import known, path_of

SIZE = 256  # the study scores 256 x 256 versions of the scans
FLUID = "fluid"
PUBLISHED = {
    "psp": 0.0022152529426350794,
    "fcn": 0.0008352216149828909,
    "deeplabv3": 0.0015548124333265947,
}
SHIPPED = ["hrf-psp", "hrf-fcn", "hrf-deeplabv3"]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help=".mat files or folder of B-scans (default: DME_DATA, else synthetic scans)")
    add(
        "--grader", type=int, default=1, help="whose annotation of .mat files is the truth: 1 or 2"
    )
    add("--backbone", choices=BACKBONES, help="of the weights (default: any)")
    add(
        "--weights",
        nargs="+",
        help="names or files (default: the shipped unets, or all of --backbone here)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="paper: enlarge to 2336 (default on a GPU); light: to 512",
    )
    add("--out", type=Path, default=Path("runs/baseline"), help="folder for results and picture")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    origin = provenance()  # of the code that runs, which may change on disk before a long run ends
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    protocol = args.protocol or ("paper" if device.type == "cuda" else "light")
    source = open_source(args.data, args.grader)
    print(f"data: {source.description}")
    models = [load_model(name) for name in args.weights or default_weights(args.backbone)]
    for model in models:
        require_arch(model, backbone=args.backbone)
        number = fluid_class(model)
        read = f"class {number} of {len(model.classes)} ({model.classes[number]}) is read as fluid"
        print(f"weights: {model.weights_name}; {read}")
    side = PROTOCOLS[protocol]
    print(
        f"protocol: {protocol} ({SIZE} x {SIZE} scans enlarged to {side} x {side}, window 256, stride 170)"
    )
    print(f"device: {device_name()}", flush=True)
    cache = open_cache(source, SIZE)
    for note in cache.notes:
        print(f"data note: {note}")
    if cache.fluid is None:
        raise InputError(
            f"the scans of {cache.description} have no fluid masks; Table 1 needs the truth"
        )
    args.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it

    rows, predictions = [], []
    for model in models:
        meter, labels, seconds = score(model.to(device), cache, protocol)
        rows.append(
            {
                "weights": model.weights_name,
                "weights_sha256": model.weights_sha256,
                "arch": model.arch,
                "parameters": sum(p.numel() for p in model.parameters()),
                "fluid_class": model.classes[fluid_class(model)],
                "published": published(model),
                "table1_measure": table1_measure(meter.matrices()),
                "pooled": meter.compute(),
                "seconds_per_scan": seconds / len(cache.names),
                "counts_per_scan": meter.matrices(),
            }
        )
        predictions.append(labels)
    print_table(rows, synthetic=cache.kind == "phantom")
    save_png(args.out / "panel.png", picture(cache, rows, predictions))
    results = {
        **origin,
        "data": cache.description,
        "data_kind": cache.kind,
        "data_sha256": cache.source_sha256,
        "scans": cache.names,
        "protocol": protocol,
        "seed": None,  # nothing is random here
        "rows": rows,
    }
    write_json(args.out / "results.json", results)
    print(f"\nresults: {args.out / 'results.json'}\npicture: {args.out / 'panel.png'}")


def default_weights(backbone: str | None) -> list[str]:
    if backbone in (None, "unet"):
        return SHIPPED
    names = [name for name, entry in known().items() if entry["arch"]["backbone"] == backbone]
    here = [name for name in names if path_of(name).is_file()]
    if not here:
        raise InputError(
            f"no weights of a {backbone} are here; ./run.sh weights fetches {', '.join(names)}"
        )
    return here


def fluid_class(model: Segmenter) -> int:
    """The class that is scored as fluid."""
    return model.classes.index(FLUID) if FLUID in model.classes else 1


def published(model: Segmenter) -> float | None:
    """What the study reports: for unets with two classes."""
    arch = model.arch
    return (
        PUBLISHED[arch["head"]] if (arch["backbone"], arch["num_classes"]) == ("unet", 2) else None
    )


def score(
    model: Segmenter, cache: Cache, protocol: str
) -> tuple[ConfusionMeter, np.ndarray, float]:
    """Confusion matrices (2, 2) per scan, label maps uint8 (N, 256, 256) of 0 and 1 (fluid), seconds."""
    device = next(model.parameters()).device
    fast = folded(model)
    meter, labels = ConfusionMeter(2), []
    began = time.perf_counter()
    for i in tqdm(range(len(cache.names)), desc=model.weights_name, unit="scan"):
        image, truth = (
            torch.from_numpy(of[i])[None].to(device) for of in (cache.images, cache.fluid)
        )
        logits = run_protocol(fast, image, protocol)  # (1, C, 256, 256)
        fluid = (logits.argmax(1) == fluid_class(model)).to(torch.uint8)
        meter.update(fluid, truth, [cache.names[i]])
        labels.append(fluid[0].cpu().numpy())
    return meter, np.stack(labels), time.perf_counter() - began


def print_table(rows: list[dict], synthetic: bool) -> None:
    where = "SYNTHETIC scans" if synthetic else "these scans"
    print(
        f"\nTable 1, no fine-tuning: published on the study's 110 real scans, measured on {where}"
    )
    print(f"{'backbone':18} {'head':10} {'width':>5} {'parameters':>10}", end="")
    print(f" {'published':>9} {'measured':>9}", end="")
    print(f" {'fluid IoU':>9} {'fluid Dice':>10} {'s/scan':>7}  weights")
    for row in rows:
        pooled, arch = row["pooled"], row["arch"]
        known = "-" if row["published"] is None else f"{row['published']:.4f}"
        print(
            f"{arch['backbone']:18} {arch['head']:10} {arch['width']:5g} {row['parameters']:10,d} "
            f"{known:>9} {row['table1_measure']:9.4f} {pooled['iou'][1]:9.4f} {pooled['dice'][1]:10.4f} "
            f"{row['seconds_per_scan']:7.2f}  {row['weights']}"
        )
    print(
        "published, measured: IoU of the class read as fluid, mean over scans, empty unions count 0"
    )
    print("fluid IoU and Dice are pooled over the scans")


def picture(cache: Cache, rows: list[dict], predictions: list[np.ndarray]) -> np.ndarray:
    """Three scans (most fluid, median of those with fluid, least), every network's prediction, the truth."""
    shown = typical(cache.fluid)
    lines = [
        [
            cache.images[i],
            *(overlay(cache.images[i], p[i]) for p in predictions),
            overlay(cache.images[i], cache.fluid[i], GREEN),
        ]
        for i in shown
    ]
    titles = ["B-scan", *(row["arch"]["head"] for row in rows), "truth (fluid)"]
    return panel(lines, titles, [cache.names[i] for i in shown], cell_width=256)


if __name__ == "__main__":
    run(main)
