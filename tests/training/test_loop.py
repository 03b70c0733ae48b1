"""The training loop: against references written out here, across interruptions, over two ranks."""

import copy
import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_training import FULL, MOVING, discs, fit, networks, score, state
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import dme
import dme.training.loop
from dme.common import ranks
from dme.common.errors import InputError, run
from dme.common.files import SEAL
from dme.metrics import scores
from dme.nets.segmenter import normalise
from dme.ops.confusion import confusion_matrix
from dme.training.augment import batch_indices
from dme.training.joint import Joint
from dme.training.loop import Clock, in_words, share_of_batch
from dme.training.recipe import learning_rate
from dme.training.settings import Augment, Recipe

SCRIPT = Path(__file__).parents[1] / "helpers" / "tiny_training.py"


def rows(out: Path) -> list[dict]:
    """What metrics.jsonl says."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def results(out: Path) -> list[dict]:
    """All that metrics.jsonl says but for the seconds."""
    lines = rows(out)
    for row in lines:
        for name in list(row):
            if name.startswith(("seconds/", SEAL)):
                del row[name]
    return lines


def steps_with(lines: list[dict], name: str) -> list[int]:
    """The steps whose lines hold a value of that name."""
    return [row["step"] for row in lines if name in row]


def checkpoint(out: Path) -> dict:
    return torch.load(out / "last.pt", weights_only=True)


def tensorboard(out: Path) -> EventAccumulator:
    return EventAccumulator(str(out)).Reload()


def scalar_steps(out: Path, name: str) -> list[int]:
    """The steps at which TensorBoard has a value of that name."""
    return [event.step for event in tensorboard(out).Scalars(name)]


def files(out: Path) -> set[str]:
    """Names of the files, but those of TensorBoard."""
    names = {file.name for file in out.iterdir()}
    return {name for name in names if not name.startswith("events.")}


def column(out: Path, name: str) -> list:
    """One value of every line of metrics.jsonl."""
    return [row[name] for row in rows(out)]


def assert_close(value, expected, atol: float, name: str | None = None) -> None:
    torch.testing.assert_close(value, expected, rtol=0, atol=atol, msg=name)


def assert_same(ours: dict, theirs: dict, atol=0.0) -> None:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for name, value in ours.items():
        assert_close(value, theirs[name], atol, name)


def weights(models: dict) -> dict:
    """A copy of every tensor of the one network."""
    (model,) = models.values()
    return copy.deepcopy(model.state_dict())


def fit_two(out: Path, **settings) -> dict:
    """Joint training of two heads on moving scans."""
    return fit(out, networks("psp", "fcn"), augment=MOVING, **settings)


class Recorder:
    """An `evaluate` that keeps copies of the weights, and gives some scores, or 0."""

    def __init__(self, *scores: float):
        self.scores = scores
        self.weights = []

    def __call__(self, models: dict) -> tuple[dict, None]:
        score = 0.0
        if self.scores:
            score = self.scores[len(self.weights)]
        self.weights.append(weights(models))
        return {"score": score}, None


# The arithmetic of a step


def test_a_step_by_hand(tmp_path):
    data = discs(2)
    inputs = []
    model = networks(dropout=False)["fcn"]
    model.backbone.register_forward_pre_hook(lambda module, args: inputs.extend(args))
    fit(tmp_path, {"fcn": model}, data, iters=1, lr=0.1)
    kernel = model.backbone.encoder[1][0].conv.weight
    for tensor in (inputs[0], kernel):
        assert tensor.is_contiguous(memory_format=torch.channels_last)

    reference = networks(dropout=False)["fcn"].train()
    x = normalise(torch.stack(data.images), reference.preprocess)
    target = torch.stack(data.masks).long()
    decode, auxiliary = reference.forward_with_aux(x)
    decode = F.interpolate(decode, (48, 48), mode="bilinear")
    auxiliary = F.interpolate(auxiliary, (48, 48), mode="bilinear")
    main = F.cross_entropy(decode, target)
    aux = F.cross_entropy(auxiliary, target)
    loss = main + 0.4 * aux
    loss.backward()
    trained = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        expected = parameter - 0.1 * parameter.grad
        assert_close(trained[name], expected, 1e-5, name)
    (row,) = rows(tmp_path)
    assert row["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    counts = confusion_matrix(decode, target, 2)
    dice = scores(counts)["dice"][1]
    assert row["train/dice"] == pytest.approx(dice)


def assert_results_close(first: Path, second: Path, **tolerance: float) -> None:
    for ours, theirs in zip(results(first), results(second), strict=True):
        assert ours == pytest.approx(theirs, **tolerance)


def test_two_batches_of_one_equal_one_of_two(tmp_path):
    def trained(name: str, **recipe) -> dict:
        models = networks("psp", dropout=False)
        return weights(fit(tmp_path / name, models, freeze_bn=True, **recipe))

    half = trained("half", batch=1, accumulate=2)
    whole = trained("whole", batch=2)
    assert_same(half, whole, atol=1e-6)
    assert_results_close(tmp_path / "half", tmp_path / "whole", abs=1e-5)


def flat(model) -> torch.Tensor:
    """A copy of all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_clipping(tmp_path):
    def moved(**recipe) -> float:
        models = networks(dropout=False)
        before = flat(models["fcn"])
        fit(tmp_path, models, iters=1, lr=0.5, **recipe)
        after = flat(models["fcn"])
        return (after - before).norm().item()

    free = moved()
    gradient = free / 0.5
    assert moved(clip=gradient / 4) == pytest.approx(free / 4, rel=1e-4)
    assert moved(clip=gradient * 4) == pytest.approx(free, rel=1e-4)


