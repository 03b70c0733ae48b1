"""What a GPU makes of the kernels, a training step of width 64 and prediction, each beside a peer.

python experiments/benchmarks/gpu.py
python experiments/benchmarks/gpu.py confusion losses --repeats 9

Every part is in gpu.json as soon as it is done. Without a GPU it ends in one line.
"""

import argparse
import subprocess
from functools import partial
from pathlib import Path

import peers
import torch
from bench import (
    Step,
    confusion_inputs,
    confusion_ways,
    crop_ways,
    largest_difference,
    loss_ways,
    synthetic_set,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from turns import DEVICE, Way, add_peaks, in_turns, report, report_limits, with_limits

from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.provenance import device_name, provenance
from dme.inference.sizes import SIZES
from dme.inference.windows import resize, whole
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, build_model, normalise
from dme.ops.confusion import confusion_matrix
from dme.training.settings import Augment, Recipe

# by classes, labels (N, H, W): their logits fit into no cache, so that memory is what limits a kernel
CONFUSION_SHAPES = {2: (64, 1024, 1024), 9: (16, 1024, 1024)}
SMALL_LABELS = "dme.confusion_matrix, labels uint8"
LOSS_SHAPES = ((16, 2, 320, 320), (16, 2, 1024, 1024), (16, 9, 512, 512))
CROP, BATCHES = 320, (2, 16)
SCANS = 61  # of a Spectralis volume


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    add("--repeats", type=int, default=5, help="timed rounds after one that is not (default 5)")
    add("--width", type=int, default=64, help="of the trained UNet (default 64, the study's)")
    add("--compile", action="store_true", help="also the training step under torch.compile")
    add(
        "--out",
        type=Path,
        default=Path("runs/bench"),
        help="folder for gpu.json (default runs/bench)",
    )
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    return args


def confusion(args: argparse.Namespace) -> dict:
    """Confusion matrices; also against one read of the logits at the rate at which memory is copied."""
    results = {}
    torchmetrics = peers.installed("torchmetrics")
    for classes, shape in CONFUSION_SHAPES.items():
        ways = confusion_ways(classes, shape, torchmetrics)
        logits, target = confusion_inputs(classes, shape)
        bytes_of = {name: logits.nbytes for name in ("dme.confusion_matrix", SMALL_LABELS)}
        small = target.byte()
        ways[SMALL_LABELS] = lambda: confusion_matrix(logits, small, classes)  # noqa: B023
        first, *others = (way() for way in ways.values())
        if any((first != other).any() for other in others):
            raise RuntimeError(f"the confusion matrices of {', '.join(ways)} differ")
        rows, limits = with_limits(ways, args.repeats)
        add_peaks(ways, rows)
        report(f"confusion matrix of float32 logits {tuple(logits.shape)}", rows)
        for name, size in bytes_of.items():
            rows[name]["of_one_read"] = rows[name]["median_s"] * limits["copy_bytes"] / size
            print(
                f"  {rows[name]['of_one_read']:.2f} reads of the logits at the copy rate  {name}"
            )
        results[f"{classes} classes"] = rows
    return results


def losses(args: argparse.Namespace) -> dict:
    results = {}
    monai = peers.installed("monai")
    for shape in LOSS_SHAPES:
        for loss, ways in loss_ways(shape, monai).items():
            apart = (
                largest_difference(ways) * shape[0] * shape[2] * shape[3]
            )  # of a pixel's mean loss
            rows = in_turns(ways, args.repeats)
            add_peaks(ways, rows)
            report(
                f"{loss} and gradient, float32 logits {shape}; gradients within {apart:.0e}", rows
            )
            results[f"{loss} {shape}"] = rows
    return results


def crops(args: argparse.Namespace) -> dict:
    ways = crop_ways(16, CROP)
    rows = in_turns(ways, args.repeats)
    add_peaks(ways, rows)
    report(f"16 crops of {CROP} x {CROP}, turned and scaled", rows)
    return rows


def training(args: argparse.Namespace) -> dict:
    """One optimiser step as dme.train makes it, and as it is usually written, with and without TF32."""
    results = {}
    data, model = synthetic_set(4), build_model(width=args.width)
    for batch in BATCHES:
        recipe, augment = Recipe(iters=1, batch=batch), Augment(crop=CROP)
        step = partial(Step, data=data, augment=augment, recipe=recipe)
        ours = partial(step, model, layout=torch.channels_last)
        ways: dict[str, Way] = {"dme, bfloat16": ours(dtype=torch.bfloat16)}
        if args.compile:
            ways["dme, bfloat16, torch.compile"] = ours(dtype=torch.bfloat16, compiled=True)
        ways["dme, float32"] = ours(dtype=None)
        eager = step(peers.plain(model), layout=torch.contiguous_format, dtype=None)
        ways["eager float32, channels first, order of OpenMMLab"] = partial(
            with_tf32, False, eager
        )
        ways["the same with TF32, PyTorch's default"] = partial(with_tf32, True, eager)
        with FlopCounterMode(display=False) as counter:
            eager()
        rows, limits = with_limits(ways, args.repeats)
        add_peaks(ways, rows)
        report(f"training step, UNet-{args.width}, PSP head, batch {batch}, crop {CROP}", rows)
        for name, row in rows.items():
            phases = ", ".join(f"{name} {1e3 * s:.1f}" for name, s in row["phases_s"].items())
            print(f"  ms by phase: {phases}  {name}")
        report_limits(counter.get_total_flops(), rows, limits)
        results[f"batch {batch}"] = {
            "rows": rows,
            "limits_per_s": limits,
            "flop": counter.get_total_flops(),
        }
    return results


def with_tf32(allowed: bool, way: Way) -> object:
    """Convolutions and products of float32 in TF32 or in full."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        return way()
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@torch.inference_mode()
def prediction(args: argparse.Namespace) -> dict:
    """A volume's B-scans on the GPU, uint8, to probabilities at their own size, by dme-fluid."""
    model = load_model("dme-fluid").eval().to(DEVICE)
    scans = torch.stack([synthetic_set(1).images[0]] * SCANS)
    fast, plain = folded(model), peers.plain(model)
    ways = {
        "dme, folded, float32": lambda: batch_probabilities(fast, scans),
        "dme, folded, bfloat16": lambda: batch_probabilities(fast, scans, torch.bfloat16),
        "eager, channels first, order of OpenMMLab": lambda: batch_probabilities(plain, scans),
    }
    expected = batch_probabilities(plain, scans)
    rows = in_turns(ways, args.repeats)
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


PARTS = {
    "confusion": confusion,
    "losses": losses,
    "crops": crops,
    "training": training,
    "prediction": prediction,
}


def driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    args = parse_args()
    if DEVICE.type != "cuda":
        raise InputError(
            "no CUDA device here, which these benchmarks are of; ./run.sh bench measures a CPU"
        )
    found = provenance() | {"driver": driver(), "repeats": args.repeats}
    found["versions"] |= peers.versions()
    print(f"{device_name()}, driver {found['driver']}, {found['versions']}")
    for name in args.parts or PARTS:
        found[name] = PARTS[name](args)
        write_json(args.out / "gpu.json", found)
    print(f"\nresults: {args.out / 'gpu.json'}")


if __name__ == "__main__":
    run(main)
