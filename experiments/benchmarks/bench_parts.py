"""The benchmarks of bench.py: the cache, operators, a training step, prediction."""

import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import peers
import torch
import work
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from turns import DEVICE, Rows, Ways, add_peaks, in_turns, report, report_limits, with_limits

from dme.data.cache import Cache, open_cache
from dme.data.opening import open_source
from dme.data.source import Source
from dme.inference.scan import probabilities
from dme.inference.sizes import SIZES
from dme.inference.windows import sliding_window
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, build_model, normalise
from dme.training.recipe import amp_dtype
from dme.training.settings import Augment, Recipe

CONFUSION_LABELS = (8, 512, 512)
LOSS_LOGITS = ((2, 2, 320, 320), (6, 9, 240, 240))
CONVOLVED = (4, 672, 32, 48)
CONVOLUTIONS = ((3, 2), (5, 4))  # kernel, dilation
CROPS, CROP_SIDE = 16, 320
BESIDE_THE_NETWORK = ("batch", "loss", "counts")  # phases of a training step


# ---- the cache
def decoded(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file, formats=("PNG",)))


def cache(data: str | None, repeats: int) -> dict:
    """All images and masks into memory: the cache opened and verified, PNG files decoded."""
    source = open_source(data)
    opened = open_cache(source)
    with tempfile.TemporaryDirectory() as temporary:
        files = own_png_files(source)
        origin = "the source's own"
        if len(files) != len(opened) * (1 if opened.fluid is None else 2):
            files = write_png_files(opened, Path(temporary))
            origin = "written for this comparison"
        ways = {
            "dme, from the cache": lambda: open_cache(source),
            "Pillow, from PNG files": lambda: [decoded(file) for file in files],
        }
        rows = in_turns(ways, repeats)
    what = f"{len(opened)} B-scans, or {len(files)} PNG files ({origin})"
    report(f"cache: {what}; {source.description}", rows)
    return {
        "rows": rows,
        "scans": len(opened),
        "png_files": origin,
        "data": source.description,
        "data_sha256": source.sha256,
    }


def own_png_files(source: Source) -> list[Path]:
    """Images, then masks, of a folder that keeps them as PNG."""
    if not source.path:
        return []
    files = []
    for name in ("images", "fluid"):
        files += sorted((Path(source.path) / name).glob("*.png"))
    return files


def write_png_files(opened: Cache, folder: Path) -> list[Path]:
    files = []
    for name, pictures in (("images", opened.images), ("fluid", opened.fluid)):
        for i, pixels in enumerate(() if pictures is None else pictures):
            files.append(folder / f"{name}_{i:05d}.png")
            Image.fromarray(pixels).save(files[-1])
    return files


# ---- operators


def ops(repeats: int) -> dict:
    """Confusion matrices, one label in twenty ignored; losses; convolutions, on a GPU crops."""
    results = {}

    def compare(name: str, ways: Ways, title: str) -> None:
        results[name] = rows = in_turns(ways, repeats)
        add_peaks(ways, rows)
        report(f"ops: {title}", rows)

    # counting
    torchmetrics = peers.installed("torchmetrics")
    monai = peers.installed("monai")
    scans, *pixels = CONFUSION_LABELS
    for classes in (2, 9):
        ways = work.confusion_ways(classes, CONFUSION_LABELS, torchmetrics)
        work.require_equal_counts(ways)
        shape = (scans, classes, *pixels)
        compare(f"{classes} classes", ways, f"confusion matrix of float32 logits {shape}")

    # losses and their gradients
    for shape in LOSS_LOGITS:
        for loss, ways in work.loss_ways(shape, monai).items():
            apart = f"pixels' gradients within {work.gradients_apart(ways, shape):.0e}"
            title = f"{loss} and gradient, float32 logits {shape}; {apart}"
            compare(f"{loss}, {shape[1]} classes", ways, title)

    # on a GPU cuDNN needs no help; of crops a CPU has one implementation
    if DEVICE.type == "cpu":
        for kernel, dilation in CONVOLUTIONS:
            name = f"depthwise {kernel} x {kernel}, dilation {dilation}"
            ways = work.depthwise_ways(kernel, dilation, CONVOLVED)
            compare(name, ways, f"convolution of {CONVOLVED} and its gradients, {name}")
    else:
        title = f"{CROPS} crops of {CROP_SIDE} x {CROP_SIDE}, turned and scaled"
        compare("crops", work.crop_ways(CROPS, CROP_SIDE), title)
    return results


# ---- training


