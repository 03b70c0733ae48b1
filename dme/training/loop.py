"""The training loop: one for pretraining, fine-tuning and everything later."""

import contextlib
import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError, with_flags
from dme.common.labels import IGNORE
from dme.common.provenance import device_name
from dme.drawing.canvas import save_png
from dme.inference.windows import pad, resize
from dme.losses import get_loss
from dme.metrics import scores
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import Segmenter, normalise
from dme.ops.confusion import confusion_matrix
from dme.training.augment import TrainingSet, batch_indices, check_fit, sample_batch
from dme.training.joint import Joint
from dme.training.recipe import (
    OPTIMIZERS,
    amp_dtype,
    freeze_bn,
    learning_rate,
    update_average,
    warmup_note,
)
from dme.training.run_folder import Run, Stopwatch, loss_curve, read_rows
from dme.training.settings import Augment, Recipe
from dme.training.state import State
from dme.training.unlabelled import check_teacher, consistency, ramp

SAVE_SECONDS = 50  # a checkpoint is never older than a minute, unless a step takes ten seconds
SEED_STRIDE = 0x9E3779B1  # odd: seeds of runs lie far apart
LOG_EVERY = 10  # steps between log lines, and between looks whether all is still finite

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
    """Train `models` on `data`; returns the trained networks (their average when recipe.ema > 0).

    models: name -> network; several must share backbone and auxiliary head.
    evaluate: called with the networks in eval mode, returns scores, of which "score" (higher is
        better) chooses the best, and a picture or None. Under torchrun every rank calls it and
        gets the same scores.
    out: folder that receives config.json, metrics.jsonl, TensorBoard events, loss.png, last.pt
        (everything a resumed run needs) and best-NAME.pt per network (what `dme.load_model`
        reads). What an older run left there is kept in a folder of its own.
    resume: continue from out/last.pt, or start over where a run was killed before it had one.
        Every random choice is a function of (seed, step, rank), so that on a CPU the weights equal
        those of an uninterrupted run bit for bit.

    Under torchrun every rank takes its share of each batch; BN statistics are synchronised on
    CUDA. Raises InputError for a non-finite loss (step, scans and last good checkpoint named) and
    for a resume that does not fit.
    """
    # set up
    training = Training(models, data, augment, recipe)
    checkpoint = out / "last.pt"
    start = training.resume(checkpoint) if resume else 0
    run = training.open_run(out, start)
    training.watch.restart()
    clock = Clock(start, recipe.iters)

    steps = range(start, recipe.iters)
    progress = tqdm(
        steps, desc="train", initial=start, total=recipe.iters, disable=training.rank > 0
    )
    for step in progress:
        training.step(step)

        # mostly that was all
        done = step + 1
        clock.tick(done)
        saving = due(done, recipe.save_every, recipe.iters)
        evaluating = due(done, recipe.eval_every, recipe.iters)
        if not (saving or evaluating or done % LOG_EVERY == 0):
            if run and training.world == 1 and clock.save_due():
                training.save_between_lines(checkpoint, done)
                clock.saved()
            continue

        # evaluate, log, save
        row = training.row(done, checkpoint)
        progress.set_postfix(loss=f"{row['train/loss']:.4f}", lr=f"{row['lr']:.1e}")
        if evaluating:
            row |= training.evaluate(evaluate, done, run)
        if run:
            run.log(done, row)
        if run and (saving or clock.save_due()):
            training.state.save(checkpoint, done)
            clock.saved()
        if run:
            clock.announce(done)
        training.watch.restart()  # what was just written belongs to no phase

    if run:
        run.close()
        save_png(out / "loss.png", loss_curve(read_rows(out / "metrics.jsonl")))
    if training.world > 1:
        distributed.barrier()
    return training.networks()


def due(done: int, every: int, steps: int) -> bool:
    """Whether something is due after `done` of `steps` steps: at each `every`-th and the last.

    every: 0 for the last alone.
    """
    return done == steps or (every > 0 and done % every == 0)


class Clock:
    """Says how long a run will take, and when its checkpoint is a minute old.

    start, end: the first step, counted from 0, and the number of all.
    """

    def __init__(self, start: int, end: int, now: Callable[[], float] = time.monotonic) -> None:
        self.start = start
        self.end = end
        self.now = now
        self.last_save = now()
        self.first_step: float | None = None  # when it was done; it takes longer than others
        self.announced = False

    def tick(self, done: int) -> None:
        """Called after every step."""
        if self.first_step is None and done > self.start:
            self.first_step = self.now()

    def save_due(self) -> bool:
        return self.now() - self.last_save >= SAVE_SECONDS

    def saved(self) -> None:
        self.last_save = self.now()

    def announce(self, done: int) -> None:
        """Print once, after ten steps or more, how long the rest will take."""
        left = self.end - done
        timed = done - self.start - 1
        if self.announced or left <= 0 or timed < LOG_EVERY - 1:
            return
        self.announced = True
        seconds = (self.now() - self.first_step) / timed
        duration = in_words(seconds * left)
        tqdm.write(f"expected: {duration} for {left} more steps of {seconds:.2g} s, then scores")


