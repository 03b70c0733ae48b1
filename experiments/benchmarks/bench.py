"""Benchmarks against peers, in one process. A row begins with its time as a multiple of the first row's.

python experiments/benchmarks/bench.py [all]
python experiments/benchmarks/bench.py cache --data /path/to/data
python experiments/benchmarks/bench.py train --width 64
"""

import argparse
import copy
import os
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import peers
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from turns import (
    DEVICE,
    Way,
    add_peaks,
    clock,
    in_turns,
    report,
    report_limits,
    stopwatch,
    with_limits,
)

from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.memory import keep_freed_memory
from dme.common.provenance import device_name, provenance
from dme.data.cache import Cache, open_cache
from dme.data.opening import open_source
from dme.data.phantom import phantom_bscan
from dme.data.source import Source
from dme.inference.scan import probabilities
from dme.inference.sizes import SIZES
from dme.inference.windows import pad, resize, sliding_window
from dme.losses import Loss, get_loss
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, build_model, normalise
from dme.ops.confusion import confusion_matrix
from dme.ops.crops import crops_by_pytorch, sample_crops
from dme.ops.depthwise import depthwise_conv
from dme.training.augment import TrainingSet, batch_indices, sample_batch
from dme.training.recipe import OPTIMIZERS, amp_dtype
from dme.training.run_folder import Stopwatch
from dme.training.settings import Augment, Recipe


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="*", metavar="BENCH", help=f"{', '.join(BENCHES)} or all (default)")
    add("--repeats", type=int, default=7, help="timed rounds after one that is not")
    add("--data", help="cache: .mat file or folder (default: DME_DATA, else synthetic B-scans)")
    add("--width", type=int, default=16, help="train: of the network, a UNet with PSP head")
    add("--crop", type=int, default=320, help="train: side of the crops")
    add("--batch", type=int, default=2, help="train: crops of a step")
    add("--amp", choices=["bf16", "fp16"], default="bf16", help="train: precision beside float32")
    add("--weights", default="hrf-psp", help="infer: a named checkpoint or a file")
    add("--out", type=Path, default=Path("runs/bench"), help="folder for the results")
    args = parser.parse_args()
    if unknown := set(args.names) - {*BENCHES, "all"}:
        parser.error(
            f"unknown bench {', '.join(sorted(unknown))}; choose of {', '.join(BENCHES)}, all"
        )
    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: expected 1 or more")
    if not args.names or "all" in args.names:
        args.names = list(BENCHES)
    return args


def bench_cache(args: argparse.Namespace) -> dict:
    """All images and masks into memory: the cache opened and verified, PNG files decoded by Pillow."""
    source = open_source(args.data)
    cache = open_cache(source)
    with tempfile.TemporaryDirectory() as temporary:
        files = own_png_files(source)
        expected = len(cache) * (1 if cache.fluid is None else 2)
        origin = "the source's own"
        if len(files) != expected:
            files, origin = write_png_files(cache, Path(temporary)), "written for this comparison"
        ways = {
            "dme, from the cache": lambda: open_cache(source),
            "Pillow, from PNG files": lambda: [np.asarray(Image.open(file)) for file in files],
        }
        rows = in_turns(ways, args.repeats)
    report(
        f"cache: {len(cache)} B-scans, or {len(files)} PNG files ({origin}); {source.description}",
        rows,
    )
    return {
        "rows": rows,
        "scans": len(cache),
        "png_files": origin,
        "data": source.description,
        "data_sha256": source.sha256,
    }


def own_png_files(source: Source) -> list[Path]:
    """Images, then masks, of a folder that keeps them as PNG."""
    root = Path(source.path)
    return [
        f
        for name in ("images", "fluid")
        if source.path
        for f in sorted((root / name).glob("*.png"))
    ]


def write_png_files(cache: Cache, folder: Path) -> list[Path]:
    files = []
    for name in ("images", "fluid"):
        for i, pixels in enumerate(
            getattr(cache, name) if getattr(cache, name) is not None else []
        ):
            files.append(folder / f"{name}_{i:05d}.png")
            Image.fromarray(pixels).save(files[-1])
    return files


