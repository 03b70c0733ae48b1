"""Pretrain UNets on fundus vessels (HRF), the source domain of the study, or score such checkpoints.

    python experiments/pretrain_hrf.py --data HRF                            # three heads on one backbone, small recipe
    python experiments/pretrain_hrf.py --recipe openmmlab --heads psp --width 64
    python experiments/pretrain_hrf.py --eval-only --weights hrf-psp
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dme import ranks
from dme.augment import Augment
from dme.cache import Cache, open_cache
from dme.errors import InputError, run
from dme.figures import overlay, panel, save_png
from dme.hrf import open_hrf, split_hrf
from dme.infer import resize, sliding_window
from dme.metrics import scores
from dme.model import Segmenter, build_model, normalise
from dme.ops.confusion import confusion_matrix
from dme.record import provenance, write_json
from dme.train import Recipe, TrainingSet, train
from dme.weights import load_model

CLASSES = ["background", "vessel"]
OPENMMLAB_DICE = {"fcn": 0.7945, "psp": 0.8007, "deeplabv3": 0.8021}  # width 64, full resolution, their model zoo

# scale: share of the photographs' size that is trained on
RECIPES = {
    # what OpenMMLab's configuration says, for a GPU
    "openmmlab": dict(
        scale=1.0,
        augment=Augment(crop=256, scale=(0.5, 2.0), flip=0.5, colour=True),
        train=dict(steps=40_000, batch=16, loss="ce", optimizer="sgd", lr=0.01, weight_decay=5e-4, schedule="poly"),
    ),
    # shorter and stronger, for small compute: half resolution, ce+dice, AdamW with cosine, moving average
    "small": dict(
        scale=0.5,
        augment=Augment(
            crop=256, max_class_share=1.0, scale=(0.7, 1.5), rotate_deg=45, flip=0.5, colour=True, gamma=0.2
        ),
        train=dict(
            steps=2000,
            batch=4,
            loss="ce+dice",
            optimizer="adamw",
            lr=2e-3,
            weight_decay=1e-2,
            schedule="cosine",
            lr_min=0.0,
            warmup=50,
            clip=1.0,
            ema=0.995,
        ),
    ),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the HRF set (default: environment variable HRF_DATA)")
    parser.add_argument("--recipe", choices=RECIPES, default="small", help="training recipe (default small)")
    parser.add_argument("--heads", nargs="+", default=["psp", "fcn", "deeplabv3"], help="decode heads on one shared backbone")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage (default 16, study 64)")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    parser.add_argument("--batch", type=int, help="crops per step (default: the recipe's)")
    parser.add_argument("--eval-every", type=int, default=0, help="steps between validations on 6 photographs (default: at the end)")
    parser.add_argument("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--eval-only", action="store_true", help="score --weights on the 30 validation photographs, no training")
    parser.add_argument("--weights", nargs="+", help="with --eval-only: checkpoint names or paths")
    parser.add_argument("--scale", type=float, help="input scale for the scores (default: the recipe's)")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain_hrf"), help="run folder (default runs/pretrain_hrf)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.eval_only != bool(args.weights):
        raise InputError("--eval-only and --weights go together: name the checkpoints to score")
    recipe = RECIPES[args.recipe]
    scale = args.scale or recipe["scale"]
    source = open_hrf(args.data, scale)
    print(f"data: {source.description}")
    cache = open_cache(source)
    train_indices, validation = split_hrf(cache.names)
    if args.eval_only:
        models = {name: load_model(name) for name in args.weights}
    else:
        models = pretrain(args, recipe, cache, train_indices, validation)
    full = open_cache(open_hrf(args.data)) if scale != 1 else cache
    report(args, models, cache, full, validation, scale)


def pretrain(args, recipe: dict, cache: Cache, train_indices: list[int], validation: list[int]) -> dict[str, Segmenter]:
    given = {k: v for k in ("steps", "batch") if (v := getattr(args, k)) is not None}
    settings = Recipe(**recipe["train"] | given, seed=args.seed, amp=args.amp, eval_every=args.eval_every)
    device = ranks.join()[2]
    torch.manual_seed(args.seed)
    models = joint_models(args.heads, args.width)
    data = TrainingSet(
        [channels_first(cache.images[i]).to(device) for i in train_indices],
        [torch.from_numpy(cache.fluid[i]).to(device) for i in train_indices],
        [cache.names[i] for i in train_indices],
    )
    watched = validation[::5]  # 6 of 30, two of each group

    def evaluate(trained: dict[str, Segmenter]) -> tuple[dict[str, float], np.ndarray]:
        counts, picture = vessel_counts(trained, cache, cache, watched)
        dice = {name: float(scores(counts[name]["scale"])["dice"][1]) for name in trained}
        return {"score": float(np.mean(list(dice.values()))), **{f"dice-{k}": v for k, v in dice.items()}}, picture

    return train(models, data, recipe["augment"], settings, args.out, evaluate, args.resume)


def joint_models(heads: list[str], width: int) -> dict[str, Segmenter]:
    """One fresh network per head; all share the first one's backbone and auxiliary head."""
    models = {head: build_model(head=head, width=width) for head in heads}
    first = models[heads[0]]
    for model in models.values():
        model.backbone, model.aux_head, model.classes = first.backbone, first.aux_head, CLASSES
    return models


