"""What precision.py measures: fluid and boundaries by each way, and seconds for a volume."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from precision import CALIBRATE_EVERY, REFERENCE
from torch import Tensor, nn
from tqdm import tqdm
from turns import in_turns, stopwatch
from ways import Way, ways_of

from dme.common.errors import InputError
from dme.data.cache import Cache
from dme.inference.entry import enter
from dme.inference.scan import class_probabilities, fluid_mask, layer_rows
from dme.inference.windows import pad, whole
from dme.metrics import scores
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, normalise
from dme.ops.confusion import confusion_matrix
from dme.retina.agreement import icc, moments
from dme.training.run_folder import Stopwatch


class Network(nn.Module):
    """A way in the place of the network that it runs."""

    def __init__(self, model: Segmenter, way: Way) -> None:
        super().__init__()
        self.classes = model.classes
        self.preprocess = model.preprocess
        self.way = way
        self.place = nn.Parameter(torch.zeros(1))  # which tells the device

    def forward(self, x: Tensor) -> Tensor:
        return self.way.run(x)


# ---- fluid
@torch.inference_mode()
def fluid(
    weights: str, scans: Cache, volume: Sequence[np.ndarray], repeats: int, word: str = ""
) -> dict:
    """Change of fluid in all scans, and seconds for a volume, of the ways with that word."""
    model = load_model(weights)
    scale_um = scans.scale_um
    shapes = {image.shape for image in (*scans.images, *volume)}
    if len(shapes) > 1:
        raise InputError(f"scans of {shapes} px, expected one size: exported networks take one")
    calibration = []
    for image in scans.images[::CALIBRATE_EVERY]:
        calibration.append(pad(entered(model, image, scale_um)))
    ways = ways_of(model, calibration, word)

    # the same fluid?
    rows = {}
    counts = {}  # of a network, however many scans it takes at once
    for name, way in ways.items():
        if way.run not in counts:
            counts[way.run] = fluid_counts(model, way, scans)
        rows[name] = {"warm_up_s": way.warm_up_s, "batch": way.batch}
        rows[name] |= changes(counts[way.run], counts[ways[REFERENCE].run])

    # how fast?
    watched = {}
    for name, way in ways.items():
        watched[name] = partial(through_volume, model, way, volume, scale_um)
    for name, row in in_turns(watched, repeats, turn_s=1e-3).items():
        rows[name] |= row
    return {
        "ways": rows,
        "scans": len(scans),
        "volume_scans": len(volume),
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
    }


def entered(model: Segmenter, image: np.ndarray, scale_um: Sequence[float] | None) -> Tensor:
    """What the network sees of a scan, normalised (1, C, H, W)."""
    scan = enter(torch.tensor(image), model.preprocess, model.classes, scale_um)
    return normalise(scan.image[None], model.preprocess)


def fluid_counts(model: Segmenter, way: Way, scans: Cache) -> np.ndarray:
    """Confusion matrices (N, 2, 2) of all scans, rows truth."""
    network = Network(model, way)
    counts = []
    for image, truth in zip(tqdm(scans.images, leave=False), scans.fluid, strict=True):
        by_class = class_probabilities(network, image, scale_um=scans.scale_um)
        mask, _ = fluid_mask(network, by_class, 0.5)
        found = torch.from_numpy(mask)[None].long()
        counts.append(confusion_matrix(found, torch.tensor(truth)[None].long(), 2).numpy())
    return np.stack(counts)


def changes(counts: np.ndarray, reference: np.ndarray) -> dict:
    """Fluid Dice, pooled over the scans, and areas, beside those of the reference."""
    dice = float(scores(counts.sum(0))["dice"][1])
    areas = counts[:, :, 1].sum(1)
    reference_areas = reference[:, :, 1].sum(1)
    return {
        "dice": dice,
        "dice_change": dice - float(scores(reference.sum(0))["dice"][1]),
        "icc": float(icc(moments(reference_areas, areas).sum(0))),
        "largest_area_change_px": int(abs(areas - reference_areas).max()),
        "presence_changes": int(((areas > 0) != (reference_areas > 0)).sum()),
    }


def through_volume(
    model: Segmenter, way: Way, volume: Sequence[np.ndarray], scale_um: Sequence[float] | None
) -> Stopwatch:
    """Masks of all scans, one batch after the other: seconds of entry, network and mask."""
    watch = stopwatch()
    for start in range(0, len(volume), way.batch):
        images = volume[start : start + way.batch]
        x = torch.cat([entered(model, image, scale_um) for image in images])
        watch.lap("entry")
        logits = whole(way.run, x)
        watch.lap("network")
        shape = images[0].shape
        at_scan = nn.functional.interpolate(logits.contiguous(), shape, mode="bilinear")
        for by_class in at_scan.softmax(1):
            fluid_mask(model, by_class, 0.5)
        watch.lap("mask")
    return watch


# ---- layers
@torch.inference_mode()
def layers(weights: str, sets: dict[str, Cache]) -> dict:
    """How far boundaries by bfloat16 lie from those by float32, in the scans of each set."""
    model = load_model(weights)
    exact, near = folded(model), folded(model, "bfloat16")
    rows = []
    for description, scans in sets.items():
        distances = []
        for image in tqdm(scans.images, leave=False):
            distances.append(boundary_distances(exact, near, image, scans.scale_um))
        px = np.concatenate(distances)
        rows.append(
            {
                "data": description,
                "scans": len(scans),
                "mean_px": float(px.mean()),
                "p95_px": float(np.quantile(px, 0.95)),
                "largest_px": float(px.max()),
                "above_share": float((px > 0.05).mean()),
            }
        )
    return {"sets": rows, "weights": model.weights_name, "weights_sha256": model.weights_sha256}


def boundary_distances(
    exact: Segmenter, near: Segmenter, image: np.ndarray, scale_um: Sequence[float] | None
) -> np.ndarray:
    """Of every boundary in every column that both call retina, px (n,)."""
    rows = []
    for network in (exact, near):
        by_class = class_probabilities(network, image, scale_um=scale_um)
        rows.append(layer_rows(network, image, by_class, None))
    apart = abs(rows[1] - rows[0])
    return apart[np.isfinite(apart)]