def bench_ops(args: argparse.Namespace) -> dict:
    """Confusion matrices, one label in twenty ignored; losses; convolutions on a CPU, crops on a GPU."""
    results = {}

    def compare(name: str, ways: dict[str, Way], told: str) -> None:
        results[name] = rows = in_turns(ways, args.repeats)
        add_peaks(ways, rows)
        report(f"ops: {told}", rows)

    torchmetrics, monai = (peers.installed(name) for name in ("torchmetrics", "monai"))
    for classes in (2, 9):
        ways = confusion_ways(classes, (8, 512, 512), torchmetrics)
        first, *others = (way() for way in ways.values())
        if any((first != other).any() for other in others):
            raise RuntimeError(f"the confusion matrices of {', '.join(ways)} differ")
        shape = f"(8, {classes}, 512, 512)"
        compare(f"{classes} classes", ways, f"confusion matrix of float32 logits {shape}")
    for shape in ((2, 2, 320, 320), (6, 9, 240, 240)):
        for loss, ways in loss_ways(shape, monai).items():
            apart = (
                largest_difference(ways) * shape[0] * shape[2] * shape[3]
            )  # of a pixel's mean loss
            told = f"{loss} and gradient, float32 logits {shape}; pixels' gradients within {apart:.0e}"
            compare(f"{loss}, {shape[1]} classes", ways, told)
    if DEVICE.type == "cpu":  # on a GPU cuDNN needs no help
        shape = (4, 672, 32, 48)
        for kernel, dilation in ((3, 2), (5, 4)):
            name = f"depthwise {kernel} x {kernel}, dilation {dilation}"
            ways = depthwise_ways(kernel, dilation, shape)
            compare(name, ways, f"convolution of {shape} and its gradients, {name}")
    else:  # a CPU has one implementation
        compare("crops", crop_ways(16, 320), "16 crops of 320 x 320, turned and scaled")
    return results


