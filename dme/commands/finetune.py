"""Fine-tune a pretrained network on B-scans to segment fluid or layers, and score it on held-out scans.

The defaults are the best row of the study's Table 2.

python experiments/finetune.py --crop 320
python experiments/finetune.py --head fcn --loss ce+dice --flip --split subject:1/5
python experiments/finetune.py --recipe layers --split subject:1/7
torchrun --nproc-per-node 2 experiments/finetune.py --batch 4
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from dme.common import ranks
from dme.common.errors import InputError
from dme.common.files import write_json
from dme.common.provenance import provenance
from dme.data.cache import Cache, open_cache
from dme.data.opening import open_source
from dme.data.splits import leak, split_indices
from dme.drawing.canvas import save_png
from dme.drawing.overlays import RED
from dme.inference.sizes import SIZES, STUDY_SIDE
from dme.metrics import per_scan, scores
from dme.nets.checkpoint import save_model
from dme.nets.folding import folded
from dme.nets.loading import load_model
from dme.nets.segmenter import (
    BACKBONES,
    HEADS,
    Segmenter,
    build_model,
    require_arch,
    set_classes,
    start_at_shares,
)
from dme.nets.zoo import known
from dme.retina.accuracy import over_scans
from dme.retina.rows import BOUNDARIES, LAYERS, THICKNESSES
from dme.training.loop import train
from dme.training.run_folder import read_rows, seconds_per_step
from dme.training.settings import Augment, Recipe
from dme.training.tasks import TASKS, check_annotated, training_set
from dme.training.validation import Validation, agreement

PUBLISHED = {"mean_dice": 0.8430, "mean_iou": 0.7600}  # best row of the study's Table 2


AUGMENTED = dict(
    size="half",
    max_class_share=1.0,
    flip=True,
    rotate=8.0,
    zoom=0.2,
    brightness=0.1,
    contrast=0.25,
    gamma=0.2,
    noise=0.1,
    loss="ce+dice",
    optimizer="adamw",
    lr=2e-3,
    l2=1e-2,
    schedule="cosine",
    lr_min=0.0,
    warmup=50,
    clip=1.0,
    ema=0.99,
    tta=True,
)
# What is changed by default. study: the best row of its Table 2. best: chosen by ./run.sh development.
RECIPES = {
    "study": dict(iters=400, batch=2, size="512", crop=320, max_class_share=0.75),
    "best": AUGMENTED | dict(iters=800, batch=4, crop=0),
    "layers": AUGMENTED
    | dict(iters=800, batch=6, crop=240, border=0.25, task="layers", head="fcn"),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add(
        "--recipe",
        choices=RECIPES,
        default="study",
        help="what the other options default to (default study)",
    )
    add("--task", choices=TASKS, default="fluid", help="what to segment (default fluid)")
    add(
        "--data",
        help=".mat files or folder of B-scans, or 'phantom' (default: DME_DATA, else phantom)",
    )
    add(
        "--grader", type=int, default=1, help="whose annotation of .mat files is the truth: 1 or 2"
    )
    add(
        "--split",
        help="paper, random, subject:K/N, dev:K/4, all (default: paper if the set has its scans, or random)",
    )
    add(
        "--weights",
        help="name or file to start from, or 'none' for fresh ones (default hrf-BACKBONE, else hrf-HEAD)",
    )
    add(
        "--head", choices=HEADS, help="decode head (default: the checkpoint's, else psp or lraspp)"
    )
    add("--backbone", choices=BACKBONES, help="backbone (default: the checkpoint's, else unet)")
    add(
        "--width",
        type=float,
        help="channels of a unet's first stage, or a MobileNet's factor of them (default: the checkpoint's, "
        "else 16 or 1.0)",
    )
    add("--iters", type=int, help="optimiser steps (default 400)")
    add("--batch", type=int, help="images per forward pass (default 2)")
    add("--accumulate", type=int, default=1, help="forward passes per step (default 1)")
    add(
        "--size",
        choices=SIZES,
        help="512 x 512 squares, native pixels, or half as many a side (default 512)",
    )
    add(
        "--crop",
        type=int,
        help="side of random crops in pixels of --size, 0 for none (default 320)",
    )
    add(
        "--max-class-share",
        type=float,
        help="of the largest class in a crop, else it is redrawn (default 0.75)",
    )
    add(
        "--on-fluid",
        type=float,
        default=0,
        help="share of crops that are placed onto fluid (default 0)",
    )
    add(
        "--border",
        type=float,
        default=0,
        help="share of the crop's side by which origins may overshoot (0)",
    )
    add(
        "--ungraded",
        choices=["background", "ignore"],
        default="background",
        help="columns nobody graded",
    )
    add("--flip", action=flag, default=False, help="mirror half of the crops left to right")
    add("--rotate", type=float, default=0, help="degrees, uniform in +- this (default 0)")
    add(
        "--shift",
        type=float,
        default=0,
        help="fraction of the side, uniform in +- this (default 0)",
    )
    add("--zoom", type=float, default=0, help="factor, uniform in 1 +- this (default 0)")
    add(
        "--brightness",
        type=float,
        default=0,
        help="fraction of white, uniform in +- this (default 0)",
    )
    add("--contrast", type=float, default=0, help="factor, uniform in 1 +- this (default 0)")
    add(
        "--gamma",
        type=float,
        default=0,
        help="exponent, log-uniform in 1/(1 + this) to 1 + this (default 0)",
    )
    add(
        "--noise",
        type=float,
        default=0,
        help="standard deviation of speckle, fraction of the grey value (0)",
    )
    add(
        "--loss",
        default="ce",
        help="ce, dice, focal, iou, ce+dice or ce+dice:W_CE,W_DICE (default ce)",
    )
    add(
        "--aux-weight",
        type=float,
        help="of the auxiliary loss (default 1.0 for dice and focal, else 0.4)",
    )
    add("--optimizer", default="sgd", help="sgd (momentum 0.9), adam or adamw (default sgd)")
    add("--lr", type=float, default=0.01, help="learning rate at the start (default 0.01)")
    add(
        "--lr-min",
        type=float,
        help="learning rate at the schedule's end (default 1e-4, at most --lr)",
    )
    add("--l2", type=float, default=1e-4, help="weight decay (default 1e-4)")
    add(
        "--schedule",
        default="poly",
        help="poly (ends at step 40000), cosine (with the run) or constant",
    )
    add(
        "--warmup",
        type=int,
        default=0,
        help="steps of linear rise of the learning rate (default 0)",
    )
    add(
        "--clip", type=float, default=0, help="largest norm of the gradient, 0 for any (default 0)"
    )
    add(
        "--ema",
        type=float,
        default=0,
        help="decay per step of the weights' moving average, 0 for none (0)",
    )
    add(
        "--tta", action=flag, default=False, help="score the mean over a scan and its mirror image"
    )
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    add("--compile", action="store_true", help="torch.compile the training step")
    add(
        "--seed",
        type=int,
        default=0,
        help="of weights, batches, augmentation and random split (default 0)",
    )
    add(
        "--eval-every",
        type=int,
        default=0,
        help="steps between validations (default: one at the end)",
    )
    add("--resume", action="store_true", help="continue the run in --out")
    add(
        "--out",
        type=Path,
        default=Path("runs/finetune"),
        help="run folder (default runs/finetune)",
    )
    first = parser.parse_known_args()[0]
    defaults = RECIPES[first.recipe]
    if first.backbone and defaults.get("head") not in BACKBONES[first.backbone].HEADS:
        defaults = defaults | {"head": None}
    parser.set_defaults(**defaults)
    args = parser.parse_args()
    if args.aux_weight is None:
        args.aux_weight = 1.0 if args.loss in ("dice", "focal") else 0.4
    if args.lr_min is None:
        args.lr_min = min(1e-4, max(args.lr, 0.0))
    return args


def main() -> None:
    args = parse_args()
    origin = provenance()  # of the code that runs, which may change on disk before a long run ends
    augment, recipe = settings(args)
    torch.manual_seed(args.seed)
    rank, _, device = ranks.join()
    source = open_source(args.data, args.grader)
    model, start = starting_network(args)
    replaced = set_classes(model, TASKS[args.task])
    model.preprocess = model.preprocess | {"size": args.size}
    if rank == 0:
        print(f"data: {source.description}\nstart: {start}", flush=True)
        for name in replaced:
            print(f"replaced: {name}, for {len(TASKS[args.task])} classes")
    small, native = open_cache(source, STUDY_SIDE), open_cache(source)
    check_annotated(native, args.task)
    split, (training, validation) = choose_split(small, args.split, args.seed, args.task)
    if rank == 0:
        for note in small.notes:
            print(f"data note: {note}")
        sizes = f"{len(training)} train, {len(validation)} validation scans"
        leaking = leak(small, training, validation)
        print(f"split: {split}, {sizes}; {leaking} of the latter have a neighbour in training")
        if split == "all":
            print(
                "note: the validation scans are those trained on; their scores say nothing about others"
            )

    validate = Validation(small, native, validation, device, args.task, args.tta)
    data = training_set(small, native, training, args.task, args.size, args.ungraded, device)
    if replaced or args.weights == "none":
        start_at_shares(model, data.shares(len(model.classes)))
    before = validate.drawn(folded(model).to(device), RED) if args.task == "fluid" else None
    trained = train({"model": model}, data, augment, recipe, args.out, validate, args.resume)[
        "model"
    ]
    if not validate.counts:  # a resumed run that was complete
        validate({"model": trained})
    if rank == 0:
        origin |= {
            "data": source.description,
            "data_kind": source.kind,
            "data_sha256": source.sha256,
            "split": split,
            "leak": leaking,
            "start": start,
        }
        report(args, origin, trained, validate, before)
    if source.kind == "mat" and (other := second_opinion(args, validate)):
        other({"model": trained})
        if rank == 0:
            report_second_opinion(args, validate, other)
    ranks.leave()


def settings(args: argparse.Namespace) -> tuple[Augment, Recipe]:
    augment = Augment(
        crop=args.crop,
        max_class_share=args.max_class_share,
        on_fluid=args.on_fluid,
        border=args.border,
        flip=args.flip,
        zoom=args.zoom,
        rotate=args.rotate,
        shift=args.shift,
        brightness=args.brightness,
        contrast=args.contrast,
        gamma=args.gamma,
        noise=args.noise,
    )
    recipe = Recipe(
        iters=args.iters,
        batch=args.batch,
        accumulate=args.accumulate,
        loss=args.loss,
        aux_weight=args.aux_weight,
        optimizer=args.optimizer,
        lr=args.lr,
        l2=args.l2,
        schedule=args.schedule,
        lr_min=args.lr_min,
        warmup=args.warmup,
        clip=args.clip,
        ema=args.ema,
        amp=args.amp,
        compile=args.compile,
        seed=args.seed,
        eval_every=args.eval_every,
    )
    return augment, recipe


def starting_network(args: argparse.Namespace) -> tuple[Segmenter, str]:
    """The network to fine-tune and a line that says where its weights come from."""
    asked = {
        key: value
        for key in ("head", "backbone", "width")
        if (value := getattr(args, key)) is not None
    }
    if args.weights == "none":
        model = build_model(**asked)
        return model, f"fresh weights (seed {args.seed}), {_described(model)}"
    shipped = [f"hrf-{kind}" for kind in (args.backbone, args.head) if f"hrf-{kind}" in known()]
    if not args.weights and not shipped and args.backbone not in (None, "unet"):
        raise InputError(
            f"no weights for a {args.backbone} ship with dme; give --weights FILE, from ./run.sh pretrain, "
            "or --weights none"
        )
    name = args.weights or (shipped or ["hrf-psp"])[0]
    model = load_model(name)
    require_arch(model, **asked)
    return model, f"{model.weights_name} (sha256 {model.weights_sha256[:12]}), {_described(model)}"


def _described(model: Segmenter) -> str:
    arch = model.arch
    return f"{arch['backbone']}, {arch['head']} head, width {arch['width']}"


def choose_split(
    cache: Cache, name: str | None, seed: int, task: str
) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Name and (training, validation) indices. Raises InputError unless both hold fluid, if that is asked."""
    if name is None:
        name = "paper" if cache.is_duke else "random"
    sides = split_indices(cache, name, seed)
    for what, indices in zip(("training", "validation"), sides, strict=True):
        if "fluid" in task and not any((cache.fluid[i] == 1).any() for i in indices):
            raise InputError(
                f"none of the {len(indices)} {what} scans of split {name} holds fluid, which leaves nothing "
                f"to {'learn' if what == 'training' else 'score'}; choose another split, --seed or data"
            )
    return name, sides