def test_moving_average(tmp_path):
    """Evaluated, saved and returned is the average of the weights plain training goes through."""
    path = Recorder()
    fit(tmp_path / "plain", evaluate=path, iters=12, eval_every=1)
    seen = Recorder()
    recipe = dict(iters=12, ema=0.5, eval_every=12)
    averaged = fit(tmp_path / "ema", evaluate=seen, **recipe)
    expected = weights(networks())
    for step, now in enumerate(path.weights):
        decay = min(0.5, (1 + step) / (10 + step))  # rises, so that the start is soon forgotten
        for name, value in now.items():
            mixed = decay * expected[name] + (1 - decay) * value
            expected[name] = mixed if value.is_floating_point() else value
    assert_same(weights(averaged), expected, atol=1e-6)
    assert_same(seen.weights[0], expected, atol=1e-6)
    best = dme.load_model(tmp_path / "ema" / "best-fcn.pt")
    name = "head.classifier.weight"
    assert_close(best.state_dict()[name], expected[name], 1e-6)

    # training itself goes on with the plain weights
    current = state(tmp_path / "ema")
    for name in list(current):
        if name.startswith("average"):
            del current[name]
    assert_same(state(tmp_path / "plain"), current)


def test_frozen_batch_norm(tmp_path):
    models = networks()
    before = weights(models)
    trained = weights(fit(tmp_path, models, freeze_bn=True))
    statistics = [name for name in before if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(trained[name], before[name])
    learnt = "backbone.encoder.0.0.bn.weight"
    assert not torch.equal(trained[learnt], before[learnt])


@pytest.mark.parametrize(
    ("amp", "dtype", "tolerance"),
    [
        ("bf16", torch.bfloat16, 0.02),
        ("fp16", torch.float16, 0.004),
    ],
)
def test_low_precision_is_close_to_float32(tmp_path, amp, dtype, tolerance):
    dtypes = []

    def record(module, arguments, logits):
        dtypes.append(logits.dtype)

    for precision in ("off", amp):
        models = networks(width=4, dropout=False)
        models["fcn"].head.classifier.register_forward_hook(record)
        recipe = dict(iters=12, amp=precision, ema=0.5, clip=1.0)
        fit(tmp_path / precision, models, **recipe)
    assert dtypes[0] is torch.float32
    assert dtypes[-1] is dtype
    ours = column(tmp_path / amp, "train/loss")
    theirs = column(tmp_path / "off", "train/loss")
    assert ours == pytest.approx(theirs, rel=tolerance)
    assert ours != theirs
    for value in state(tmp_path / amp).values():
        assert value.dtype is not dtype


def test_the_gradient_scaler_is_resumed(tmp_path):
    def interrupt(models):
        raise KeyboardInterrupt

    recipe = dict(iters=4, save_every=2, amp="fp16")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, evaluate=interrupt, **recipe)
    fit(tmp_path, resume=True, **recipe)
    assert checkpoint(tmp_path)["scaler"]["_growth_tracker"] == 4


