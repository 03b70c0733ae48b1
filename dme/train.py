"""The training loop: one for pretraining, fine-tuning and everything later."""

import contextlib
import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dme import ranks
from dme.augment import Augment, batch_indices, sample_batch
from dme.errors import InputError
from dme.figures import line_plot, save_png
from dme.files import atomic_path
from dme.infer import resize
from dme.losses import get_loss
from dme.metrics import scores
from dme.model import Segmenter, normalise
from dme.ops.confusion import confusion_matrix
from dme.record import Run
from dme.weights import save_model

LOG_EVERY = 10  # steps between log lines, and between looks at whether the loss is still finite


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises InputError for a value outside its range."""

    steps: int  # optimiser steps
    batch: int = 2  # images per forward pass, over all ranks
    accumulate: int = 1  # forward passes per optimiser step
    loss: str = "ce"  # see dme.losses.get_loss
    aux_weight: float = 0.4  # weight of the auxiliary head's loss
    optimizer: str = "sgd"  # sgd (momentum 0.9), adam (L2 in the gradient) or adamw (decoupled)
    lr: float = 0.01
    weight_decay: float = 5e-4
    schedule: str = "poly"  # poly (power 0.9), cosine or constant
    horizon: int = 40_000  # step at which poly reaches lr_min; the study stops long before
    lr_min: float = 1e-4
    warmup: int = 0  # steps of linear rise at the start
    clip: float = 0.0  # largest gradient norm, 0 for none
    ema: float = 0.0  # decay of the exponential moving average of the weights, 0 for none
    freeze_bn: bool = False  # keep the batch-norm statistics as loaded
    amp: str = "auto"  # auto (bf16 or fp16 on a GPU, float32 on a CPU), off, bf16, fp16
    seed: int = 0
    eval_every: int = 0  # steps between evaluations, 0 for one at the end
    save_every: int = 100  # steps between checkpoints

    def __post_init__(self):
        def check(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {wanted}")

        for name in ("steps", "batch", "accumulate", "save_every", "horizon"):
            check(getattr(self, name) >= 1, name, "at least 1")
        for name in ("aux_weight", "weight_decay", "lr_min", "warmup", "clip", "eval_every"):
            check(getattr(self, name) >= 0, name, "at least 0")
        check(self.lr > 0, "lr", "above 0")
        check(0 <= self.ema < 1, "ema", "between 0 and 1 (1 excluded)")
        check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        check(self.schedule in ("poly", "cosine", "constant"), "schedule", "poly, cosine or constant")
        check(self.amp in ("auto", "off", "bf16", "fp16"), "amp", "auto, off, bf16 or fp16")
        get_loss(self.loss)


OPTIMIZERS = {
    "sgd": lambda parameters, lr, decay: torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=decay),
    "adam": lambda parameters, lr, decay: torch.optim.Adam(parameters, lr, weight_decay=decay),
    "adamw": lambda parameters, lr, decay: torch.optim.AdamW(parameters, lr, weight_decay=decay),
}


@dataclass
class TrainingSet:
    """Scans in memory, on the device: images uint8 (H, W) or (3, H, W), masks uint8 (H, W), names for messages."""

    images: list[Tensor]
    masks: list[Tensor]
    names: list[str]


class Joint(nn.Module):
    """Segmenters that share backbone and auxiliary head, trained together; usually just one.

    forward: normalised (N, C, H, W) -> logits of each decode head in order, then the auxiliary head's if there is one.
    """

    def __init__(self, models: dict[str, Segmenter]):
        super().__init__()
        self.models = nn.ModuleDict(models)
        first, *others = models.values()
        if any(m.backbone is not first.backbone or m.aux_head is not first.aux_head for m in others):
            raise ValueError("models trained jointly must share one backbone and one auxiliary head")

    def forward(self, x: Tensor) -> list[Tensor]:
        models = list(self.models.values())
        features = models[0].backbone(x)
        logits = [m.head(features[-1]) for m in models]
        return logits if models[0].aux_head is None else [*logits, models[0].aux_head(features[-2])]


Evaluate = Callable[[dict[str, Segmenter]], tuple[dict[str, float], np.ndarray | None]]


def train(
    models: dict[str, Segmenter],
    data: TrainingSet,
    augment: Augment,
    recipe: Recipe,
    out: Path,
    evaluate: Evaluate,
    resume: bool = False,
) -> dict[str, Segmenter]:
    """Train `models` on `data`; returns the trained networks (their moving average when recipe.ema > 0).

    models: name -> network; several must share backbone and auxiliary head. evaluate: called with the networks in eval
    mode, returns scores, of which "score" (higher is better) chooses the best, and a picture or None.
    out: folder that receives config.json, metrics.jsonl, TensorBoard events, loss.png, last.pt (everything a resumed
    run needs) and best-NAME.pt per network (what `dme.load_model` reads). resume: continue from out/last.pt exactly;
    every random choice is a function of (seed, step), so the continued run equals an uninterrupted one.
    Under torchrun every rank takes its share of each batch; BN statistics are synchronised on CUDA.
    Raises InputError for a non-finite loss (step, scans, last good checkpoint named) and for a resume that does not fit.
    """
    rank, world, device = ranks.join()
    if recipe.batch % world:
        raise InputError(f"batch {recipe.batch} does not divide over {world} ranks; choose a multiple of {world}")
    share = recipe.batch // world
    preprocess = next(iter(models.values())).preprocess

    joint = Joint(models).to(device, memory_format=torch.channels_last)
    if world > 1 and device.type == "cuda":
        joint = nn.SyncBatchNorm.convert_sync_batchnorm(joint)
    average = copy.deepcopy(joint).requires_grad_(False) if recipe.ema else None
    parameters = list(joint.parameters())
    optimizer = OPTIMIZERS[recipe.optimizer](parameters, recipe.lr, recipe.weight_decay)
    precision = amp_dtype(recipe.amp, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    state = State(joint, average, optimizer, scaler, asdict(recipe) | asdict(augment))
    start = state.load(out / "last.pt", device) if resume else 0
    net = DistributedDataParallel(joint) if world > 1 else joint
    loss_of = get_loss(recipe.loss)

    run = Run(out, state.config, start) if rank == 0 else None
    watch = Stopwatch(device)
    recent = []  # losses since the last log line, on the device: reading them makes the host wait
    counts = torch.zeros(models_classes(models), models_classes(models), dtype=torch.int64, device=device)
    progress = tqdm(range(start, recipe.steps), desc="train", initial=start, total=recipe.steps, disable=rank > 0)
    for step in progress:
        torch.manual_seed((recipe.seed << 32) + (step << 8) + rank)  # dropout
        lr = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        joint.train()
        if recipe.freeze_bn:
            freeze_bn(joint)
        optimizer.zero_grad(set_to_none=True)
        for part in range(recipe.accumulate):
            draw = step * recipe.accumulate + part
            chosen = batch_indices(len(data.images), recipe.batch, draw, recipe.seed)[rank * share :][:share]
            images, target = sample_batch(
                data.images, data.masks, chosen, augment, recipe.seed, draw, offset=rank * share
            )  # (B, C, H, W), (B, H, W)
            x = normalise(images, preprocess).to(device, memory_format=torch.channels_last)
            target = target.to(device)
            watch.lap("data")
            last = part == recipe.accumulate - 1
            with contextlib.nullcontext() if last or world == 1 else net.no_sync():
                with torch.autocast(device.type, precision, enabled=precision is not None):
                    logits = net(x)
                logits = [resize(one.float(), target.shape[-2:]) for one in logits]
                weights = [1.0] * len(models) + [recipe.aux_weight] * (len(logits) - len(models))
                loss = sum(w * loss_of(one, target) for w, one in zip(weights, logits, strict=True))
                watch.lap("forward")
                scaler.scale(loss / recipe.accumulate).backward()
            watch.lap("backward")
            recent.append(loss.detach())
            counts += confusion_matrix(logits[0].detach(), target, len(counts))
        scaler.unscale_(optimizer)
        if recipe.clip:
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            update_average(average, joint, min(recipe.ema, (1 + step) / (10 + step)))
        watch.lap("optimiser")

        done = step + 1
        saving = done % recipe.save_every == 0 or done == recipe.steps
        evaluating = done == recipe.steps or (recipe.eval_every and done % recipe.eval_every == 0)
        if done % LOG_EVERY == 0 or saving or evaluating:
            losses = torch.stack(recent).cpu()
            refuse_nonfinite(losses, done, recipe, data.names, out)
            recent.clear()
            if run:
                train_dice = scores(counts.cpu().numpy())["dice"][-1]
                seconds = {f"seconds/{k}": v / len(losses) for k, v in watch.read().items()}
                run.log(done, {"train/loss": losses.mean().item(), "train/dice": train_dice, "lr": lr, **seconds})
                progress.set_postfix(loss=f"{losses.mean():.4f}", lr=f"{lr:.1e}")
            counts.zero_()
        if evaluating:
            trained = dict((average or joint).eval().models.items())
            measured, picture = evaluate(trained)
            watch.lap("evaluation")
            if run:
                run.log(done, {f"validation/{k}": v for k, v in measured.items()})
                if picture is not None:
                    run.image(done, "validation", picture)
                if measured["score"] > state.best:
                    state.best = measured["score"]
                    for name, model in trained.items():
                        save_model(model, out / f"best-{name}.pt")
        if saving and run:
            state.save(out / "last.pt", done)
    if run:
        run.close()
        save_png(out / "loss.png", loss_curve(run.rows()))
    if world > 1:
        distributed.barrier()
    return dict((average or joint).eval().models.items())


@dataclass
class State:
    """Everything a resumed run needs."""

    joint: Joint
    average: Joint | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    config: dict
    best: float = -math.inf

    def save(self, path: Path, step: int) -> None:
        content = {
            "step": step,
            "best": self.best,
            "config": self.config,
            "model": self.joint.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with atomic_path(path) as temporary, open(temporary, "wb") as f:
            torch.save(content, f)

    def load(self, path: Path, device: torch.device) -> int:
        """Returns the step to continue with."""
        if not path.exists():
            raise InputError(f"nothing to resume: {path} does not exist; start without --resume")
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
            differing = [k for k, v in self.config.items() if _listed(saved["config"].get(k)) != _listed(v)]
        except Exception as e:
            raise InputError(f"{path} is not a training checkpoint of ours ({e}); start again without --resume") from e
        if differing:
            told = ", ".join(f"{k} {saved['config'].get(k)} -> {self.config[k]}" for k in differing)
            raise InputError(f"{path} was made with other settings ({told}); resume with the same or choose another --out")
        self.joint.load_state_dict(saved["model"])
        if self.average:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        self.best = saved["best"]
        return saved["step"]


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step (from 0): linear warm-up, then poly (power 0.9), cosine to lr_min, or constant."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "poly":
        left = max(0.0, 1 - step / recipe.horizon)
        return recipe.lr_min + (recipe.lr - recipe.lr_min) * left**0.9
    if recipe.schedule == "cosine":
        passed = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
        return recipe.lr_min + (recipe.lr - recipe.lr_min) * (1 + math.cos(math.pi * passed)) / 2
    return recipe.lr


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Type that autocast uses, None for float32 throughout."""
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def freeze_bn(net: nn.Module) -> None:
    """Batch norm uses its loaded statistics and leaves them alone."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * net, for weights and BN statistics."""
    mine = [*average.parameters(), *average.buffers()]
    theirs = [*net.parameters(), *net.buffers()]
    floating = [i for i, t in enumerate(mine) if t.is_floating_point()]
    torch._foreach_lerp_([mine[i] for i in floating], [theirs[i] for i in floating], 1 - decay)
    for old, new in zip(mine, theirs, strict=True):
        if not old.is_floating_point():
            old.copy_(new)


