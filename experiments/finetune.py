"""Fine-tune a pretrained network on B-scans so that it segments fluid, and score it on held-out scans.

The defaults are the best row of the study's Table 2.

python experiments/finetune.py --crop 320
python experiments/finetune.py --head fcn --loss ce+dice --flip --split subject:1/5
torchrun --nproc-per-node 2 experiments/finetune.py --batch 4
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dme import ranks
from dme.augment import Augment
from dme.cache import Cache, open_cache
from dme.errors import InputError, run
from dme.figures import CYAN, GREEN, RED, overlay, panel, save_png, typical
from dme.infer import PROTOCOLS, SIZES, probabilities, resize
from dme.metrics import ConfusionMeter, per_scan, scores
from dme.model import BACKBONES, HEADS, Segmenter, build_model, set_classes
from dme.recipe import Recipe
from dme.record import provenance, read_rows, write_json
from dme.sources import open_source
from dme.splits import leak, split_indices
from dme.train import TrainingSet, train
from dme.weights import load_model, save_model

CLASSES = ["background", "fluid"]
SCORED = 256  # the study scores 256 x 256 versions of the scans
PUBLISHED = {"mean_dice": 0.8430, "mean_iou": 0.7600}  # best row of the study's Table 2


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help=".mat files or folder of B-scans, or 'phantom' (default: DME_DATA, else phantom)")
    add("--grader", type=int, default=1, help="whose annotation of .mat files is the truth: 1 or 2")
    add("--split", help="paper, random or subject:K/N (default: paper if the set has its scans, else random)")
    add("--weights", help="name or file to start from, or 'none' for fresh ones (default hrf-HEAD)")
    add("--head", choices=HEADS, help="decode head (default: the checkpoint's, else psp)")
    add("--backbone", choices=BACKBONES, help="backbone (default: the checkpoint's, else unet)")
    add("--width", type=int, help="channels of the first stage (default: the checkpoint's, else 16)")
    add("--iters", type=int, default=400, help="optimiser steps (default 400)")
    add("--batch", type=int, default=2, help="images per forward pass (default 2)")
    add("--accumulate", type=int, default=1, help="forward passes per step (default 1)")
    add(
        "--size",
        choices=SIZES,
        default="512",
        help="512: squares of that side, native: their own pixels (default 512)",
    )
    add("--crop", type=int, default=320, help="side of random crops in pixels of --size, 0 for none (320)")
    add("--flip", action="store_true", help="mirror half of the crops left to right")
    add("--rotate", type=float, default=0, help="degrees, uniform in +- this (default 0)")
    add("--shift", type=float, default=0, help="fraction of the side, uniform in +- this (default 0)")
    add("--brightness", type=float, default=0, help="fraction of white, uniform in +- this (default 0)")
    add("--contrast", type=float, default=0, help="factor, uniform in 1 +- this (default 0)")
    add(
        "--noise", type=float, default=0, help="standard deviation of speckle, fraction of the grey value (0)"
    )
    add("--loss", default="ce", help="ce, dice, focal, iou, ce+dice or ce+dice:W_CE,W_DICE (default ce)")
    add("--aux-weight", type=float, help="of the auxiliary loss (default 1.0 for dice and focal, else 0.4)")
    add("--optimizer", default="sgd", help="sgd (momentum 0.9), adam or adamw (default sgd)")
    add("--lr", type=float, default=0.01, help="learning rate at the start (default 0.01)")
    add("--l2", type=float, default=1e-4, help="weight decay (default 1e-4)")
    add("--schedule", default="poly", help="poly (to 1e-4 at step 40000), cosine or constant (default poly)")
    add("--ema", type=float, default=0, help="decay per step of the weights' moving average, 0 for none (0)")
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    add("--compile", action="store_true", help="torch.compile the training step")
    add("--seed", type=int, default=0, help="of weights, batches, augmentation and random split (default 0)")
    add("--eval-every", type=int, default=0, help="steps between validations (default: one at the end)")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--out", type=Path, default=Path("runs/finetune"), help="run folder (default runs/finetune)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    origin = provenance()  # of the code that runs, which may change on disk before a long run ends
    if args.aux_weight is None:
        args.aux_weight = 1.0 if args.loss in ("dice", "focal") else 0.4
    augment, recipe = settings(args)
    torch.manual_seed(args.seed)
    rank, _, device = ranks.join()
    source = open_source(args.data, args.grader)
    model, start = starting_network(args)
    replaced = set_classes(model, CLASSES)
    model.preprocess = model.preprocess | {"size": args.size}
    if rank == 0:
        print(f"data: {source.description}\nstart: {start}", flush=True)
        for name in replaced:
            print(f"replaced: {name}, for {len(CLASSES)} classes")
    small = open_cache(source, SCORED)
    native = open_cache(source) if args.size == "native" else None
    split, (training, validation) = choose_split(small, args.split, args.seed)
    if rank == 0:
        for note in small.notes:
            print(f"data note: {note}")
        sizes = f"{len(training)} train, {len(validation)} validation scans"
        leaking = leak(small, training, validation)
        print(f"split: {split}, {sizes}; {leaking} of the latter have a neighbour in training")

    validate = Validation(small, native, validation, device)
    data = training_set(small, native, training, device)
    before = validate.labels(model, validate.shown)
    trained = train({"model": model}, data, augment, recipe, args.out, validate, args.resume)["model"]
    if validate.counts is None:  # a resumed run that was complete
        validate({"model": trained})
    if rank == 0:
        origin |= {
            "data": small.description,
            "data_kind": small.kind,
            "data_sha256": small.source_sha256,
            "split": split,
            "leak": leaking,
            "start": start,
        }
        report(args, origin, trained, validate, before)
    ranks.leave()


def settings(args: argparse.Namespace) -> tuple[Augment, Recipe]:
    augment = Augment(
        crop=args.crop,
        flip=0.5 * args.flip,
        rotate_deg=args.rotate,
        shift=args.shift,
        brightness=args.brightness,
        contrast=args.contrast,
        speckle=args.noise,
    )
    recipe = Recipe(
        steps=args.iters,
        batch=args.batch,
        accumulate=args.accumulate,
        loss=args.loss,
        aux_weight=args.aux_weight,
        optimizer=args.optimizer,
        lr=args.lr,
        weight_decay=args.l2,
        schedule=args.schedule,
        lr_min=min(1e-4, max(args.lr, 0)),
        ema=args.ema,
        amp=args.amp,
        compile=args.compile,
        seed=args.seed,
        eval_every=args.eval_every,
    )
    return augment, recipe


def starting_network(args: argparse.Namespace) -> tuple[Segmenter, str]:
    """The network to fine-tune and a line that says where its weights come from."""
    asked = {key: value for key in ("head", "backbone", "width") if (value := getattr(args, key)) is not None}
    if args.weights == "none":
        model = build_model(**{"width": 16} | asked)
        return model, f"fresh weights (seed {args.seed}), {_described(model)}"
    name = args.weights or f"hrf-{args.head or 'psp'}"
    model = load_model(name)
    for key, value in asked.items():
        if value != model.arch[key]:
            raise InputError(
                f"--{key} {value} does not fit the weights {name}, whose {key} is {model.arch[key]}; "
                f"leave out --{key}, or give --weights of such a network (or 'none')"
            )
    return model, f"{model.weights_name} (sha256 {model.weights_sha256[:12]}), {_described(model)}"


def _described(model: Segmenter) -> str:
    arch = model.arch
    return f"{arch['backbone']}, {arch['head']} head, width {arch['width']}"


def choose_split(cache: Cache, name: str | None, seed: int) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Name and (training, validation) indices. Raises InputError unless both sides hold fluid."""
    if cache.fluid is None:
        raise InputError(f"the scans of {cache.description} have no fluid masks; training needs the truth")
    if name is None:
        try:
            name, sides = "paper", split_indices(cache, "paper")
        except InputError:
            name, sides = "random", split_indices(cache, "random", seed)
    else:
        sides = split_indices(cache, name, seed)
    for what, indices in zip(("training", "validation"), sides, strict=True):
        if not (cache.fluid[indices] == 1).any():
            raise InputError(
                f"none of the {len(indices)} {what} scans of split {name} holds fluid, which leaves nothing "
                f"to {'learn' if what == 'training' else 'score'}; choose another split, --seed or data"
            )
    return name, sides