def report(
    args: argparse.Namespace,
    origin: dict,
    model: Segmenter,
    validate: Validation,
    before: list[np.ndarray] | None,
) -> None:
    """Print the scores; write the network, results.json and the pictures into args.out."""
    out, picture = args.out, args.out / ("figure6.png" if args.task == "fluid" else "layers.png")
    pooled = {kind: scores(counts.sum(0)) for kind, counts in validate.counts.items()}
    history = read_rows(out / "metrics.jsonl")
    results = {
        **origin,
        "arch": model.arch,
        "classes": model.classes,
        "settings": {k: v for k, v in vars(args).items() if k not in ("data", "out", "resume")},
        "seed": args.seed,
        "seconds_per_iteration": seconds_per_step(history),
        "pooled": pooled["study"],
        "pooled_native": pooled["native"],
        "pooled_graded": pooled["graded"],
        "history": [
            [row["step"], row["validation/study-dice"], row["validation/study-iou"]]
            for row in history
            if "validation/study-dice" in row
        ],
        "scans": validate.names,
        "subjects": validate.native.subjects[validate.indices],
        "scale_um": validate.native.scale_um,
        "counts_per_scan": validate.counts,
    }
    where = "SYNTHETIC scans" if origin["data_kind"] == "phantom" else "scans"
    print(
        f"\n{len(validate.names)} validation {where}, split {origin['split']}, after {args.iters} steps"
    )
    if "fluid" in args.task:
        results["per_scan"] = fluid_table(
            model.classes.index("fluid"), pooled, validate.counts["study"]
        )
    if "layers" in args.task:
        results |= layers_table(validate, pooled["native"]["dice"])
    save_model(model, out / "model.pt", extra=origin)
    save_png(picture, validate.picture(before))
    write_json(out / "results.json", results)
    print(f"\nnetwork: {out / 'model.pt'} (after the last step)\nresults: {out / 'results.json'}")
    print(f"pictures: {picture}, {out / 'loss.png'}")


