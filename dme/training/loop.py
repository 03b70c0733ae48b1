"""The training loop: one for pretraining, fine-tuning and everything later."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError
from dme.common.provenance import device_name
from dme.drawing.canvas import save_png
from dme.inference.windows import pad, resize
from dme.losses import get_loss
from dme.metrics import scores
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import Segmenter, normalise
from dme.ops.confusion import confusion_matrix
from dme.training.augment import TrainingSet, batch_indices, check_sample, sample_batch
from dme.training.joint import Joint
from dme.training.recipe import (
    OPTIMIZERS,
    amp_dtype,
    freeze_bn,
    learning_rate,
    update_average,
)
from dme.training.run_folder import Run, Stopwatch, loss_curve, read_rows
from dme.training.settings import Augment, Recipe
from dme.training.state import State

LOG_EVERY = 10  # steps between log lines, and between looks at whether everything is still finite

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
    evaluate: called with the networks in eval mode, returns scores, of which "score" (higher is
        better) chooses the best, and a picture or None. Under torchrun every rank calls it and
        gets the same scores.
    out: folder that receives config.json, metrics.jsonl, TensorBoard events, loss.png, last.pt
        (everything a resumed run needs) and best-NAME.pt per network (what `dme.load_model`
        reads). An older run there is replaced.
    resume: continue from out/last.pt. Every random choice is a function of (seed, step, rank), so
        that on a CPU the weights equal those of an uninterrupted run bit for bit.

    Under torchrun every rank takes its share of each batch; BN statistics are synchronised on
    CUDA. Raises InputError for a non-finite loss (step, scans and last good checkpoint named) and
    for a resume that does not fit.
    """
    rank, world, device = ranks.join()
    first = next(iter(models.values()))
    share = share_of_batch(models, data, augment, recipe, world)
    loss_of = get_loss(recipe.loss)
    precision = amp_dtype(recipe.amp, device)

    joint = Joint(models).to(device, memory_format=torch.channels_last)
    if world > 1 and device.type == "cuda":
        joint = nn.SyncBatchNorm.convert_sync_batchnorm(joint)
    net = (
        DistributedDataParallel(joint) if world > 1 else joint
    )  # gives every rank the weights of rank 0
    forward = torch.compile(net) if recipe.compile else net
    average = copy.deepcopy(joint).requires_grad_(False) if recipe.ema else None
    parameters = list(joint.parameters())
    optimizer = OPTIMIZERS[recipe.optimizer](parameters, recipe.lr, recipe.l2)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)

    config = asdict(recipe) | asdict(augment)
    config |= {
        f"{name}.{key}": value for name, m in models.items() for key, value in m.arch.items()
    }
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
    steps = range(start, recipe.iters)
    progress = tqdm(steps, desc="train", initial=start, total=recipe.iters, disable=rank > 0)
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
            chosen = batch_indices(len(data.images), recipe.batch, draw, recipe.seed)[
                offset : offset + share
            ]
            images, target = sample_batch(
                data, chosen, augment, recipe.seed, draw, offset
            )  # (B, C, H, W)
            x = pad(normalise(images, first.preprocess)).to(
                device, memory_format=torch.channels_last
            )
            target = target.to(device)
            watch.lap("data")
            last = part == recipe.accumulate - 1
            with contextlib.nullcontext() if last or world == 1 else net.no_sync():
                with torch.autocast(device.type, precision, enabled=precision is not None):
                    logits = forward(x)
                height, width = target.shape[-2:]
                logits = [
                    resize(one.float(), x.shape[-2:])[..., :height, :width] for one in logits
                ]
                weights = [1.0] * len(models) + [recipe.aux_weight] * (len(logits) - len(models))
                loss = sum(
                    w * loss_of(one, target) for w, one in zip(weights, logits, strict=True)
                )
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
        saving = done % recipe.save_every == 0 or done == recipe.iters
        evaluating = done == recipe.iters or (recipe.eval_every and done % recipe.eval_every == 0)
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


def share_of_batch(
    models: dict[str, Segmenter], data: TrainingSet, augment: Augment, recipe: Recipe, world: int
) -> int:
    """Images per rank and forward pass. Raises InputError for batches and sizes the networks cannot take."""
    batch, share = recipe.batch, recipe.batch // world
    if batch % world:
        raise InputError(
            f"batch {batch} does not divide over {world} ranks; choose a multiple of {world}"
        )
    pooling = [m.arch["head"] for m in models.values() if share < m.head.LEAST_BATCH]
    if pooling and not recipe.freeze_bn:
        raise InputError(
            f"batch {batch} gives a rank one image, which the {pooling[0]} head pools to one value without "
            "variance for batch norm; choose at least 2 images per rank, the fcn head or (in Python) "
            "Recipe(freeze_bn=True)"
        )
    if augment.on_fluid and data.fluid is None:
        raise InputError(
            "crops can be placed on fluid only where fluid is a class; leave on_fluid at 0"
        )
    for image, mask in zip(data.images, data.masks, strict=True):
        check_sample(image, mask, data.masks[0], augment)
    return share


def refuse_nonfinite(
    losses: Tensor, net: nn.Module, done: int, recipe: Recipe, names: list[str], checkpoint: Path
) -> None:
    """Raise InputError when one of the last losses (one per forward pass) or a weight is NaN or infinite.

    An update can ruin the weights while its loss was finite, and they must not reach the
    checkpoint.
    """
    held = [t.detach() for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()]
    norms = torch._foreach_norm(held)
    finite = torch.cat([losses, torch.stack(norms)]).isfinite().tolist()
    if all(finite):
        return
    bad = min(finite.index(False), len(losses) - 1)
    what = (
        "the weights are not finite after" if finite[bad] else f"loss is {losses[bad].item()} at"
    )
    draw = done * recipe.accumulate - len(losses) + bad
    scans = ", ".join(names[i] for i in batch_indices(len(names), recipe.batch, draw, recipe.seed))
    kept = (
        f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "no checkpoint yet"
    )
    raise InputError(
        f"{what} step {draw // recipe.accumulate + 1} (scans {scans}); {kept}; "
        "lower --lr, clip the gradients or use --amp off"
    )
