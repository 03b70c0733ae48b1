"""Pretrain networks on fundus vessels (HRF), the source domain of the study, or score such checkpoints.

python experiments/pretrain_hrf.py --data HRF            # three heads on one backbone, the small recipe
python experiments/pretrain_hrf.py --recipe openmmlab --heads psp --width 64
python experiments/pretrain_hrf.py --backbone mobilenet_v3_small
python experiments/pretrain_hrf.py --eval-only --weights hrf-psp
torchrun --nproc-per-node 4 experiments/pretrain_hrf.py --recipe openmmlab
"""

import argparse
import copy
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.provenance import device_name, provenance
from dme.data.cache import Cache, open_cache
from dme.data.hrf import open_hrf, split_hrf
from dme.drawing.canvas import save_png
from dme.drawing.overlays import CYAN, GREEN, overlay
from dme.drawing.panels import panel
from dme.inference.windows import resize, sliding_window
from dme.metrics import scores
from dme.nets.loading import load_model
from dme.nets.segmenter import BACKBONES, Segmenter, build_model, normalise, require_arch
from dme.ops.confusion import confusion_matrix
from dme.training.augment import TrainingSet
from dme.training.loop import train
from dme.training.run_folder import read_rows, seconds_per_step
from dme.training.settings import Augment, Recipe

CLASSES = ["background", "vessel"]
OPENMMLAB_DICE = {
    "fcn": 0.7945,
    "psp": 0.8007,
    "deeplabv3": 0.8021,
}  # their unets: width 64, full size