def channels_first(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class SideBySide(nn.Module):
    """Several networks' logits concatenated along the channels; a backbone they share runs once."""

    def __init__(self, models: list[Segmenter]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        features = {id(m.backbone): None for m in self.models}
        for m in self.models:
            if features[id(m.backbone)] is None:
                features[id(m.backbone)] = m.backbone(x)[-1]
        return torch.cat([m.head(features[id(m.backbone)]) for m in self.models], dim=1)


@torch.inference_mode()
def vessel_counts(
    models: dict[str, Segmenter], cache: Cache, full: Cache, chosen: list[int]
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """Confusion matrices per network, against the truth at the input's scale ("scale") and at full size ("full").

    Sliding window 256 / 170 at the input's scale; for the full size its logits are enlarged. Under torchrun every
    rank takes its share of the photographs. Also returns a picture of the first photograph.
    """
    rank, world, device = ranks.join()
    net = SideBySide(list(models.values())).to(device, memory_format=torch.channels_last).eval()
    preprocess = next(iter(models.values())).preprocess
    counts = {name: {kind: torch.zeros(2, 2, dtype=torch.int64) for kind in ("scale", "full")} for name in models}
    picture = None
    for i in tqdm(chosen[rank::world], desc="validate", disable=rank > 0):
        x = normalise(channels_first(cache.images[i])[None].to(device), preprocess)
        logits = sliding_window(net, x.contiguous(memory_format=torch.channels_last))
        for kind, truth in (("scale", cache.fluid[i]), ("full", full.fluid[i])):
            truth = torch.from_numpy(truth)[None].to(device)
            for name, one in zip(models, resize(logits, truth.shape[-2:]).split(2, dim=1), strict=True):
                counts[name][kind] += confusion_matrix(one, truth, 2).cpu()
        if picture is None:
            found = logits[0, :2].argmax(0).cpu().numpy()
            image = cache.images[i]
            views = [image, overlay(image, found), overlay(image, cache.fluid[i], (64, 220, 120))]
            picture = panel([views], ["photograph", f"vessels found ({next(iter(models))})", "truth"], [cache.names[i]], 560)
    if world > 1:
        for kinds in counts.values():
            for table in kinds.values():
                torch.distributed.all_reduce(table.to(device))
    return {n: {k: t.numpy() for k, t in kinds.items()} for n, kinds in counts.items()}, picture


def report(args, models: dict[str, Segmenter], cache: Cache, full: Cache, validation: list[int], scale: float) -> None:
    began = time.perf_counter()
    counts, picture = vessel_counts(models, cache, full, validation)
    if ranks.rank():
        return
    rows = []
    print(f"\nvessel Dice on {len(validation)} validation photographs, sliding window 256/170, input at {scale:g} of their size")
    print(f"{'network':28} {'head':10} {'width':>5} {'Dice at ' + f'{scale:g}':>12} {'Dice full size':>15} {'OpenMMLab w64':>14}")
    for name, model in models.items():
        at = {kind: float(scores(table)["dice"][1]) for kind, table in counts[name].items()}
        head, width = model.arch["head"], model.arch["width"]
        rows.append({"network": name, **model.arch, "dice_scale": at["scale"], "dice_full": at["full"], "counts": counts[name]})
        print(f"{name:28} {head:10} {width:5d} {at['scale']:12.4f} {at['full']:15.4f} {OPENMMLAB_DICE[head]:14.4f}")
    save_png(args.out / "vessels.png", picture)
    results = {
        **provenance(),
        "data_sha256": cache.source_sha256,
        "scale": scale,
        "recipe": None if args.eval_only else args.recipe,
        "seed": args.seed,
        "weights_sha256": {name: getattr(model, "weights_sha256", None) for name, model in models.items()},
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    write_json(args.out / "results.json", results)
    print(f"\nresults: {args.out / 'results.json'}\npicture: {args.out / 'vessels.png'}")


if __name__ == "__main__":
    run(main)
