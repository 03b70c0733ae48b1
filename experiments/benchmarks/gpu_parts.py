"""The benchmarks of gpu.py: kernels, training steps, prediction."""

from functools import partial

import peers
import torch
import work
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from turns import DEVICE, Way, Ways, add_peaks, in_turns, report, report_limits, with_limits

from dme.inference.sizes import SIZES
from dme.inference.windows import resize, whole
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, build_model, normalise
from dme.ops.confusion import confusion_matrix
from dme.training.settings import Augment, Recipe

# by classes, labels (N, H, W): their logits fit into no cache, so that memory limits a kernel
CONFUSION_SHAPES = {2: (64, 1024, 1024), 9: (16, 1024, 1024)}
SMALL_LABELS = "dme.confusion_matrix, labels uint8"
LOSS_SHAPES = ((16, 2, 320, 320), (16, 2, 1024, 1024), (16, 9, 512, 512))
CROP, BATCHES = 320, (2, 16)
CROPS = 16
SCANS = 61  # of a Spectralis volume


def confusion(repeats: int) -> dict:
    """Confusion matrices; also against one read of the logits at the rate memory is copied at."""
    results = {}
    torchmetrics = peers.installed("torchmetrics")
    for classes, shape in CONFUSION_SHAPES.items():
        ways = work.confusion_ways(classes, shape, torchmetrics)
        logits, target = work.confusion_inputs(classes, shape)
        ways[SMALL_LABELS] = partial(confusion_matrix, logits, target.byte(), classes)
        work.require_equal_counts(ways)
        rows, limits = with_limits(ways, repeats)
        add_peaks(ways, rows)
        report(f"confusion matrix of float32 logits {tuple(logits.shape)}", rows)
        for name in ("dme.confusion_matrix", SMALL_LABELS):
            read_s = logits.nbytes / limits["copy_bytes"]
            reads = rows[name]["of_one_read"] = rows[name]["median_s"] / read_s
            print(f"  {reads:.2f} reads of the logits at the copy rate  {name}")
        results[f"{classes} classes"] = rows
    return results


def losses(repeats: int) -> dict:
    results = {}
    monai = peers.installed("monai")
    for shape in LOSS_SHAPES:
        for loss, ways in work.loss_ways(shape, monai).items():
            apart = f"gradients within {work.gradients_apart(ways, shape):.0e}"
            rows = in_turns(ways, repeats)
            add_peaks(ways, rows)
            report(f"{loss} and gradient, float32 logits {shape}; {apart}", rows)
            results[f"{loss} {shape}"] = rows
    return results


def crops(repeats: int) -> dict:
    ways = work.crop_ways(CROPS, CROP)
    rows = in_turns(ways, repeats)
    add_peaks(ways, rows)
    report(f"{CROPS} crops of {CROP} x {CROP}, turned and scaled", rows)
    return rows


def training(width: int, repeats: int, compiled: bool) -> dict:
    """One optimiser step as `train` makes it, and as is usual, with and without TF32."""
    results = {}
    data, model = work.synthetic_set(4), build_model(width=width)
    for batch in BATCHES:
        recipe = Recipe(iters=1, batch=batch)
        lesson = work.Lesson(data, Augment(crop=CROP), recipe)
        ways = step_ways(model, lesson, compiled)
        eager = work.Step(peers.plain(model), lesson, torch.contiguous_format)
        in_full = partial(with_tf32, False, eager)
        ways["eager float32, channels first, order of OpenMMLab"] = in_full
        ways["the same with TF32, PyTorch's default"] = partial(with_tf32, True, eager)
        with FlopCounterMode(display=False) as counter:
            eager()
        flop = counter.get_total_flops()

        rows, limits = with_limits(ways, repeats)
        add_peaks(ways, rows)
        report(f"training step, UNet-{width}, PSP head, batch {batch}, crop {CROP}", rows)
        for name, row in rows.items():
            phases = ", ".join(f"{phase} {1e3 * s:.1f}" for phase, s in row["phases_s"].items())
            print(f"  ms by phase: {phases}  {name}")
        report_limits(flop, rows, limits)
        results[f"batch {batch}"] = {"rows": rows, "limits_per_s": limits, "flop": flop}
    return results


def step_ways(model: Segmenter, lesson: work.Lesson, compiled: bool) -> Ways:
    """Ours: bfloat16, float32, and if asked for compiled."""
    step = partial(work.Step, model, lesson, torch.channels_last)
    ways: Ways = {"dme, bfloat16": step(torch.bfloat16)}
    if compiled:
        ways["dme, bfloat16, torch.compile"] = step(torch.bfloat16, compiled=True)
    ways["dme, float32"] = step()
    return ways


def with_tf32(allowed: bool, way: Way) -> object:
    """Convolutions and products of float32 in TF32 or in full."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        return way()
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@torch.inference_mode()
def prediction(repeats: int) -> dict:
    """A volume's B-scans on the GPU, uint8, to probabilities at their own size, by dme-fluid."""
    model = load_model("dme-fluid").eval().to(DEVICE)
    scans = torch.stack([work.synthetic_set(1).images[0]] * SCANS)  # (61, 496, 768)
    fast, plain = folded(model), peers.plain(model)
    ways = {
        "dme, folded, float32": lambda: batch_probabilities(fast, scans),
        "dme, folded, bfloat16": lambda: batch_probabilities(fast, scans, torch.bfloat16),
        "eager, channels first, order of OpenMMLab": lambda: batch_probabilities(plain, scans),
    }
    expected = batch_probabilities(plain, scans)
    rows = in_turns(ways, repeats)
    add_peaks(ways, rows)
    report(f"{SCANS} scans of 496 x 768 at half size, dme-fluid", rows)
    for name, row in rows.items():
        row["ms_per_scan"] = 1e3 * row["median_s"] / SCANS
        row["furthest"] = (ways[name]() - expected).abs().max().item()
        print(f"  {row['ms_per_scan']:.3f} ms a scan, within {row['furthest']:.0e}  {name}")
    return {"rows": rows, "scans": SCANS}


def batch_probabilities(
    model: Segmenter, scans: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Of scans of one size, uint8 (N, H, W): float32 (N, classes, H, W)."""
    size = SIZES[model.preprocess["size"]]
    entered = torch.stack([size.image(scan) for scan in scans])
    with torch.autocast(DEVICE.type, dtype, enabled=dtype is not None):
        logits = whole(model, normalise(entered, model.preprocess))
    return resize(logits.float(), scans.shape[1:]).softmax(1)
