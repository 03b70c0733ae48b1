"""Table 1 of the study: what networks find without fine-tuning, as numbers, text and picture."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from dme.common.errors import InputError
from dme.data.cache import Cache
from dme.drawing.overlays import GREEN, overlay
from dme.drawing.panels import panel, typical
from dme.inference.protocols import run_protocol
from dme.inference.windows import require_finite
from dme.metrics import ConfusionMeter, table1_measure
from dme.nets.folding import folded
from dme.nets.segmenter import Segmenter
from dme.nets.zoo import known, path_of

FLUID = "fluid"
PUBLISHED = {
    "psp": 0.0022152529426350794,
    "fcn": 0.0008352216149828909,
    "deeplabv3": 0.0015548124333265947,
}
SHIPPED = ["hrf-psp", "hrf-fcn", "hrf-deeplabv3"]
CELL = 256  # px, of the picture


class Scored(NamedTuple):
    """What a network found in all scans."""

    meter: ConfusionMeter  # matrices (2, 2) per scan
    labels: np.ndarray  # uint8 (N, 256, 256) of 0 and 1, fluid
    seconds: float


def default_weights(backbone: str | None) -> list[str]:
    """The shipped unets, or every known network of a backbone that is here."""
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
    if (arch["backbone"], arch["num_classes"]) != ("unet", 2):
        return None
    return PUBLISHED[arch["head"]]


def score(model: Segmenter, cache: Cache, protocol: str) -> Scored:
    """Every scan of the cache under a protocol of the study."""
    # batch norm is folded into the convolutions, as in prediction
    device = next(model.parameters()).device
    fast = folded(model)
    meter = ConfusionMeter(2)
    labels = []
    began = time.perf_counter()
    for i, name in enumerate(tqdm(cache.names, desc=model.weights_name, unit="scan")):
        image = torch.from_numpy(cache.images[i])[None].to(device)  # (1, 256, 256)
        truth = torch.from_numpy(cache.fluid[i])[None].to(device)
        logits = run_protocol(fast, image, protocol)  # (1, C, 256, 256)
        require_finite(logits, model, name)
        fluid = (logits.argmax(1) == fluid_class(model)).to(torch.uint8)
        meter.update(fluid, truth, [name])
        labels.append(fluid[0].cpu().numpy())
    return Scored(meter, np.stack(labels), time.perf_counter() - began)


def result_row(model: Segmenter, scored: Scored) -> dict:
    """A network's entry in results.json."""
    counts = scored.meter.matrices()
    return {
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
        "arch": model.arch,
        "parameters": sum(p.numel() for p in model.parameters()),
        "fluid_class": model.classes[fluid_class(model)],
        "published": published(model),
        "table1_measure": table1_measure(counts),
        "pooled": scored.meter.compute(),
        "seconds_per_scan": scored.seconds / len(scored.labels),
        "counts_per_scan": counts,
    }


def print_table(rows: Sequence[dict], synthetic: bool) -> None:
    """The table as text, of entries of results.json."""
    where = "SYNTHETIC scans" if synthetic else "these scans"
    print(
        f"\nTable 1, no fine-tuning: published on the study's 110 real scans, measured on {where}"
    )
    print(f"{'backbone':18} {'head':10} {'width':>5} {'parameters':>10}", end="")
    print(f" {'published':>9} {'measured':>9}", end="")
    print(f" {'fluid IoU':>9} {'fluid Dice':>10} {'s/scan':>7}  weights")
    for row in rows:
        arch = row["arch"]
        there = "-" if row["published"] is None else f"{row['published']:.4f}"
        iou, dice = row["pooled"]["iou"][1], row["pooled"]["dice"][1]
        print(f"{arch['backbone']:18} {arch['head']:10} {arch['width']:5g}", end="")
        print(f" {row['parameters']:10,d} {there:>9} {row['table1_measure']:9.4f}", end="")
        print(f" {iou:9.4f} {dice:10.4f} {row['seconds_per_scan']:7.2f}  {row['weights']}")
    print("published, measured: IoU of the class read as fluid, mean over scans, ", end="")
    print("empty unions count 0")
    print("fluid IoU and Dice are pooled over the scans")


def picture(cache: Cache, rows: Sequence[dict], predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Every network's fluid, and the truth: uint8 (H, W, 3).

    Of three scans: with most fluid, with the median of those with fluid, with least. predictions:
    labels (N, 256, 256) per network.
    """
    # a line of the panel for each scan
    shown = typical(cache.fluid)
    lines = []
    for i in shown:
        image = cache.images[i]
        found = [overlay(image, labels[i]) for labels in predictions]
        lines.append([image, *found, overlay(image, cache.fluid[i], GREEN)])
    titles = ["B-scan", *(row["arch"]["head"] for row in rows), "truth (fluid)"]
    return panel(lines, titles, [cache.names[i] for i in shown], cell_width=CELL)