def second_opinion(args: argparse.Namespace, validate: Validation) -> Validation | None:
    """The same scans as the other grader annotated them, None if nobody did."""
    try:
        source = open_source(args.data, 3 - args.grader)
        small, native = open_cache(source, STUDY_SIDE), open_cache(source)
        check_annotated(native, args.task)
    except InputError as e:
        if ranks.rank() == 0:
            print(f"\nno comparison with grader {3 - args.grader}: {e}")
        return None
    if absent := set(validate.names) - set(native.names):
        if ranks.rank() == 0:
            print(
                f"\nno comparison with grader {3 - args.grader}, who left out {', '.join(sorted(absent))}"
            )
        return None
    indices = np.array([native.names.index(name) for name in validate.names], int)
    return Validation(small, native, indices, validate.device, args.task, args.tta)


def report_second_opinion(
    args: argparse.Namespace, validate: Validation, other: Validation
) -> None:
    """Print what the network and the first grader reach against the second, and add it to results.json."""
    print(
        f"\nagainst grader {3 - args.grader}, at native size: the network, and grader {args.grader}"
    )
    counts, errors_px = agreement(validate, other)
    network, human = (scores(of.sum(0)) for of in (other.counts["native"], counts))
    lines = []
    if "fluid" in args.task:
        lines += [("fluid Dice", network["dice"][-1], human["dice"][-1])]
        lines += [("fluid IoU", network["iou"][-1], human["iou"][-1])]
    if "layers" in args.task:
        means = (np.nanmean(errors[:, -1]) for errors in (other.errors_px, errors_px))
        lines += [("mean boundary error, px", *means)]
    for name, ours, theirs in lines:
        print(f"{name:34} {ours:7.4f} {theirs:7.4f}")
    path = args.out / "results.json"
    results = json.loads(path.read_text())
    results["other_grader"] = {
        name: {"network": ours, "grader": theirs} for name, ours, theirs in lines
    }
    write_json(path, results)