@pytest.mark.slow
def test_compiled_training_is_that_of_eager_mode(tmp_path):
    for name in ("eager", "compiled"):
        models = networks("psp", dropout=False)
        recipe = dict(iters=5, eval_every=1, compile=name == "compiled")
        fit(tmp_path / name, models, **recipe)
    assert column(tmp_path / "compiled", "step") == [1, 2, 3, 4, 5]
    for key in ("train/loss", "validation/score"):
        ours = column(tmp_path / "compiled", key)
        theirs = column(tmp_path / "eager", key)
        assert ours == pytest.approx(theirs, rel=1e-5), key


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_gpu_is_close_to_the_cpu(tmp_path, amp, monkeypatch):
    def losses(name: str, **recipe) -> list[float]:
        models = networks(width=4, dropout=False)
        fit(tmp_path / name, models, iters=20, **recipe)
        return column(tmp_path / name, "train/loss")

    ours = losses("gpu", amp=amp)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ours == pytest.approx(losses("cpu", amp="off"), rel=0.02)


class Readings(TorchDispatchMode):
    """Counts what gives the host a value or shape that depends on data: it waits for a GPU."""

    OPERATORS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "is_nonzero",
        "equal",
    )

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        packet = operator.overloadpacket
        indexing = packet._qualified_op_name.startswith("aten::index")
        masked = indexing and any(map(self.holds_mask, args))
        self.count += masked or packet.__name__ in self.OPERATORS
        return operator(*args, **(kwargs or {}))

    @staticmethod
    def holds_mask(argument) -> bool:
        """Whether it is a list of indices of which one is a mask: their number depends on it."""
        if not isinstance(argument, list | tuple):
            return False
        types = [t.dtype for t in argument if isinstance(t, torch.Tensor)]
        return torch.bool in types or torch.uint8 in types


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        ("sgd", "ce"),
        ("adam", "dice"),
        ("adamw", "ce+dice"),
        ("sgd", "focal"),
        ("sgd", "iou"),
    ],
)
def test_no_step_makes_the_host_wait(tmp_path, monkeypatch, optimizer, loss):
    # drawing the batch is left to test_augment.py, counting pixels to the GPU's kernel
    data = discs()
    batch = dme.training.loop.sample_batch(data, [0, 1], Augment(), 0, 0)
    counts = torch.ones(2, 2, dtype=torch.int64)
    monkeypatch.setattr(dme.training.loop, "sample_batch", lambda *_: batch)
    monkeypatch.setattr(dme.training.loop, "confusion_matrix", lambda *_: counts)
    settings = dict(optimizer=optimizer, loss=loss)
    settings |= dict(ema=0.9, clip=1.0, accumulate=2)

    def readings(steps: int) -> int:
        with Readings() as watched:
            fit(tmp_path / "run", iters=steps, **settings)
        return watched.count

    few = readings(3)
    assert few > 0  # at the end of the run the host looks at everything
    assert readings(8) == few

    get_loss = dme.training.loop.get_loss

    def get_waiting_loss(name):
        loss_of = get_loss(name)

        def waiting(logits, target):
            value = loss_of(logits, target)
            return value * float(value > 0)

        return waiting

    monkeypatch.setattr(dme.training.loop, "get_loss", get_waiting_loss)
    assert readings(8) - readings(3) == 5 * 2 * 2  # steps, parts of a batch, heads


@pytest.mark.gpu
def test_no_step_makes_the_host_wait_for_a_gpu(tmp_path, monkeypatch):
    scans = discs()
    scans.images = [image.cuda() for image in scans.images]
    scans.masks = [mask.cuda() for mask in scans.masks]
    sample = dme.training.loop.sample_batch
    look = dme.training.loop.refuse_nonfinite
    drawn = []

    def from_the_second_step_on(*arguments):  # the first one allocates and compiles
        drawn.append(arguments)
        if len(drawn) == 2:
            torch.cuda.set_sync_debug_mode("error")
        return sample(*arguments)

    def until_the_end(*arguments):
        torch.cuda.set_sync_debug_mode("default")
        look(*arguments)

    monkeypatch.setattr(dme.training.loop, "sample_batch", from_the_second_step_on)
    monkeypatch.setattr(dme.training.loop, "refuse_nonfinite", until_the_end)
    recipe = dict(iters=5, amp="bf16", ema=0.9, clip=1.0)
    try:
        fit(tmp_path, data=scans, augment=MOVING, **recipe)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(drawn) == 5