def loss_ways(shape: tuple[int, int, int, int], monai: bool) -> dict[str, dict[str, Way]]:
    """By loss. Each way returns the gradient. No label is ignored, which MONAI's loss could not do."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(DEVICE).requires_grad_()
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator).to(DEVICE)

    def way(loss: Loss) -> Way:
        return lambda: torch.autograd.grad(loss(logits, target), logits)[0]

    ce_dice = {
        "dme.losses.ce_dice": get_loss("ce+dice"),
        "PyTorch operations": peers.plain_ce_dice,
    }
    if monai:
        ce_dice["MONAI DiceCELoss"] = peers.monai_ce_dice()
    focal = {"dme.losses.focal": get_loss("focal"), "PyTorch operations": peers.plain_focal}
    losses = {"CE + Dice": ce_dice, "focal loss": focal}
    return {loss: {name: way(of) for name, of in ways.items()} for loss, ways in losses.items()}


def depthwise_ways(kernel: int, dilation: int, shape: tuple[int, int, int, int]) -> dict[str, Way]:
    """Forward and back, channels last as in training; those of PyTorch in bfloat16 can be wrong."""
    generator = torch.Generator().manual_seed(0)
    ways: dict[str, Way] = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(shape, generator=generator).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(shape[1], 1, kernel, kernel, generator=generator).to(dtype)
        leaves = x.requires_grad_(), weight.requires_grad_()
        reach, name = dilation * (kernel // 2), str(dtype).removeprefix("torch.")
        peer = partial(F.conv2d, padding=reach, dilation=dilation, groups=shape[1])
        for who, convolution in (
            ("dme.depthwise_conv", partial(depthwise_conv, dilation=dilation)),
            ("F.conv2d", peer),
        ):
            ways[f"{who}, {name}"] = partial(_there_and_back, convolution, *leaves)
    return ways


def _there_and_back(convolution: Way, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    y = convolution(x, weight)
    return torch.autograd.grad(y, (x, weight), y.detach())[1]


def crop_ways(batch: int, side: int) -> dict[str, Way]:
    data = synthetic_set(batch)
    geometry = torch.tensor([[40.0, 60.0, 1.1, 0.9, 0.1, 1.0]] * batch, dtype=torch.float64)
    arguments = ([image[None] for image in data.images], data.masks, geometry, side, side)
    return {
        "dme.sample_crops": lambda: sample_crops(*arguments),
        "PyTorch operations": lambda: crops_by_pytorch(*arguments),
    }


def confusion_ways(
    classes: int, shape: tuple[int, int, int], torchmetrics: bool
) -> dict[str, Way]:
    """shape: (N, H, W) of the labels, int64."""
    logits, target = confusion_inputs(classes, shape)
    ways = {
        "dme.confusion_matrix": lambda: confusion_matrix(logits, target, classes),
        "argmax and bincount": lambda: peers.argmax_bincount(logits, target, classes),
    }
    if torchmetrics:
        count = peers.torchmetrics_counter(classes, DEVICE)
        ways["torchmetrics"] = lambda: count(logits, target)
    return ways


def confusion_inputs(
    classes: int, shape: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float32 (N, C, H, W) and labels int64 (N, H, W), one in twenty of them ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((shape[0], classes, *shape[1:]), generator=generator).to(DEVICE)
    target = torch.randint(classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < 0.05] = 255
    return logits, target.to(DEVICE)


def bench_train(args: argparse.Namespace) -> dict:
    """One optimiser step, as `train` makes it; the peer has the same batch, loss, counts and optimiser."""
    data = synthetic_set(4)
    model = build_model(width=args.width)
    recipe, augment = Recipe(iters=1, batch=args.batch), Augment(crop=args.crop)
    ways = {}
    for dtype in (None, amp_dtype(args.amp, DEVICE)):
        name = f"dme, {str(dtype or torch.float32).removeprefix('torch.')}"
        ways[name] = Step(model, data, augment, recipe, torch.channels_last, dtype)
    peer = Step(peers.plain(model), data, augment, recipe, torch.contiguous_format, None)
    ways["eager float32, channels first, order of OpenMMLab"] = peer
    with FlopCounterMode(display=False) as counter:
        peer()
    rows, limits = with_limits(ways, args.repeats)
    add_peaks(ways, rows)
    what = f"UNet of width {args.width} with PSP head, batch {args.batch}, crop {args.crop}"
    report(f"train: one step of a {what}", rows)
    print("ms of a step by phase, and the share of what is not the network")
    for name, row in rows.items():
        phases = row["phases_s"]
        beside = sum(phases[phase] for phase in ("batch", "loss", "counts")) / sum(phases.values())
        row["batch_loss_counts"] = beside
        spent = ", ".join(f"{phase} {1e3 * seconds:.1f}" for phase, seconds in phases.items())
        print(f"  {spent}; batch, loss and counts {100 * beside:.1f} %  {name}")
    report_limits(counter.get_total_flops(), rows, limits)
    return {"rows": rows, "limits_per_s": limits, "flop": counter.get_total_flops(), "what": what}


class Step:
    """One optimiser step at every call, which returns its Stopwatch. Works on a copy of the model."""

    def __init__(
        self,
        model: Segmenter,
        data: TrainingSet,
        augment: Augment,
        recipe: Recipe,
        layout: torch.memory_format,
        dtype: torch.dtype | None,
        compiled: bool = False,
    ):
        self.model = copy.deepcopy(model).to(DEVICE, memory_format=layout).train()
        forward = self.model.forward_with_aux
        self.forward = torch.compile(forward) if compiled else forward
        self.data, self.augment, self.recipe, self.layout, self.dtype = (
            data,
            augment,
            recipe,
            layout,
            dtype,
        )
        make = OPTIMIZERS[recipe.optimizer]
        self.optimizer = make(list(self.model.parameters()), recipe.lr, recipe.l2)
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype is torch.float16)
        self.done = 0

    def __call__(self) -> Stopwatch:
        data, recipe, model = self.data, self.recipe, self.model
        watch = stopwatch()
        torch.manual_seed((recipe.seed << 32) + (self.done << 8))  # dropout
        self.optimizer.zero_grad(set_to_none=True)
        chosen = batch_indices(len(data.images), recipe.batch, self.done, recipe.seed)
        images, target = sample_batch(data, chosen, self.augment, recipe.seed, self.done)
        x = pad(normalise(images, model.preprocess)).to(DEVICE, memory_format=self.layout)
        watch.lap("batch")
        with torch.autocast(DEVICE.type, self.dtype, enabled=self.dtype is not None):
            made = self.forward(x)
        watch.lap("forward")
        # the loss on leaves, so that its own backward pass is timed apart from the network's
        leaves = [one.detach().requires_grad_() for one in made]
        height, width = target.shape[-2:]
        logits = [resize(one.float(), x.shape[-2:])[..., :height, :width] for one in leaves]
        loss_of = get_loss(recipe.loss)
        loss = loss_of(logits[0], target) + recipe.aux_weight * loss_of(logits[1], target)
        self.scaler.scale(loss).backward()
        watch.lap("loss")
        confusion_matrix(logits[0].detach(), target, model.arch["num_classes"])
        watch.lap("counts")
        torch.autograd.backward(made, [leaf.grad for leaf in leaves])
        watch.lap("backward")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        watch.lap("optimiser")
        self.done += 1
        return watch


def synthetic_set(count: int) -> TrainingSet:
    scans = [phantom_bscan(seed, fluid=True) for seed in range(count)]
    images, masks = (
        [torch.tensor(getattr(s, part)).to(DEVICE) for s in scans] for part in ("image", "fluid")
    )
    return TrainingSet(images, masks, [f"phantom {seed}" for seed in range(count)])


@torch.inference_mode()
def bench_infer(args: argparse.Namespace) -> dict:
    """Probabilities of a 496 x 768 scan at half size, and logits of a 512 x 512 one by sliding window."""
    model = load_model(args.weights).eval().to(DEVICE)
    model.preprocess = model.preprocess | {"size": "half"}
    fast, plain = folded(model), peers.plain(model)
    image = synthetic_set(1).images[0]
    ways = {
        "dme, folded": lambda: probabilities(fast, image),
        "dme, as loaded": lambda: probabilities(model, image),
        "eager, channels first, order of OpenMMLab": lambda: probabilities(plain, image),
    }
    with ExitStack() as stack:
        if DEVICE.type == "cuda":
            print("onnxruntime is compared on a CPU only")
        elif peers.installed("onnx", "onnxscript", "onnxruntime"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            exported = peers.onnx_probabilities(model, Path(folder))
            ways["onnxruntime"] = lambda: exported(image)
        scan, limits = with_limits(ways, args.repeats)
        furthest = largest_difference(ways)
    with FlopCounterMode(display=False) as counter:
        probabilities(plain, image)
    name = (
        f"{model.arch['backbone']} of width {model.arch['width']} with {model.arch['head']} head"
    )
    shape = " x ".join(map(str, image.shape))
    report(f"infer: {shape} scan at half size, {name}; probabilities within {furthest:.0e}", scan)
    report_limits(counter.get_total_flops(), scan, limits)

    x = normalise(SIZES["512"].image(image)[None], model.preprocess)
    ways = {
        "dme, folded": lambda: sliding_window(fast, x),
        "eager, channels first, order of OpenMMLab": lambda: sliding_window(plain, x),
    }
    if peers.installed("monai"):
        ways["MONAI, folded"] = lambda: peers.monai_window(fast, x)
        ways["MONAI, eager"] = lambda: peers.monai_window(plain, x)
    window = in_turns(ways, args.repeats)
    apart = largest_difference(ways)
    report(f"infer: 9 windows of 256 in 512 x 512, {name}; logits within {apart:.0e}", window)
    return {
        "scan": scan,
        "probabilities_within": furthest,
        "sliding_window": window,
        "logits_within": apart,
        "limits_per_s": limits,
        "flop": counter.get_total_flops(),
        "weights": model.weights_name,
        "weights_sha256": model.weights_sha256,
    }


def largest_difference(ways: dict[str, Way]) -> float:
    """Of the others' results from the first way's."""
    first, *others = (way() for way in ways.values())
    return max((first - other).abs().max().item() for other in others)


BENCHES = {"cache": bench_cache, "ops": bench_ops, "train": bench_train, "infer": bench_infer}


def main() -> None:
    args = parse_args()
    found = provenance() | {
        "cpu_count": os.cpu_count(),
        "freed_memory_kept": keep_freed_memory(),
        "clock": clock()[1],
    }
    found["versions"] |= peers.versions()
    print(f"{device_name()}, {', '.join(f'{name} {v}' for name, v in found['versions'].items())}")
    print(
        f"ratio: {found['clock']} by those of the first row in the same round; median of {args.repeats}"
    )
    for name in args.names:
        path = args.out / f"{name}.json"
        write_json(path, found | BENCHES[name](args))
        print(f"results: {path}")


if __name__ == "__main__":
    run(main)