def fluid_table(fluid: int, pooled: dict[str, dict], counts: np.ndarray) -> dict:
    """Print the scores of class `fluid`; returns those per scan. counts: (N, C, C) at 256 x 256."""
    without, with_empty = (per_scan(counts, fluid, empty=e) for e in (float("nan"), 1.0))
    study, native, graded = pooled.values()
    lines = [
        ("fluid at 256 x 256, pooled", study["dice"][fluid], study["iou"][fluid]),
        (
            f"  per scan, {without['empty']} empty left out",
            without["mean_dice"],
            without["mean_iou"],
        ),
        ("  per scan, empty counting 1", with_empty["mean_dice"], with_empty["mean_iou"]),
        ("fluid at native size, pooled", native["dice"][fluid], native["iou"][fluid]),
        ("  in graded columns only", graded["dice"][fluid], graded["iou"][fluid]),
    ]
    if fluid == 1:
        lines[3:3] = [
            ("  mean with background", study["mean_dice"], study["mean_iou"]),
            ("  the same, published best row", PUBLISHED["mean_dice"], PUBLISHED["mean_iou"]),
        ]
    print(f"{'':34} {'Dice':>7} {'IoU':>7}")
    for name, dice, iou in lines:
        print(f"{name:34} {dice:7.4f} {iou:7.4f}")
    print("empty: no fluid in truth and prediction")
    return {
        "empty_left_out": {k: without[k] for k in ("mean_dice", "mean_iou")},
        "empty_counts_1": {k: with_empty[k] for k in ("mean_dice", "mean_iou")},
        "empty": without["empty"],
    }