def training_set(
    small: Cache, native: Cache | None, indices: np.ndarray, device: torch.device
) -> TrainingSet:
    """Native scans, or as in the study 256 x 256 ones enlarged to 512: image bilinear, mask nearest."""
    if native is not None:
        images = [torch.tensor(native.images[i], device=device) for i in indices]
        masks = [torch.tensor(native.fluid[i], device=device) for i in indices]
    else:
        side = PROTOCOLS["light"]
        images = torch.tensor(small.images[indices], device=device)[:, None].float()
        images = list(resize(images, (side, side)).round().byte()[:, 0])
        masks = torch.tensor(small.fluid[indices], device=device)
        masks = list(masks.repeat_interleave(side // SCORED, 1).repeat_interleave(side // SCORED, 2))
    return TrainingSet(images, masks, [small.names[i] for i in indices])


@dataclass
class Validation:
    """Scores networks on the validation scans, on their 256 x 256 masks.

    Scans go in as they are trained on; the probabilities are resized to 256 x 256. Under torchrun every rank
    takes its share of the scans.
    """

    small: Cache
    native: Cache | None
    indices: np.ndarray  # of the validation scans in the caches
    device: torch.device
    counts: np.ndarray | None = field(default=None, init=False)  # (N, 2, 2), of the last call

    def names(self) -> list[str]:
        return [self.small.names[i] for i in self.indices]

    @property
    def shown(self) -> list[int]:
        return [int(self.indices[i]) for i in typical(self.small.fluid[self.indices])]

    def predict(self, model: Segmenter, index: int) -> torch.Tensor:
        """Probabilities (1, 2, 256, 256)."""
        image = torch.tensor((self.native or self.small).images[index], device=self.device)
        return resize(probabilities(model, image)[None], (SCORED, SCORED))

    def labels(self, model: Segmenter, indices: list[int]) -> list[np.ndarray]:
        """Label maps uint8 (256, 256)."""
        model = model.to(self.device, memory_format=torch.channels_last).eval()
        return [self.predict(model, i)[0].argmax(0).byte().cpu().numpy() for i in indices]

    def __call__(self, models: dict[str, Segmenter]) -> tuple[dict[str, float], np.ndarray]:
        (model,) = models.values()
        rank, world, _ = ranks.join()
        meter = ConfusionMeter(len(CLASSES))
        mine = self.indices[rank::world]
        for i in tqdm(mine, desc="validate", unit="scan", leave=False, disable=rank > 0):
            truth = torch.tensor(self.small.fluid[i], device=self.device)[None]
            meter.update(self.predict(model, i), truth, [self.small.names[i]])
        meter.all_reduce()
        found = dict(zip(meter.names, meter.matrices(), strict=True))
        self.counts = np.stack([found[name] for name in self.names()])
        pooled = scores(self.counts.sum(0))
        dice, iou = pooled["dice"][1], pooled["iou"][1]
        measured = {"score": dice, "fluid-dice": dice, "fluid-iou": iou, "mean-dice": pooled["mean_dice"]}
        return {k: float(v) for k, v in measured.items()}, self.picture(self.labels(model, self.shown))

    def picture(self, after: list[np.ndarray], before: list[np.ndarray] | None = None) -> np.ndarray:
        """The study's Figure 6: B-scan, before and after fine-tuning, truth."""
        lines = []
        for row, i in enumerate(self.shown):
            image = self.small.images[i]
            earlier = [overlay(image, before[row], RED)] if before else []
            lines.append(
                [
                    image,
                    *earlier,
                    overlay(image, after[row], CYAN),
                    overlay(image, self.small.fluid[i], GREEN),
                ]
            )
        titles = ["B-scan", *["before"] * (before is not None), "after fine-tuning", "truth (fluid)"]
        return panel(lines, titles, [self.small.names[i] for i in self.shown], cell_width=256)


def report(
    args: argparse.Namespace,
    origin: dict,
    model: Segmenter,
    validate: Validation,
    before: list[np.ndarray],
) -> None:
    """Print the scores; write the network, results.json and the picture into args.out."""
    counts, out = validate.counts, args.out
    pooled, strict, kind = scores(counts.sum(0)), per_scan(counts), per_scan(counts, empty=1.0)
    history = read_rows(out / "metrics.jsonl")
    phases = [
        sum(row[f"seconds/{p}"] for p in ("data", "forward", "backward", "optimiser")) for row in history
    ]
    results = {
        **origin,
        "arch": model.arch,
        "settings": {k: v for k, v in vars(args).items() if k not in ("data", "out", "resume")},
        "seed": args.seed,
        "seconds_per_iteration": float(np.median(phases)),
        "pooled": pooled,
        "per_scan": {
            "fluid_scans_only": {k: strict[k] for k in ("mean_dice", "mean_iou")},
            "empty_counts_1": {k: kind[k] for k in ("mean_dice", "mean_iou")},
            "empty": strict["empty"],
        },
        "history": [
            [row["step"], row["validation/fluid-dice"], row["validation/fluid-iou"]]
            for row in history
            if "validation/fluid-dice" in row
        ],
        "scans": validate.names(),
        "counts_per_scan": counts,
    }
    save_model(model, out / "model.pt", extra=origin)
    save_png(out / "figure6.png", validate.picture(validate.labels(model, validate.shown), before))
    write_json(out / "results.json", results)

    where = "SYNTHETIC scans" if origin["data_kind"] == "phantom" else "scans"
    scored = f"split {origin['split']}, scored at {SCORED} x {SCORED}"
    print(f"\n{len(counts)} validation {where}, {scored}, after {args.iters} steps")
    print(f"{'':34} {'Dice':>7} {'IoU':>7}")
    for name, dice, iou in (
        ("fluid, all pixels pooled", pooled["dice"][1], pooled["iou"][1]),
        (f"fluid, per scan, {strict['empty']} empty left out", strict["mean_dice"], strict["mean_iou"]),
        ("fluid, per scan, empty counting 1", kind["mean_dice"], kind["mean_iou"]),
        ("mean of background and fluid", pooled["mean_dice"], pooled["mean_iou"]),
        ("  the same, published best row", PUBLISHED["mean_dice"], PUBLISHED["mean_iou"]),
    ):
        print(f"{name:34} {dice:7.4f} {iou:7.4f}")
    print("empty: no fluid in truth and prediction")
    print(f"\nnetwork: {out / 'model.pt'} (after the last step)\nresults: {out / 'results.json'}")
    print(f"pictures: {out / 'figure6.png'}, {out / 'loss.png'}")


if __name__ == "__main__":
    run(main)