# scale: share of the photographs' size that is trained on and scored
RECIPES = {
    # what OpenMMLab's configuration says, for a GPU
    "openmmlab": dict(
        scale=1.0,
        augment=Augment(crop=256, zoom_range=(0.5, 2.0), flip=True, colour=True),
        train=dict(
            iters=40_000,
            batch=16,
            loss="ce",
            optimizer="sgd",
            lr=0.01,
            l2=5e-4,
            schedule="poly",
        ),
    ),
    # shorter and stronger, for small compute: half resolution, ce+dice, AdamW with cosine, moving average
    "small": dict(
        scale=0.5,
        augment=Augment(
            crop=256,
            max_class_share=1.0,
            zoom_range=(0.85, 1.2),
            flip=True,
            brightness=0.05,
            contrast=0.2,
        ),
        train=dict(
            iters=1500,
            batch=4,
            loss="ce+dice",
            optimizer="adamw",
            lr=2e-3,
            l2=1e-2,
            schedule="cosine",
            lr_min=0.0,
            warmup=50,
            clip=1.0,
            ema=0.995,
        ),
    ),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder of the HRF set (default: environment variable HRF_DATA)")
    add("--recipe", choices=RECIPES, default="small", help="training recipe (default small)")
    add("--backbone", choices=BACKBONES, default="unet", help="backbone (default unet)")
    add("--heads", nargs="+", help="decode heads on one shared backbone (default: all it takes)")
    add(
        "--width",
        type=float,
        help="channels of a unet's first stage (16), a MobileNet's factor of them (1.0)",
    )
    add("--iters", "--steps", type=int, help="optimiser steps (default: the recipe's)")
    add(
        "--minutes",
        type=float,
        help="instead of --iters: as many as fit, timed on a short trial run",
    )
    add("--batch", type=int, help="crops per step (default: the recipe's)")
    add(
        "--eval-every",
        type=int,
        default=0,
        help="steps between scores of 6 photographs (default: one score)",
    )
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="continue the run in --out")
    add(
        "--eval-only",
        action="store_true",
        help="score --weights on the validation photographs, no training",
    )
    add("--weights", nargs="+", help="with --eval-only: checkpoint names or files")
    add("--start", help="go on training this network, a name or file, instead of a fresh one")
    add("--lr", type=float, help="learning rate at the start (default: the recipe's)")
    add(
        "--scale",
        type=float,
        help="share of the photographs' size to work at (default: the recipe's)",
    )
    add(
        "--out",
        type=Path,
        help="run folder (default runs/pretrain_hrf, with --eval-only runs/eval_hrf)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    origin = provenance()  # of the code that runs, which may change on disk before a long run ends
    if args.eval_only != bool(args.weights):
        raise InputError("--eval-only and --weights go together: name the checkpoints to score")
    args.out = args.out or Path("runs/eval_hrf" if args.eval_only else "runs/pretrain_hrf")
    recipe = RECIPES[args.recipe]
    scale = recipe["scale"] if args.scale is None else args.scale
    given = {k: v for k in ("iters", "batch", "lr") if (v := getattr(args, k)) is not None}
    settings = Recipe(
        **recipe["train"] | given, seed=args.seed, amp=args.amp, eval_every=args.eval_every
    )
    if args.minutes is not None and (args.iters is not None or args.minutes <= 0):
        raise InputError("--minutes: expected a number above 0, and not beside --iters")
    torch.manual_seed(args.seed)
    if args.eval_only:
        models = load_pretrained(args.weights)
    else:
        models = starting_networks(args)
    rank, _, device = ranks.join()
    source = open_hrf(args.data, scale)
    if rank == 0:
        print(f"data: {source.description}\ndevice: {device_name()}")
    cache = open_cache(source)
    training, validation = split_hrf(cache.names)
    if not args.eval_only:
        data = TrainingSet(
            [channels_first(cache.images[i]).to(device) for i in training],
            [torch.from_numpy(cache.fluid[i]).to(device) for i in training],
            [cache.names[i] for i in training],
        )
        evaluate = partial(evaluate_some, cache, validation[::5])  # 6 of 30, two of each group
        if args.minutes is not None:
            steps = steps_within(args.minutes, models, data, recipe["augment"], settings, args)
            settings = replace(settings, iters=steps)
            if rank == 0:
                print(f"steps: {steps}, which take about {args.minutes:g} minutes")
        settings = replace(
            settings,
            horizon=settings.iters,  # poly ends with the run, as OpenMMLab's
            save_every=1000 if device.type == "cuda" else 100,  # a minute's work or less
        )
        trained = train(models, data, recipe["augment"], settings, args.out, evaluate, args.resume)
        models = load_best(trained, args.out)
    full = open_cache(open_hrf(args.data)) if scale != 1 else cache
    report(args, origin, models, cache, full, validation, scale)
    ranks.leave()


def steps_within(
    minutes: float,
    models: dict[str, Segmenter],
    data: TrainingSet,
    augment: Augment,
    settings: Recipe,
    args: argparse.Namespace,
) -> int:
    """How many steps fit into `minutes`; of a run that is resumed, what it was made with."""
    config = args.out / "config.json"
    if args.resume and config.is_file():
        return json.loads(config.read_text())["config"]["iters"]
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(settings, iters=30, save_every=30)
        score = {"score": 0.0}
        train(copy.deepcopy(models), data, augment, trial, Path(folder), lambda _: (score, None))
        seconds = seconds_per_step(read_rows(Path(folder) / "metrics.jsonl"))
    return max(1, round(60 * minutes / seconds))


def load_pretrained(names: list[str]) -> dict[str, Segmenter]:
    models = {name: load_model(name) for name in names}
    first = models[names[0]]
    for name, model in models.items():
        if (model.arch["in_channels"], model.arch["num_classes"]) != (3, 2):
            raise InputError(
                f"{name} does not map RGB to background and vessel; score a network that does"
            )
        if model.preprocess != first.preprocess:
            raise InputError(
                f"{name} and {names[0]} normalise images differently; score one at a time"
            )
    return models


def starting_networks(args: argparse.Namespace) -> dict[str, Segmenter]:
    """Fresh ones that share a backbone, or the one to go on with; by the name of their head."""
    if not args.start:
        heads = args.heads or list(BACKBONES[args.backbone].HEADS)
        return joint_models(heads, args.width, args.backbone)
    model = load_pretrained([args.start])[args.start]
    require_arch(model, width=args.width)
    if args.heads not in (None, [model.arch["head"]]):
        raise InputError(
            f"--heads {' '.join(args.heads)}: {args.start} has the head {model.arch['head']}"
        )
    print(f"start: {model.weights_name} (sha256 {model.weights_sha256[:12]})")
    return {model.arch["head"]: model}


def joint_models(
    heads: list[str], width: float | None, backbone: str = "unet"
) -> dict[str, Segmenter]:
    """One fresh network per head; all share the first one's backbone and auxiliary head."""
    models = {head: build_model(backbone, head, width=width) for head in heads}
    first = models[heads[0]]
    for model in models.values():
        model.backbone, model.aux_head, model.classes = first.backbone, first.aux_head, CLASSES
    return models


def load_best(models: dict[str, Segmenter], out: Path) -> dict[str, Segmenter]:
    """The same networks, which go on sharing their backbone, with the weights of the best-NAME.pt files."""
    for name, model in models.items():
        best = load_model(out / f"best-{name}.pt")
        model.load_state_dict(best.state_dict())
        model.weights_sha256 = best.weights_sha256
    return models


def channels_first(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class SideBySide(nn.Module):
    """Several networks' logits, at the input's size, concatenated along the channels.

    A backbone they share runs once.
    """

    def __init__(self, models: list[Segmenter]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        features = {id(m.backbone): None for m in self.models}
        for m in self.models:
            if features[id(m.backbone)] is None:
                features[id(m.backbone)] = m.backbone(x)
        logits = (m.head(features[id(m.backbone)]) for m in self.models)
        return torch.cat([resize(one, x.shape[-2:]) for one in logits], dim=1)


@torch.inference_mode()
def vessel_counts(
    models: dict[str, Segmenter], cache: Cache, full: Cache, chosen: list[int]
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray | None]:
    """Confusion matrices per network, with the truth at the input's scale ("scale") and full size ("full").

    Sliding window 256 / 170 at the input's scale; for the full size its logits are enlarged. Under torchrun
    every rank takes its share of the photographs and all get the sums. Also returns a picture of the first
    photograph (on rank 0).
    """
    rank, world, device = ranks.join()
    net = SideBySide(list(models.values())).to(device, memory_format=torch.channels_last).eval()
    first = next(iter(models))
    counts = {
        name: {
            kind: torch.zeros(2, 2, dtype=torch.int64, device=device) for kind in ("scale", "full")
        }
        for name in models
    }
    picture = None
    for i in tqdm(chosen[rank::world], desc="validate", disable=rank > 0):
        x = normalise(channels_first(cache.images[i])[None].to(device), models[first].preprocess)
        logits = sliding_window(net, x.contiguous(memory_format=torch.channels_last))
        for kind, truth in (("scale", cache.fluid[i]), ("full", full.fluid[i])):
            truth = torch.from_numpy(truth)[None].to(device)
            for name, one in zip(
                models, resize(logits, truth.shape[-2:]).split(2, dim=1), strict=True
            ):
                counts[name][kind] += confusion_matrix(one, truth, 2)
        if i == chosen[0]:
            found, image = logits[0, :2].argmax(0).cpu().numpy(), cache.images[i]
            views = [image, overlay(image, found, CYAN), overlay(image, cache.fluid[i], GREEN)]
            titles = ["photograph", f"vessels found ({first})", "truth"]
            picture = panel([views], titles, [cache.names[i]], 560)
    sums = {
        name: {kind: ranks.total(table).cpu().numpy() for kind, table in kinds.items()}
        for name, kinds in counts.items()
    }
    return sums, picture


def evaluate_some(
    cache: Cache, chosen: list[int], models: dict[str, Segmenter]
) -> tuple[dict[str, float], np.ndarray | None]:
    """Vessel Dice per network and their mean, the "score"; for `train`."""
    counts, picture = vessel_counts(models, cache, cache, chosen)
    dice = {f"dice-{name}": float(scores(counts[name]["scale"])["dice"][1]) for name in models}
    return {"score": float(np.mean(list(dice.values()))), **dice}, picture


def report(
    args: argparse.Namespace,
    origin: dict,
    models: dict[str, Segmenter],
    cache: Cache,
    full: Cache,
    validation: list[int],
    scale: float,
) -> None:
    began = time.perf_counter()
    counts, picture = vessel_counts(models, cache, full, validation)
    if ranks.rank():
        return
    rows = []
    print(f"\nvessel Dice on {len(validation)} validation photographs, sliding window 256/170")
    print(
        f"input and 'scale' column at {scale:g} of their size; 'OpenMMLab': unets of width 64 at full size"
    )
    print(
        f"{'network':28} {'backbone':18} {'head':10} {'width':>5} {'scale':>7} {'full':>7} {'OpenMMLab':>10}"
    )
    for name, model in models.items():
        at, full_size = (
            float(scores(counts[name][kind])["dice"][1]) for kind in ("scale", "full")
        )
        rows.append(
            {
                "network": name,
                "weights_sha256": model.weights_sha256,
                **model.arch,
                "dice_scale": at,
                "dice_full": full_size,
                "counts": counts[name],
            }
        )
        arch = model.arch
        theirs = f"{OPENMMLAB_DICE[arch['head']]:.4f}" if arch["backbone"] == "unet" else "-"
        print(f"{name:28} {arch['backbone']:18} {arch['head']:10} {arch['width']:5g} ", end="")
        print(f"{at:7.4f} {full_size:7.4f} {theirs:>10}")
    save_png(args.out / "vessels.png", picture)
    results = {
        **origin,
        "data_sha256": cache.source_sha256,
        "scale": scale,
        "recipe": None if args.eval_only else args.recipe,
        "seed": None if args.eval_only else args.seed,
        "training_minutes": None if args.eval_only else training_minutes(args.out),
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_json(args.out / "results.json", results)
    print(f"\nresults: {args.out / 'results.json'}\npicture: {args.out / 'vessels.png'}")


def training_minutes(out: Path) -> float:
    """Steps times the median seconds of one."""
    history = read_rows(out / "metrics.jsonl")
    return history[-1]["step"] * seconds_per_step(history) / 60


if __name__ == "__main__":
    run(main)