def test_fits_two_scans(tmp_path):
    data = discs(2, side=64)
    images = torch.stack(data.images)
    masks = torch.stack(data.masks)

    def fluid_dice(models: dict) -> tuple[dict, None]:
        model = models["psp"]
        with torch.inference_mode():
            logits = model(normalise(images, model.preprocess))
        counts = confusion_matrix(logits, masks, 2)
        return {"score": scores(counts)["dice"][1]}, None

    models = networks("psp", width=4)
    recipe = dict(iters=40, loss="ce+dice", optimizer="adamw", lr=0.01)
    fit(tmp_path, models, data, evaluate=fluid_dice, **recipe)
    first, *_, last = rows(tmp_path)
    assert last["validation/score"] > 0.95
    assert last["train/loss"] < 0.5 * first["train/loss"]


# What a run leaves behind


def test_run_folder(tmp_path):
    recipe = dict(iters=12, eval_every=5, save_every=4)
    recipe |= dict(schedule="poly", warmup=6, horizon=20)
    trained = fit_two(tmp_path, **recipe)
    assert files(tmp_path) == {
        "config.json",
        "metrics.jsonl",
        "last.pt",
        "best-psp.pt",
        "best-fcn.pt",
        "loss.png",
    }

    config = json.loads((tmp_path / "config.json").read_text())
    settings = config["config"]
    assert settings["warmup"] == 6
    assert settings["crop"] == 32
    assert settings["psp.width"] == 2
    assert settings["precision"] == "torch.float32"
    assert config["versions"]["torch"] == torch.__version__
    assert config["commit"]
    assert config["command"]

    lines = rows(tmp_path)
    assert column(tmp_path, "step") == [4, 5, 8, 10, 12]
    assert steps_with(lines, "validation/score") == [5, 10, 12]
    phases = {"data", "forward", "backward", "optimiser"}
    for row in lines:
        expected = set(phases)
        if "validation/score" in row:
            expected.add("evaluation")
        timed = [name for name in row if name.startswith("seconds/")]
        assert {name.removeprefix("seconds/") for name in timed} == expected
        rate = learning_rate(Recipe(**recipe), row["step"] - 1)
        assert row["lr"] == rate

    events = tensorboard(tmp_path)
    for name in ("train/loss", "validation/score"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(row["step"], row[name]) for row in lines if name in row]
        assert np.array(points) == pytest.approx(np.array(expected))

    assert checkpoint(tmp_path)["step"] == 12
    for name, model in trained.items():
        assert dme.load_model(tmp_path / f"best-{name}.pt").arch == model.arch
    assert Image.open(tmp_path / "loss.png").size == (800, 480)


def test_best_is_kept(tmp_path):
    recorder = Recorder(math.nan, 0.2, math.nan, 0.7, 0.7, 0.3)
    last = fit(tmp_path, evaluate=recorder, iters=6, eval_every=1)
    best = dme.load_model(tmp_path / "best-fcn.pt").state_dict()
    fourth = recorder.weights[3]
    for name in list(fourth):
        if "num_batches" in name:
            del fourth[name], best[name]
    assert_same(best, fourth)
    assert_same(weights(last), recorder.weights[5])
    logged = column(tmp_path, "validation/score")
    assert logged == [None, 0.2, None, 0.7, 0.7, 0.3]


def test_a_picture_is_shown(tmp_path):
    picture = np.arange(0, 4 * 5 * 3 * 4, 4, dtype=np.uint8)
    picture = picture.reshape(4, 5, 3)
    fit(tmp_path, evaluate=lambda models: ({"score": 1.0}, picture))
    (event,) = tensorboard(tmp_path).Images("validation")
    assert event.step == 3
    assert event.width == 5
    assert event.height == 4