def layers_table(validate: Validation, dice: np.ndarray) -> dict:
    """Print boundary, thickness and layer scores; returns them, per scan too. dice: (C,) at native size."""
    axial_um = (validate.native.scale_um or [None])[0]
    unit, factor = ("um", axial_um) if axial_um else ("px", 1)
    boundaries = over_scans(validate.errors_px, [*BOUNDARIES, "all"])
    thickness, bias = (
        over_scans(validate.thickness_px[:, k] * factor, THICKNESSES) for k in (0, 1)
    )
    print(
        f"{'mean absolute error of boundaries':34} {'px':>7} {'sd':>7} {'um' * bool(axial_um):>7}"
    )
    for row in boundaries:
        um = f"{row['mean'] * axial_um:7.2f}" if axial_um else ""
        print(f"{row['name']:34} {row['mean']:7.3f} {row['sd'] or 0:7.3f} {um}")
    print(f"{'layers: Dice, error of thickness':34} {'Dice':>7} {unit:>7} {'mean ' + unit:>8}")
    for k, (row, mean) in enumerate(zip(thickness, bias, strict=True)):
        overlap = f"{dice[k + 1]:7.4f}" if k < len(LAYERS) else " " * 7
        print(f"{row['name']:34} {overlap} {row['mean']:7.2f} {mean['mean']:+8.2f}")
    return {
        "boundaries_px": boundaries,
        f"thickness_{unit}": thickness,
        f"thickness_bias_{unit}": bias,
        "boundary_errors_px_per_scan": validate.errors_px,
    }