def train(args: Namespace) -> dict:
    """One optimiser step, as `train` makes it; the peer has the same batch, loss and optimiser."""
    model = build_model(width=args.width)
    recipe = Recipe(iters=1, batch=args.batch)
    lesson = work.Lesson(work.synthetic_set(4), Augment(crop=args.crop), recipe)
    # ours in float32 and in the narrower precision, then the peer
    ways = {}
    for dtype in (None, amp_dtype(args.amp, DEVICE)):
        name = f"dme, {str(dtype or torch.float32).removeprefix('torch.')}"
        ways[name] = work.Step(model, lesson, torch.channels_last, dtype)
    peer = work.Step(peers.plain(model), lesson, torch.contiguous_format)
    ways["eager float32, channels first, order of OpenMMLab"] = peer
    with FlopCounterMode(display=False) as counter:
        peer()
    flop = counter.get_total_flops()

    rows, limits = with_limits(ways, args.repeats)
    add_peaks(ways, rows)
    what = f"UNet of width {args.width} with PSP head, batch {args.batch}, crop {args.crop}"
    report(f"train: one step of a {what}", rows)
    report_phases(rows)
    report_limits(flop, rows, limits)
    return {"rows": rows, "limits_per_s": limits, "flop": flop, "what": what}


def report_phases(rows: Rows) -> None:
    """Print the phases of a step, and add to each row the share of what is not the network."""
    print("ms of a step by phase, and the share of what is not the network")
    for name, row in rows.items():
        phases = row["phases_s"]
        beside = sum(phases[phase] for phase in BESIDE_THE_NETWORK)
        share = row["batch_loss_counts"] = beside / sum(phases.values())
        spent = ", ".join(f"{phase} {1e3 * seconds:.1f}" for phase, seconds in phases.items())
        print(f"  {spent}; batch, loss and counts {100 * share:.1f} %  {name}")


# ---- prediction


@torch.inference_mode()
def infer(weights: str, repeats: int) -> dict:
    """Probabilities of a scan at half size, and logits of 512 x 512 by sliding window."""
    model = load_model(weights).eval().to(DEVICE)
    model.preprocess = model.preprocess | {"size": "half"}
    arch = model.arch
    name = f"{arch['backbone']} of width {arch['width']} with {arch['head']} head"
    return {
        **infer_scan(model, name, repeats),
        **infer_windows(model, name, repeats),
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
    }


def infer_scan(model: Segmenter, name: str, repeats: int) -> dict:
    fast, plain = folded(model), peers.plain(model)
    image = work.synthetic_set(1).images[0]  # (496, 768)
    ways = {
        "dme, folded": lambda: probabilities(fast, image),
        "dme, as loaded": lambda: probabilities(model, image),
        "eager, channels first, order of OpenMMLab": lambda: probabilities(plain, image),
    }
    # the exported file lies in a folder that is there as long as it is timed
    with ExitStack() as stack:
        if DEVICE.type == "cuda":
            print("onnxruntime is compared on a CPU only")
        elif peers.installed("onnx", "onnxscript", "onnxruntime"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            exported = peers.onnx_probabilities(model, Path(folder))
            ways["onnxruntime"] = lambda: exported(image)
        rows, limits = with_limits(ways, repeats)
        apart = work.largest_difference(ways)

    # operations in OpenMMLab's order, which folding and reordering save
    with FlopCounterMode(display=False) as counter:
        probabilities(plain, image)
    flop = counter.get_total_flops()

    shape = " x ".join(map(str, image.shape))
    report(f"infer: {shape} scan at half size, {name}; probabilities within {apart:.0e}", rows)
    report_limits(flop, rows, limits)
    return {
        "scan": rows,
        "probabilities_within": apart,
        "limits_per_s": limits,
        "flop": flop,
    }


def infer_windows(model: Segmenter, name: str, repeats: int) -> dict:
    fast, plain = folded(model), peers.plain(model)
    image = work.synthetic_set(1).images[0]
    x = normalise(SIZES["512"].image(image)[None], model.preprocess)  # (1, 3, 512, 512)
    ways = {
        "dme, folded": lambda: sliding_window(fast, x),
        "eager, channels first, order of OpenMMLab": lambda: sliding_window(plain, x),
    }
    if peers.installed("monai"):
        ways["MONAI, folded"] = lambda: peers.monai_window(fast, x)
        ways["MONAI, eager"] = lambda: peers.monai_window(plain, x)
    rows = in_turns(ways, repeats)
    apart = work.largest_difference(ways)
    report(f"infer: 9 windows of 256 in 512 x 512, {name}; logits within {apart:.0e}", rows)
    return {"sliding_window": rows, "logits_within": apart}