def refuse_nonfinite(losses: Tensor, done: int, recipe: Recipe, names: list[str], out: Path) -> None:
    """Raise InputError when one of the last losses (one per forward pass) is NaN or infinite."""
    bad = (~torch.isfinite(losses)).nonzero()
    if not len(bad):
        return
    draw = done * recipe.accumulate - len(losses) + int(bad[0])
    scans = ", ".join(names[i] for i in batch_indices(len(names), recipe.batch, draw, recipe.seed))
    kept = f"the last good checkpoint is {out / 'last.pt'}" if (out / "last.pt").exists() else "no checkpoint yet"
    raise InputError(
        f"loss is {losses[bad[0]].item()} at step {draw // recipe.accumulate + 1} (scans {scans}); {kept}; "
        "lower --lr, clip the gradients or use --amp off"
    )


def models_classes(models: dict[str, Segmenter]) -> int:
    return next(iter(models.values())).arch["num_classes"]


class Stopwatch:
    """Seconds spent in named phases; on a GPU measured there by events, without making the host wait."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks = [("", self._now())]

    def _now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, name: str) -> None:
        """The time since the last lap belongs to `name`."""
        self.marks.append((name, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds per name since the last read."""
        if self.cuda:
            torch.cuda.synchronize()
        total = {}
        for (_, before), (name, after) in zip(self.marks, self.marks[1:], strict=False):
            spent = before.elapsed_time(after) / 1000 if self.cuda else after - before
            total[name] = total.get(name, 0.0) + spent
        self.marks = [("", self._now())]
        return total


def loss_curve(rows: list[dict]) -> np.ndarray:
    """Picture of the training loss and the validation score against steps, uint8 (H, W, 3)."""
    lines = {
        name: [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        for name in ("train/loss", "train/dice", "validation/score")
    }
    return line_plot({name: points for name, points in lines.items() if points}, "step", "loss, score")
