"""The training loop: one for pretraining, fine-tuning and everything later."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dme import ranks
from dme.augment import Augment, TrainingSet, batch_indices, check_sample, sample_batch
from dme.errors import InputError
from dme.figures import save_png
from dme.files import atomic_path, load_archive
from dme.infer import pad, resize
from dme.losses import get_loss
from dme.metrics import scores
from dme.model import Segmenter, normalise
from dme.ops.confusion import confusion_matrix
from dme.recipe import OPTIMIZERS, Recipe, amp_dtype, freeze_bn, learning_rate, update_average
from dme.record import Run, Stopwatch, device_name, loss_curve, read_rows
from dme.weights import save_model

LOG_EVERY = 10  # steps between log lines, and between looks at whether everything is still finite


class Joint(nn.Module):
    """Segmenters that share backbone and auxiliary head, trained together; usually just one.

    forward: normalised (N, C, H, W) -> logits of each decode head in order, then those of the auxiliary head,
    if there is one.
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
        logits = [m.head(features) for m in models]
        return logits if models[0].aux_head is None else [*logits, models[0].aux_head(features)]


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

    models: name -> network; several must share backbone and auxiliary head.
    evaluate: called with the networks in eval mode, returns scores, of which "score" (higher is better)
        chooses the best, and a picture or None. Under torchrun every rank calls it and gets the same scores.
    out: folder that receives config.json, metrics.jsonl, TensorBoard events, loss.png, last.pt (everything a
        resumed run needs) and best-NAME.pt per network (what `dme.load_model` reads). An older run there is
        replaced.
    resume: continue from out/last.pt. Every random choice is a function of (seed, step, rank), so that on a
        CPU the weights equal those of an uninterrupted run bit for bit.

    Under torchrun every rank takes its share of each batch; BN statistics are synchronised on CUDA.
    Raises InputError for a non-finite loss (step, scans and last good checkpoint named) and for a resume that
    does not fit.
    """
    rank, world, device = ranks.join()
    first = next(iter(models.values()))
    share = share_of_batch(models, data, augment, recipe, world)
    loss_of = get_loss(recipe.loss)
    precision = amp_dtype(recipe.amp, device)

    joint = Joint(models).to(device, memory_format=torch.channels_last)
    if world > 1 and device.type == "cuda":
        joint = nn.SyncBatchNorm.convert_sync_batchnorm(joint)
    net = DistributedDataParallel(joint) if world > 1 else joint  # gives every rank the weights of rank 0
    forward = torch.compile(net) if recipe.compile else net
    average = copy.deepcopy(joint).requires_grad_(False) if recipe.ema else None
    parameters = list(joint.parameters())
    optimizer = OPTIMIZERS[recipe.optimizer](parameters, recipe.lr, recipe.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)

    config = asdict(recipe) | asdict(augment)
    config |= {f"{name}.{key}": value for name, m in models.items() for key, value in m.arch.items()}
    config |= {f"{name}.weights": getattr(m, "weights_sha256", None) for name, m in models.items()}
    config |= {"data": data.fingerprint(), "precision": str(precision or torch.float32)}
    state = State(joint, average, optimizer, scaler, config)
    start = state.load(out / "last.pt", device) if resume else 0
    run = None
    if rank == 0:
        run = Run(out, config, start)
        where = f"{device_name()}, {world} rank{'s'[: world > 1]}, {config['precision']}"
        print(f"training {', '.join(models)} on {len(data.names)} scans: {where}")

    watch = Stopwatch(device)
    recent = []  # losses since the last log line, on the device: reading them makes the host wait
    counts = torch.zeros((first.arch["num_classes"],) * 2, dtype=torch.int64, device=device)
    steps = range(start, recipe.steps)
    progress = tqdm(steps, desc="train", initial=start, total=recipe.steps, disable=rank > 0)
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
            offset = rank * share
            chosen = batch_indices(len(data.images), recipe.batch, draw, recipe.seed)[offset : offset + share]
            images, target = sample_batch(data, chosen, augment, recipe.seed, draw, offset)  # (B, C, H, W)
            x = pad(normalise(images, first.preprocess)).to(device, memory_format=torch.channels_last)
            target = target.to(device)
            watch.lap("data")
            last = part == recipe.accumulate - 1
            with contextlib.nullcontext() if last or world == 1 else net.no_sync():
                with torch.autocast(device.type, precision, enabled=precision is not None):
                    logits = forward(x)
                height, width = target.shape[-2:]
                logits = [resize(one.float(), x.shape[-2:])[..., :height, :width] for one in logits]
                weights = [1.0] * len(models) + [recipe.aux_weight] * (len(logits) - len(models))
                loss = sum(w * loss_of(one, target) for w, one in zip(weights, logits, strict=True))
                recent.append(loss.detach())
                counts += confusion_matrix(logits[0].detach(), target, len(counts))
                watch.lap("forward")
                scaler.scale(loss / recipe.accumulate).backward()
            watch.lap("backward")
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
        if not (saving or evaluating or done % LOG_EVERY == 0):
            continue
        losses = ranks.total(torch.stack(recent)) / world
        refuse_nonfinite(losses, joint, done, recipe, data.names, out / "last.pt")
        losses = losses.cpu()
        dice = np.nanmean(scores(ranks.total(counts))["dice"][1:])  # of all classes but the first
        row = {"train/loss": losses.mean().item(), "train/dice": float(dice), "lr": lr}
        passed = len(losses) // recipe.accumulate  # steps since the last line
        row |= {f"seconds/{phase}": seconds / passed for phase, seconds in watch.read().items()}
        progress.set_postfix(loss=f"{row['train/loss']:.4f}", lr=f"{lr:.1e}")
        recent.clear()
        counts.zero_()
        if evaluating:
            trained = dict((average or joint).eval().models.items())
            ranks.share_buffers(average or joint)
            measured, picture = evaluate(trained)
            watch.lap("evaluation")
            row |= {f"validation/{name}": value for name, value in measured.items()}
            row["seconds/evaluation"] = watch.read()["evaluation"]
            better = math.isnan(state.best) or measured["score"] > state.best
            if better:
                state.best = measured["score"]
            if run and better:
                for name, model in trained.items():
                    save_model(model, out / f"best-{name}.pt")
            if run and picture is not None:
                run.image(done, "validation", picture)
        if run:
            run.log(done, row)
        if run and saving:
            state.save(out / "last.pt", done)
        watch.read()  # what was just written belongs to no phase
    if run:
        run.close()
        save_png(out / "loss.png", loss_curve(read_rows(out / "metrics.jsonl")))
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
    best: float = math.nan

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
        """Returns the steps done. Raises InputError for a file that is absent, damaged or does not fit."""
        if not path.exists():
            raise InputError(f"nothing to resume: {path} does not exist; start without --resume")
        try:
            saved = load_archive(path, device)
            theirs = saved["config"]
        except Exception as e:
            reason = " ".join(str(e).split()) or type(e).__name__
            raise InputError(
                f"{path} is damaged or no training checkpoint ({reason}); start again without --resume"
            ) from e
        differing = [k for k in self.config | theirs if theirs.get(k) != self.config.get(k)]
        if differing:
            told = ", ".join(f"{k} {theirs.get(k)} -> {self.config.get(k)}" for k in differing)
            raise InputError(
                f"{path} was made with other settings ({told}); resume with the same or choose another --out"
            )
        try:
            self.joint.load_state_dict(saved["model"])
            if self.average:
                self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scaler.load_state_dict(saved["scaler"])
            self.best = saved["best"]
            return saved["step"]
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
            raise InputError(
                f"{path} holds another network or was written by another version of dme "
                f"({' '.join(str(e).split())[:200]}); start again without --resume"
            ) from e


def share_of_batch(
    models: dict[str, Segmenter], data: TrainingSet, augment: Augment, recipe: Recipe, world: int
) -> int:
    """Images per rank and forward pass. Raises InputError for batches and sizes the networks cannot take."""
    batch, share = recipe.batch, recipe.batch // world
    if batch % world:
        raise InputError(f"batch {batch} does not divide over {world} ranks; choose a multiple of {world}")
    pooling = [m.arch["head"] for m in models.values() if share < m.head.LEAST_BATCH]
    if pooling and not recipe.freeze_bn:
        raise InputError(
            f"batch {batch} gives a rank one image, which the {pooling[0]} head pools to one value without "
            "variance for batch norm; choose at least 2 images per rank, the fcn head or (in Python) "
            "Recipe(freeze_bn=True)"
        )
    if augment.on_fluid and data.fluid is None:
        raise InputError("crops can be placed on fluid only where fluid is a class; leave on_fluid at 0")
    for image, mask in zip(data.images, data.masks, strict=True):
        check_sample(image, mask, data.masks[0], augment)
    return share


def refuse_nonfinite(
    losses: Tensor, net: nn.Module, done: int, recipe: Recipe, names: list[str], checkpoint: Path
) -> None:
    """Raise InputError when one of the last losses (one per forward pass) or a weight is NaN or infinite.

    An update can ruin the weights while its loss was finite, and they must not reach the checkpoint.
    """
    held = [t.detach() for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
    norms = torch._foreach_norm(held)
    finite = torch.cat([losses, torch.stack(norms)]).isfinite().tolist()
    if all(finite):
        return
    bad = min(finite.index(False), len(losses) - 1)
    what = "the weights are not finite after" if finite[bad] else f"loss is {losses[bad].item()} at"
    draw = done * recipe.accumulate - len(losses) + bad
    scans = ", ".join(names[i] for i in batch_indices(len(names), recipe.batch, draw, recipe.seed))
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "no checkpoint yet"
    raise InputError(
        f"{what} step {draw // recipe.accumulate + 1} (scans {scans}); {kept}; "
        "lower --lr, clip the gradients or use --amp off"
    )