def in_words(seconds: float) -> str:
    """A duration for people: about 40 seconds, 12 minutes, 3.5 hours."""
    if seconds < 100:
        return f"about {math.ceil(seconds)} seconds"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"


class Training:
    """What trains the networks of a run, and what was measured since the last line of its log."""

    def __init__(
        self, models: dict[str, Segmenter], data: TrainingSet, augment: Augment, recipe: Recipe
    ) -> None:
        self.data = data
        self.augment = augment
        self.recipe = recipe
        self.rank, self.world, self.device = ranks.join()
        self.share = share_of_batch(models, data, augment, recipe, self.world)
        self.loss_of = get_loss(recipe.loss)
        self.precision = amp_dtype(recipe.amp, self.device)
        first = next(iter(models.values()))
        self.preprocess = first.preprocess

        # the networks, as one; wrapped, every rank gets the weights of rank 0
        joint = Joint(models).to(self.device, memory_format=torch.channels_last)
        if self.world > 1 and self.device.type == "cuda":
            joint = nn.SyncBatchNorm.convert_sync_batchnorm(joint)
        self.net = DistributedDataParallel(joint) if self.world > 1 else joint
        self.forward = torch.compile(self.net) if recipe.compile else self.net
        average = copy.deepcopy(joint).requires_grad_(False) if recipe.ema else None

        # what a checkpoint holds of them
        make_optimizer = OPTIMIZERS[recipe.optimizer]
        optimizer = make_optimizer(list(joint.parameters()), recipe.lr, recipe.l2)
        scaling = self.precision is torch.float16
        scaler = torch.amp.GradScaler(self.device.type, enabled=scaling)
        config = run_config(models, data, augment, recipe, self.precision)
        self.state = State(joint, average, optimizer, scaler, config)

        # since the last line of the log; on the device: reading them makes the host wait
        classes = first.arch["num_classes"]
        self.losses: list[Tensor] = []
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=self.device)
        self.steps = 0  # that the watch saw
        self.watch = Stopwatch(self.device)

    def resume(self, checkpoint: Path) -> int:
        """Take over a checkpoint; returns the steps done, 0 where there is none yet."""
        if not checkpoint.exists():
            if self.rank == 0:
                print(f"no checkpoint in {checkpoint.parent} yet: starting over")
            return 0
        start = self.state.load(checkpoint, self.device)
        if self.state.losses is not None:
            self.losses = list(self.state.losses.to(self.device))
            self.counts.copy_(self.state.counts)
            self.state.losses = None
            self.state.counts = None
        return start

    def save_between_lines(self, checkpoint: Path, done: int) -> None:
        """Save without a line of the log, of which the checkpoint then holds the beginning.

        Raises InputError where a loss or a weight is not finite.
        """
        losses = torch.stack(self.losses)
        refuse_nonfinite(losses, self.state.joint, done, self.recipe, self.data.names, checkpoint)
        self.state.losses = losses
        self.state.counts = self.counts
        self.state.save(checkpoint, done)
        self.state.losses = None
        self.state.counts = None
        self.watch.skip()

    def open_run(self, out: Path, start: int) -> Run | None:
        """The run's folder, on rank 0; prints what is trained on which machine."""
        if self.rank > 0:
            return None
        names = ", ".join(self.state.joint.models)
        ranks_text = "1 rank" if self.world == 1 else f"{self.world} ranks"
        place = f"{device_name()}, {ranks_text}, {self.state.config['precision']}"
        print(f"training {names} on {len(self.data.names)} scans: {place}")
        if note := warmup_note(self.recipe):
            print(with_flags(f"note: {note}"))
        return Run(out, self.state.config, start)

    def step(self, step: int) -> None:
        """One optimiser step, `step` counted from 0."""
        recipe = self.recipe
        state = self.state
        torch.manual_seed(dropout_seed(recipe.seed, step, self.rank))
        state.joint.train()
        if recipe.freeze_bn:
            freeze_bn(state.joint)

        # those without labels come last: dropout of the labelled ones is the same without them
        draws = range(step * recipe.accumulate, (step + 1) * recipe.accumulate)
        passes = [(self._labelled_loss, draw) for draw in draws]
        if self.data.unlabelled is not None:
            passes += [(self._unlabelled_loss, draw) for draw in draws]

        # gradients of all forward passes add up; ranks exchange them after the last
        state.optimizer.zero_grad(set_to_none=True)
        for number, (loss_of, draw) in enumerate(passes, start=1):
            last = number == len(passes)
            exchange = contextlib.nullcontext() if last or self.world == 1 else self.net.no_sync()
            with exchange:
                loss = loss_of(draw)
                self.watch.lap("forward")
                state.scaler.scale(loss / recipe.accumulate).backward()
            self.watch.lap("backward")

        self._update(step)
        self.watch.lap("optimiser")
        self.steps += 1

    def _labelled_loss(self, draw: int) -> Tensor:
        """Loss of batch `draw`, which is remembered for the log."""
        x, target = self._batch(self.data, draw, self.augment)
        self.watch.lap("data")
        loss, logits = self._loss(x, target)
        self.losses.append(loss.detach())
        self.counts += confusion_matrix(logits.detach(), target, len(self.counts))
        return loss

    def _unlabelled_loss(self, draw: int) -> Tensor:
        """Weighted loss of a batch without labels: how far the network is from its teacher.

        The teacher, the moving average, sees the same samples before their grey values change.
        """
        recipe = self.recipe
        scans = self.data.unlabelled
        x, _ = self._batch(scans, draw, self.augment, first=recipe.batch)
        calm, labels = self._batch(scans, draw, self.augment.geometry, first=recipe.batch)
        self.watch.lap("data")
        with torch.no_grad():
            believed = self._logits(self.state.average.eval(), calm, labels)[0].softmax(1)
        decoded, *others = self._logits(self.forward, x, labels)

        weight = recipe.unlabelled_weight * ramp(draw // recipe.accumulate / recipe.iters)
        within_scans = labels != IGNORE
        loss = weight * consistency(decoded.softmax(1), believed, within_scans)
        # the other heads learn nothing, but ranks wait for all gradients
        return loss + 0 * sum(z.sum() for z in others)

    def _batch(
        self, data: TrainingSet, draw: int, augment: Augment, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of batch `draw`: network input (B, C, H, W), and labels (B, h, w).

        H and W are h and w, padded to what the networks take. first: what number the batch's
        first sample has among all samples of the draw.
        """
        recipe = self.recipe
        offset = self.rank * self.share
        batch = batch_indices(len(data.images), recipe.batch, draw, recipe.seed)
        chosen = batch[offset : offset + self.share]
        images, target = sample_batch(
            data, chosen, augment, recipe.seed, draw, first + offset
        )  # (B, C, h, w), (B, h, w)
        x = pad(normalise(images, self.preprocess))
        x = x.to(self.device, memory_format=torch.channels_last)
        return x, target.to(self.device)

    def _logits(self, net: Callable, x: Tensor, target: Tensor) -> list[Tensor]:
        """Of each head, the auxiliary one last: float32 (B, classes, h, w), as large as labels."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            outputs = net(x)  # of each head (B, classes, H', W')
        height, width = target.shape[-2:]
        return [resize(z.float(), x.shape[-2:])[..., :height, :width] for z in outputs]

    def _loss(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the heads' losses of one forward pass, and the first head's logits."""
        logits = self._logits(self.forward, x, target)

        # after the decode heads comes the auxiliary one
        losses = []
        for head, z in enumerate(logits):
            weight = 1.0 if head < len(self.state.joint.models) else self.recipe.aux_weight
            losses.append(weight * self.loss_of(z, target))
        return sum(losses), logits[0]

    def _update(self, step: int) -> None:
        """Let the optimiser change the weights, and the average follow them."""
        recipe = self.recipe
        state = self.state
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        state.scaler.unscale_(state.optimizer)
        if recipe.clip:
            nn.utils.clip_grad_norm_(list(state.joint.parameters()), recipe.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            decay = min(recipe.ema, (1 + step) / (10 + step))
            update_average(state.average, state.joint, decay)

    def row(self, done: int, checkpoint: Path) -> dict[str, float]:
        """What the log says of the steps since its last line (collective).

        Raises InputError where a loss or a weight is not finite; `checkpoint` is named then.
        """
        losses = ranks.total(torch.stack(self.losses)) / self.world
        refuse_nonfinite(losses, self.state.joint, done, self.recipe, self.data.names, checkpoint)
        losses = losses.cpu()
        dice = scores(ranks.total(self.counts))["dice"]
        row = {
            "train/loss": losses.mean().item(),
            "train/dice": float(np.nanmean(dice[1:])),  # of all classes but the first
            "lr": learning_rate(self.recipe, done - 1),
        }
        for phase, seconds in self.watch.read().items():
            row[f"seconds/{phase}"] = seconds / self.steps
        self.steps = 0
        self.losses.clear()
        self.counts.zero_()
        return row

    def evaluate(self, evaluate: Evaluate, done: int, run: Run | None) -> dict[str, float]:
        """Scores for the log (collective). `run`, of rank 0, receives the best and a picture."""
        state = self.state
        trained = self.networks()
        ranks.share_buffers(state.trained)
        measured, picture = evaluate(trained)
        self.watch.lap("evaluation")
        row = {f"validation/{name}": value for name, value in measured.items()}
        row["seconds/evaluation"] = self.watch.read()["evaluation"]

        better = math.isnan(state.best) or measured["score"] > state.best
        if better:
            state.best = measured["score"]
        if run and better:
            for name, model in trained.items():
                save_model(model, run.out / f"best-{name}.pt")
        if run and picture is not None:
            run.image(done, "validation", picture)
        return row

    def networks(self) -> dict[str, Segmenter]:
        """The trained networks, in eval mode, by name."""
        return dict(self.state.trained.eval().models.items())


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Of PyTorch's generators, by a run's seed, the step and the rank.

    A CPU's generator heeds the lower 32 bits alone, so the run's seed must be in them too.
    """
    low = seed * SEED_STRIDE + (step << 8) + rank
    return (seed << 32) + low % (1 << 32)


def run_config(
    models: dict[str, Segmenter],
    data: TrainingSet,
    augment: Augment,
    recipe: Recipe,
    precision: torch.dtype | None,
) -> dict:
    """Everything that a run depends on, by name: a resumed one must have the same."""
    config = asdict(recipe) | asdict(augment)
    for name, model in models.items():
        for key, value in model.arch.items():
            config[f"{name}.{key}"] = value
    for name, model in models.items():
        config[f"{name}.weights"] = getattr(model, "weights_sha256", None)
    config["data"] = data.fingerprint()
    config["precision"] = str(precision or torch.float32)
    return config


def share_of_batch(
    models: dict[str, Segmenter], data: TrainingSet, augment: Augment, recipe: Recipe, world: int
) -> int:
    """Images per rank and forward pass.

    Raises InputError for batches and sizes that the networks cannot take.
    """
    batch = recipe.batch
    if batch % world:
        raise InputError(
            f"batch {batch} does not divide over {world} ranks; choose a multiple of {world}"
        )
    share = batch // world
    pooling = [m.arch["head"] for m in models.values() if share < m.head.LEAST_BATCH]
    if pooling and not recipe.freeze_bn:
        raise InputError(
            f"batch {batch} gives a rank one image, which the {pooling[0]} head pools to one "
            "value without variance for batch norm; choose at least 2 images per rank, "
            "the fcn head or (in Python) Recipe(freeze_bn=True)"
        )
    if augment.on_fluid and data.fluid is None:
        raise InputError(
            "crops can be placed on fluid only where fluid is a class; leave on_fluid at 0"
        )
    check_teacher(data, recipe)
    check_fit(data, augment)
    return share


def refuse_nonfinite(
    losses: Tensor, net: nn.Module, done: int, recipe: Recipe, names: list[str], checkpoint: Path
) -> None:
    """Raise InputError when one of the last losses or a weight is NaN or infinite.

    losses: one per forward pass. An update can ruin the weights while its loss was finite, and
    they must not reach the checkpoint.
    """
    # one look at all of them: the device is waited for once
    tensors = [t.detach() for t in (*net.parameters(), *net.buffers())]
    norms = torch._foreach_norm([t for t in tensors if t.is_floating_point()])
    finite = torch.cat([losses, torch.stack(norms)]).isfinite().tolist()
    if all(finite):
        return

    # the first bad loss, or the last one where only weights are bad
    bad = min(finite.index(False), len(losses) - 1)
    if finite[bad]:
        fault = "the weights are not finite after"
    else:
        fault = f"loss is {losses[bad].item()} at"
    draw = done * recipe.accumulate - len(losses) + bad
    batch = batch_indices(len(names), recipe.batch, draw, recipe.seed)
    scans = ", ".join(names[i] for i in batch)
    kept = "no checkpoint yet"
    if checkpoint.exists():
        kept = f"the last good checkpoint is {checkpoint}"
    raise InputError(
        f"{fault} step {draw // recipe.accumulate + 1} (scans {scans}); {kept}; "
        "lower `lr`, clip the gradients or use `amp` off"
    )