# Interruptions


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    fit_two(out, **FULL)
    return out


def assert_continued(out: Path, uninterrupted: Path) -> None:
    fit_two(out, resume=True, **FULL)
    assert_same(state(out), state(uninterrupted))
    assert results(out) == results(uninterrupted)
    for name in ("best-psp.pt", "best-fcn.pt"):
        expected = (uninterrupted / name).read_bytes()
        assert (out / name).read_bytes() == expected
    assert not list(out.glob(".*"))  # no half-written file
    lines = rows(uninterrupted)
    for name in ("train/loss", "validation/score"):
        assert scalar_steps(out, name) == steps_with(lines, name)


def test_resume_after_ctrl_c(tmp_path, uninterrupted):
    metrics = tmp_path / "metrics.jsonl"

    def until_step_8(models):
        if len(rows(tmp_path)) < 2:
            return score(models)
        with metrics.open("a") as file:  # as a kill may leave it
            file.write('{"step": 7, "tra')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_two(tmp_path, evaluate=until_step_8, **FULL)
    assert checkpoint(tmp_path)["step"] == 5
    assert_continued(tmp_path, uninterrupted)


def run_script(*arguments) -> int:
    """The exit code of `python ARGUMENTS`."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment(), timeout=300).returncode


def test_resume_after_kill_9(tmp_path, uninterrupted):
    code = run_script(SCRIPT, "killed", tmp_path)
    assert code == -signal.SIGKILL
    assert column(tmp_path, "step") == [4, 5, 8, 10]
    (half,) = tmp_path.glob(".last.pt.*.part")
    assert half.read_bytes() == b"PK half a checkpoint"
    assert checkpoint(tmp_path)["step"] == 5
    # TensorBoard reads event files in the order of their second, then of their process
    time.sleep(1)
    assert_continued(tmp_path, uninterrupted)


class FullDisk:
    """A file with room for `left` bytes."""

    def __init__(self, file, left: int):
        self.file = file
        self.left = left
        self.name = file.name

    def write(self, data) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


# torch.save fails differently once it has written something
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("last.pt", 50_000),
        ("best-psp.pt", 50_000),
        ("best-psp.pt", 0),
    ],
)
def test_resume_after_a_full_disk(tmp_path, uninterrupted, monkeypatch, capsys, name, left):
    save = torch.save

    def fill(content, f):
        full = name in f.name and (tmp_path / "last.pt").exists()
        save(content, FullDisk(f, left) if full else f)

    def rising(models):  # so that best-psp.pt is written at every evaluation
        return {"score": float(len(rows(tmp_path)))}, None

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(SystemExit) as stopped:
        run(lambda: fit_two(tmp_path, evaluate=rising, **FULL))
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: cannot write")
    assert "No space left on device; free the disk" in message
    assert checkpoint(tmp_path)["step"] == 5
    monkeypatch.undo()
    fit_two(tmp_path, resume=True, **FULL)
    assert_same(state(tmp_path), state(uninterrupted))


def test_resume_of_a_finished_run(tmp_path):
    once = weights(fit(tmp_path))
    again = weights(fit(tmp_path, evaluate=None, resume=True))
    assert_same(once, again)
    assert column(tmp_path, "step") == [3]


def test_without_resume_an_older_run_is_kept_beside_the_new_one(tmp_path, capsys):
    fit(tmp_path, iters=12)
    before = (tmp_path / "last.pt").read_bytes()
    best = (tmp_path / "best-fcn.pt").read_bytes()
    fit(tmp_path, iters=2)
    message = f"what an older run left in {tmp_path} is kept in {tmp_path / 'older-1'}"
    assert message in capsys.readouterr().out
    assert column(tmp_path, "step") == [2]
    assert scalar_steps(tmp_path, "lr") == [2]
    older = tmp_path / "older-1"
    assert column(older, "step") == [10, 12]
    assert (older / "last.pt").read_bytes() == before
    assert (older / "best-fcn.pt").read_bytes() == best

    with pytest.raises(InputError, match="no checkpoint yet"):
        fit(tmp_path, iters=2, lr=1e30)
    assert checkpoint(tmp_path / "older-2")["step"] == 2


def test_resume_without_a_checkpoint_starts_over(tmp_path, capsys):
    whole = weights(fit(tmp_path / "whole"))
    never_begun = fit(tmp_path / "new", resume=True)
    assert f"no checkpoint in {tmp_path / 'new'} yet: starting over" in capsys.readouterr().out
    assert_same(weights(never_begun), whole)

    def killed(models):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", evaluate=killed)
    assert not (tmp_path / "killed" / "last.pt").exists()
    again = fit(tmp_path / "killed", resume=True)
    assert "starting over" in capsys.readouterr().out
    assert_same(weights(again), whole)
    assert column(tmp_path / "killed", "step") == [3]


@pytest.mark.parametrize("stop", [2, 7, 11])
def test_a_checkpoint_between_two_lines_of_the_log_changes_nothing(
    tmp_path, uninterrupted, monkeypatch, stop
):
    """As if every step took a minute: saved after each, stopped within one."""
    monkeypatch.setattr(dme.training.loop, "SAVE_SECONDS", 0)
    sample = dme.training.loop.sample_batch
    drawn = []

    def stopping(*arguments):
        drawn.append(1)
        if len(drawn) == FULL["accumulate"] * stop + 2:
            raise KeyboardInterrupt
        return sample(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(dme.training.loop, "sample_batch", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit_two(tmp_path, **FULL)
    assert checkpoint(tmp_path)["step"] == stop
    assert_continued(tmp_path, uninterrupted)


def test_a_checkpoint_between_two_lines_holds_only_finite_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(dme.training.loop, "SAVE_SECONDS", 0)
    with pytest.raises(InputError, match=r"weights are not finite after|loss is"):
        fit(tmp_path, iters=9, lr=1e30)
    if (tmp_path / "last.pt").exists():
        for value in state(tmp_path).values():
            assert value.isfinite().all()


def test_the_clock_saves_every_minute_and_says_once_how_long_it_takes(capsys):
    times = [100.0]
    clock = Clock(20, 420, now=lambda: times[-1])
    saved = [100.0]
    for done in range(21, 421):
        seconds = 30 if done == 21 else 6  # the first step takes longer
        times.append(times[-1] + seconds)
        clock.tick(done)
        if clock.save_due():
            clock.saved()
            saved.append(times[-1])
        clock.announce(done)
    printed = capsys.readouterr().out
    assert printed == "expected: about 39 minutes for 390 more steps of 6 s, then scores\n"
    for earlier, later in itertools.pairwise(saved):
        assert later - earlier <= 60


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 seconds"),
        (99, "99 seconds"),
        (720, "12 minutes"),
        (12600, "3.5 hours"),
    ],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == f"about {words}"


def test_resume_refuses_other_settings(tmp_path):
    settings = dict(augment=MOVING, iters=2)
    fit(tmp_path, **settings)
    before = (tmp_path / "last.pt").read_bytes()
    still = Augment(crop=32)
    other_networks = networks("psp")
    wider = networks(width=4)
    other_scans = discs(seed=1)
    refused = (
        (dict(iters=3), r"\(iters 2 -> 3\)"),
        (dict(lr=0.5, seed=7), r"\(lr 0.01 -> 0.5, seed 0 -> 7\)"),
        (dict(augment=still), r"\(flip True -> False, rotate 20 -> 0.0, "),
        (dict(models=wider), r"\(fcn.width 2 -> 4\)"),
        (dict(models=other_networks), r"psp.width None -> 2.*fcn.width 2 -> None"),
        (dict(data=other_scans), r"\(data 3 scans, crc32 \w{8} -> 3 scans, crc32 \w{8}\)"),
    )
    for change, difference in refused:
        message = f"made with other settings .*{difference}.*resume with the same or"
        with pytest.raises(InputError, match=message):
            fit(tmp_path, resume=True, **settings | change)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_resume_of_a_run_from_before_some_settings(tmp_path):
    """What its settings lack did nothing then, and must not do anything now."""
    whole = weights(fit(tmp_path, augment=MOVING, iters=2))
    saved = checkpoint(tmp_path)
    assert saved["config"].pop("unlabelled_weight") == 1
    torch.save(saved, tmp_path / "last.pt")
    again = weights(fit(tmp_path, augment=MOVING, iters=2, resume=True))
    assert all(torch.equal(again[name], value) for name, value in whole.items())

    # whatever else differs is refused
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"\(noise 0.1 -> 1.0\)"):
        fit(tmp_path, augment=replace(MOVING, noise=1.0), iters=2, resume=True)
    del saved["config"]["lr"]
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"\(lr None -> 0.01\)"):
        fit(tmp_path, augment=MOVING, iters=2, resume=True)


def test_resume_refuses_a_damaged_checkpoint(tmp_path):
    fit(tmp_path)
    whole = (tmp_path / "last.pt").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    best = (tmp_path / "best-fcn.pt").read_bytes()
    contents = [bytes(flipped), whole[:-100], whole[:1000]]
    contents += [b"", b"no checkpoint", best]
    for damaged in contents:
        (tmp_path / "last.pt").write_bytes(damaged)
        message = r"last\.pt is damaged or no training checkpoint"
        with pytest.raises(InputError, match=message) as refused:
            fit(tmp_path, resume=True)
        assert "\n" not in str(refused.value)


def test_resume_refuses_what_another_version_wrote(tmp_path):
    fit(tmp_path)
    changes = (("model", None), ("model", {}), ("optimizer", {}), ("best", "gone"))
    for part, content in changes:
        saved = checkpoint(tmp_path)
        saved[part] = content
        if content == "gone":
            del saved[part]
        torch.save(saved, tmp_path / "last.pt")
        message = r"last\.pt holds another network or was written by another ver"
        with pytest.raises(InputError, match=message):
            fit(tmp_path, resume=True)
        fit(tmp_path)


# Bad luck and bad input


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, accumulate):
    forward = []
    sampled = []
    sample = dme.training.loop.sample_batch
    get_loss = dme.training.loop.get_loss

    def spy(data, chosen, *rest):
        sampled.append(chosen)
        return sample(data, chosen, *rest)

    def poisoned(logits, target):
        forward.append(1)
        loss = get_loss("ce")(logits, target)
        if len(forward) == 2 * 13 * accumulate:  # a head and the auxiliary one at every pass
            loss = loss * math.nan
        return loss

    monkeypatch.setattr(dme.training.loop, "sample_batch", spy)
    monkeypatch.setattr(dme.training.loop, "get_loss", lambda spec: poisoned)
    recipe = dict(iters=14, save_every=10, accumulate=accumulate)
    with pytest.raises(InputError) as stopped:
        fit(tmp_path, data=discs(5), **recipe)
    message = str(stopped.value)
    last_batch = sampled[13 * accumulate - 1]
    scans = ", ".join(f"scan{i}" for i in last_batch)
    assert message.startswith(f"loss is nan at step 13 (scans {scans}); ")
    assert f"last good checkpoint is {tmp_path / 'last.pt'}; lower `lr`" in message
    assert checkpoint(tmp_path)["step"] == 10
    for value in state(tmp_path).values():
        assert value.isfinite().all()
    monkeypatch.undo()
    fit(tmp_path, data=discs(5), resume=True, **recipe)


def test_weights_that_are_not_finite_do_not_reach_the_checkpoint(tmp_path):
    models = networks()
    calls = []

    def overflow(gradient):
        calls.append(1)
        if len(calls) == 10:
            gradient = gradient * math.inf
        return gradient

    first = models["fcn"].backbone.encoder[0][0]
    first.conv.weight.register_hook(overflow)
    message = r"the weights are not finite after step 10 \(scans scan\d, scan\d\)"
    with pytest.raises(InputError, match=message):
        fit(tmp_path, models, iters=20, save_every=5)
    assert checkpoint(tmp_path)["step"] == 5


def test_bad_input(tmp_path):
    message = "batch 1 gives a rank one image, which the psp head pools to one value"
    with pytest.raises(InputError, match=message):
        fit(tmp_path, networks("fcn", "psp"), batch=1)
    assert not list(tmp_path.iterdir())


def test_scans_that_16_does_not_divide_are_padded_and_the_loss_sees_only_them(tmp_path):
    data = discs(2, side=42)
    models = networks("fcn", dropout=False)
    fit(tmp_path, models, data, iters=1, batch=2, eval_every=0)
    logged = rows(tmp_path)[0]["train/loss"]

    model = networks("fcn", dropout=False)["fcn"].train()
    order = batch_indices(2, 2, 0, 0)
    images = torch.stack(data.images)[order]
    target = torch.stack(data.masks)[order].long()
    x = normalise(images, model.preprocess)
    padded = F.pad(x, (0, 6, 0, 6), mode="replicate")
    logits, auxiliary = model.forward_with_aux(padded)
    auxiliary = F.interpolate(auxiliary, (48, 48), mode="bilinear")

    def entropy(logits):
        scan = logits[..., :42, :42]
        return F.cross_entropy(scan, target)

    loss = entropy(logits) + 0.4 * entropy(auxiliary)
    assert logged == pytest.approx(loss.item(), rel=1e-5)


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_dropout_follows_the_seed_of_the_run(tmp_path):
    """One scan, nothing drawn but dropout: it alone can make two seeds differ."""

    def trained(seed: int, dropout: bool) -> torch.Tensor:
        models = networks(dropout=dropout)
        fit(tmp_path / f"{seed}{dropout}", models, discs(1), batch=1, iters=1, seed=seed)
        return models["fcn"].head.classifier.weight.detach()

    assert torch.equal(trained(0, dropout=False), trained(1, dropout=False))
    assert not torch.equal(trained(0, dropout=True), trained(1, dropout=True))
    assert torch.equal(trained(1, dropout=True), trained(1, dropout=True))


def test_what_cannot_be_trained_leaves_an_older_run_alone(tmp_path):
    fit(tmp_path)
    before = contents(tmp_path)
    assert "last.pt" in before
    message = "crop 64 is larger than every scan, of at most 48 x 48 pixels: choose a smaller"
    with pytest.raises(InputError, match=message):
        fit(tmp_path, augment=Augment(crop=64))
    with pytest.raises(InputError, match="colour augmentation needs RGB images"):
        fit(tmp_path, augment=Augment(colour=True))
    assert contents(tmp_path) == before


def test_joint_networks_share_their_backbone():
    Joint(networks("psp", "fcn"))
    first = networks()["fcn"]
    second = networks()["fcn"]
    with pytest.raises(ValueError, match="must share one backbone and one auxiliary head"):
        Joint({"a": first, "b": second})
    other = networks("psp", "fcn")
    other["fcn"].aux_head = None
    with pytest.raises(ValueError, match="must share one backbone and one auxiliary head"):
        Joint(other)


# Several ranks


def environment() -> dict[str, str]:
    root = SCRIPT.parents[2]
    return {
        **os.environ,
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


@pytest.mark.slow
def test_two_ranks(tmp_path):
    one = tmp_path / "1"
    two = tmp_path / "2"
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert run_script(SCRIPT, "ranks", one) == 0
    assert run_script(*launch, SCRIPT, "ranks", two) == 0

    # without batch statistics and dropout they do what one rank does, and rank 0 alone writes
    assert_same(state(two / "alike"), state(one / "alike"), atol=1e-6)
    assert_results_close(two / "alike", one / "alike", rel=1e-5)
    assert files(two / "alike") == files(one / "alike")
    events = list((two / "alike").glob("events.*"))
    assert len(events) == 1

    # with them, both ranks evaluate the network that is saved
    for name in ("average", "statistics", "unlabelled"):
        last = rows(two / name)[-1]
        assert last["validation/score"] == 0

    # what goes wrong on rank 1 stops both
    message = (two / "0.txt").read_text()
    assert (two / "1.txt").read_text() == message
    assert message.startswith("loss is nan at step 1 (scans ")


def test_ranks_must_fit_batch_and_machine(monkeypatch):
    def share(models, batch: int) -> int:
        recipe = Recipe(iters=1, batch=batch)
        return share_of_batch(models, discs(), Augment(), recipe, world=3)

    message = "batch 4 does not divide over 3 ranks; choose a multiple of 3"
    with pytest.raises(InputError, match=message):
        share(networks(), 4)
    assert share(networks("psp"), 6) == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    message = "2 or more ranks on a machine with 1 GPU; start one per GPU"
    with pytest.raises(InputError, match=message):
        ranks.join()
