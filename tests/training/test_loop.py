"""The training loop: against references written out here, across interruptions, over two ranks."""

import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def results(out: Path) -> list[dict]:
    """All that metrics.jsonl says but for the seconds."""
    lines = []
    for row in rows(out):
        lines.append({k: v for k, v in row.items() if not k.startswith("seconds/")})
    return lines


def column(out: Path, name: str) -> list:
    """One value of every line of metrics.jsonl."""
    return [row[name] for row in rows(out)]


def assert_same(ours: dict, theirs: dict, atol: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=atol, msg=name)


def weights(models: dict) -> dict:
    """A copy of every tensor of the one network."""
    (model,) = models.values()
    return {name: value.clone() for name, value in model.state_dict().items()}


class Recorder:
    """An `evaluate` that keeps copies of the weights, and gives the scores it was told."""

    def __init__(self, *told: float):
        self.told = list(told)
        self.weights = []

    def __call__(self, models: dict) -> tuple[dict, None]:
        self.weights.append(weights(models))
        return {"score": self.told[len(self.weights) - 1] if self.told else 0.0}, None


# The arithmetic of a step


def test_a_step_by_hand(tmp_path):
    data = discs(2)
    layout = []
    model = networks(dropout=False)["fcn"]
    model.backbone.register_forward_pre_hook(lambda module, args: layout.append(args[0]))
    fit(tmp_path, {"fcn": model}, data, iters=1, lr=0.1)
    assert layout[0].is_contiguous(memory_format=torch.channels_last)
    assert model.backbone.encoder[1][0].conv.weight.is_contiguous(
        memory_format=torch.channels_last
    )

    reference = networks(dropout=False)["fcn"].train()
    x = normalise(torch.stack(data.images), reference.preprocess)
    target = torch.stack(data.masks).long()
    decode, auxiliary = reference.forward_with_aux(x)
    decode = F.interpolate(decode, (48, 48), mode="bilinear")
    auxiliary = F.interpolate(auxiliary, (48, 48), mode="bilinear")
    main = F.cross_entropy(decode, target)
    aux = F.cross_entropy(auxiliary, target)
    (main + 0.4 * aux).backward()
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=0, atol=1e-5, msg=name)
    (row,) = rows(tmp_path)
    assert row["train/loss"] == pytest.approx((main + 0.4 * aux).item(), rel=1e-5)
    assert row["train/dice"] == pytest.approx(
        scores(confusion_matrix(decode, target, 2))["dice"][1]
    )


def test_two_batches_of_one_equal_one_of_two(tmp_path):
    half = fit(
        tmp_path / "1", networks("psp", dropout=False), batch=1, accumulate=2, freeze_bn=True
    )
    whole = fit(tmp_path / "2", networks("psp", dropout=False), batch=2, freeze_bn=True)
    assert_same(weights(half), weights(whole), atol=1e-6)
    for ours, theirs in zip(results(tmp_path / "1"), results(tmp_path / "2"), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_clipping(tmp_path):
    def moved(**recipe) -> float:
        models = networks(dropout=False)
        before = [p.detach().clone() for p in models["fcn"].parameters()]
        fit(tmp_path, models, iters=1, lr=0.5, **recipe)
        moves = [
            p.detach() - old for p, old in zip(models["fcn"].parameters(), before, strict=True)
        ]
        return math.sqrt(sum(move.square().sum().item() for move in moves))

    free = moved()
    assert moved(clip=free / 0.5 / 4) == pytest.approx(free / 4, rel=1e-4)
    assert moved(clip=free / 0.5 * 4) == pytest.approx(free, rel=1e-4)


def test_moving_average(tmp_path):
    """Evaluated, saved and returned is the average of the weights plain training goes through."""
    path = Recorder()
    fit(tmp_path / "plain", evaluate=path, iters=12, eval_every=1)
    seen = Recorder()
    averaged = fit(tmp_path / "ema", evaluate=seen, iters=12, ema=0.5, eval_every=12)
    expected = weights(networks())
    for step, now in enumerate(path.weights):
        decay = min(0.5, (1 + step) / (10 + step))  # rises, so that the start is soon forgotten
        for name, value in now.items():
            mixed = decay * expected[name] + (1 - decay) * value
            expected[name] = mixed if value.is_floating_point() else value
    assert_same(weights(averaged), expected, atol=1e-6)
    assert_same(seen.weights[0], expected, atol=1e-6)
    best = dme.load_model(tmp_path / "ema" / "best-fcn.pt").state_dict()
    torch.testing.assert_close(
        best["head.classifier.weight"], expected["head.classifier.weight"], rtol=0, atol=1e-6
    )
    theirs = state(tmp_path / "ema")  # training itself goes on with the plain weights
    assert_same(
        state(tmp_path / "plain"), {k: v for k, v in theirs.items() if not k.startswith("average")}
    )


def test_frozen_batch_norm(tmp_path):
    models = networks()
    before = weights(models)
    trained = weights(fit(tmp_path, models, freeze_bn=True))
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(trained[name], before[name]) for name in statistics)
    assert not torch.equal(
        trained["backbone.encoder.0.0.bn.weight"], before["backbone.encoder.0.0.bn.weight"]
    )


@pytest.mark.parametrize(("amp", "tolerance"), [("bf16", 0.02), ("fp16", 0.004)])
def test_low_precision_is_close_to_float32(tmp_path, amp, tolerance):
    dtypes = []
    for precision in ("off", amp):
        models = networks(width=4, dropout=False)
        models["fcn"].head.classifier.register_forward_hook(
            lambda m, args, y: dtypes.append(y.dtype)
        )
        fit(tmp_path / precision, models, iters=12, amp=precision, ema=0.5, clip=1.0)
    assert dtypes[0] is torch.float32
    assert dtypes[-1] is {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    ours = column(tmp_path / amp, "train/loss")
    theirs = column(tmp_path / "off", "train/loss")
    assert ours == pytest.approx(theirs, rel=tolerance)
    assert ours != theirs
    assert all(value.dtype is not dtypes[-1] for value in state(tmp_path / amp).values())


def test_the_gradient_scaler_is_resumed(tmp_path):
    def interrupt(models):
        raise KeyboardInterrupt

    recipe = dict(iters=4, save_every=2, amp="fp16")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, evaluate=interrupt, **recipe)
    fit(tmp_path, resume=True, **recipe)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["scaler"]["_growth_tracker"] == 4


@pytest.mark.slow
def test_compiled_training_is_that_of_eager_mode(tmp_path):
    for name, compiled in (("eager", False), ("compiled", True)):
        models = networks("psp", dropout=False)
        fit(tmp_path / name, models, iters=5, eval_every=1, compile=compiled)
    assert column(tmp_path / "compiled", "step") == [1, 2, 3, 4, 5]
    for key in ("train/loss", "validation/score"):
        ours = column(tmp_path / "compiled", key)
        theirs = column(tmp_path / "eager", key)
        assert ours == pytest.approx(theirs, rel=1e-5), key


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_gpu_is_close_to_the_cpu(tmp_path, amp, monkeypatch):
    def losses(name: str, **recipe) -> list[float]:
        fit(tmp_path / name, networks(width=4, dropout=False), iters=20, **recipe)
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
    [("sgd", "ce"), ("adam", "dice"), ("adamw", "ce+dice"), ("sgd", "focal"), ("sgd", "iou")],
)
def test_no_step_makes_the_host_wait(tmp_path, monkeypatch, optimizer, loss):
    # drawing the batch is left to test_augment.py, counting pixels to the GPU's kernel
    batch = dme.training.loop.sample_batch(discs(), [0, 1], Augment(), 0, 0)
    monkeypatch.setattr(dme.training.loop, "sample_batch", lambda *_: batch)
    monkeypatch.setattr(
        dme.training.loop, "confusion_matrix", lambda *_: torch.ones(2, 2, dtype=torch.int64)
    )

    def readings(steps: int, **recipe) -> int:
        settings = dict(optimizer=optimizer, loss=loss, ema=0.9, clip=1.0, accumulate=2)
        with Readings() as found:
            fit(tmp_path / "run", iters=steps, **settings, **recipe)
        return found.count

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
    try:
        fit(tmp_path, data=scans, augment=MOVING, iters=5, amp="bf16", ema=0.9, clip=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(drawn) == 5


def test_fits_two_scans(tmp_path):
    data = discs(2, side=64)

    def fluid_dice(models: dict) -> tuple[dict, None]:
        with torch.inference_mode():
            logits = models["psp"](normalise(torch.stack(data.images), models["psp"].preprocess))
        counts = confusion_matrix(logits, torch.stack(data.masks), 2)
        return {"score": scores(counts)["dice"][1]}, None

    recipe = dict(iters=40, loss="ce+dice", optimizer="adamw", lr=0.01)
    fit(tmp_path, networks("psp", width=4), data, evaluate=fluid_dice, **recipe)
    (row,) = rows(tmp_path)[-1:]
    assert row["validation/score"] > 0.95
    assert rows(tmp_path)[-1]["train/loss"] < 0.5 * rows(tmp_path)[0]["train/loss"]


# What a run leaves behind


def test_run_folder(tmp_path):
    recipe = dict(iters=12, eval_every=5, save_every=4, schedule="poly", warmup=6, horizon=20)
    trained = fit(tmp_path, networks("psp", "fcn"), augment=MOVING, **recipe)
    files = {f.name for f in tmp_path.iterdir() if not f.name.startswith("events.")}
    assert files == {
        "config.json",
        "metrics.jsonl",
        "last.pt",
        "best-psp.pt",
        "best-fcn.pt",
        "loss.png",
    }

    config = json.loads((tmp_path / "config.json").read_text())
    assert (
        config["config"]["warmup"],
        config["config"]["crop"],
        config["config"]["psp.width"],
    ) == (6, 32, 2)
    assert config["config"]["precision"] == "torch.float32"
    assert config["versions"]["torch"] == torch.__version__
    assert config["commit"]
    assert config["command"]

    lines = rows(tmp_path)
    assert [row["step"] for row in lines] == [4, 5, 8, 10, 12]
    assert [row["step"] for row in lines if "validation/score" in row] == [5, 10, 12]
    for row in lines:
        phases = {"data", "forward", "backward", "optimiser"}
        if "validation/score" in row:
            phases.add("evaluation")
        timed = {k.removeprefix("seconds/") for k in row if k.startswith("seconds/")}
        assert timed == phases
        assert row["lr"] == learning_rate(Recipe(**recipe), row["step"] - 1)

    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("train/loss", "validation/score"):
        points = {event.step: event.value for event in events.Scalars(name)}
        assert points == pytest.approx({row["step"]: row[name] for row in lines if name in row})

    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 12
    for name, model in trained.items():
        assert dme.load_model(tmp_path / f"best-{name}.pt").arch == model.arch
    assert Image.open(tmp_path / "loss.png").size == (800, 480)


def test_best_is_kept(tmp_path):
    told = Recorder(math.nan, 0.2, math.nan, 0.7, 0.7, 0.3)
    last = fit(tmp_path, evaluate=told, iters=6, eval_every=1)
    best = dme.load_model(tmp_path / "best-fcn.pt").state_dict()
    saved = {name: best[name] for name in best if "num_batches" not in name}
    assert_same(saved, {name: told.weights[3][name] for name in saved})
    assert_same(weights(last), told.weights[5])
    assert column(tmp_path, "validation/score") == [None, 0.2, None, 0.7, 0.7, 0.3]


def test_a_picture_is_shown(tmp_path):
    picture = (torch.arange(4 * 5 * 3) * 4).reshape(4, 5, 3).to(torch.uint8).numpy()
    fit(tmp_path, evaluate=lambda models: ({"score": 1.0}, picture))
    (event,) = EventAccumulator(str(tmp_path)).Reload().Images("validation")
    assert (event.step, event.width, event.height) == (3, 5, 4)


# Interruptions


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    fit(out, networks("psp", "fcn"), augment=MOVING, **FULL)
    return out


def assert_continued(out: Path, uninterrupted: Path) -> None:
    fit(out, networks("psp", "fcn"), augment=MOVING, resume=True, **FULL)
    assert_same(state(out), state(uninterrupted))
    assert results(out) == results(uninterrupted)
    for name in ("best-psp.pt", "best-fcn.pt"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert not list(out.glob(".*"))  # no half-written file
    for name in ("train/loss", "validation/score"):
        steps = [event.step for event in EventAccumulator(str(out)).Reload().Scalars(name)]
        assert steps == [row["step"] for row in rows(uninterrupted) if name in row]


def test_resume_after_ctrl_c(tmp_path, uninterrupted):
    def interrupt(models):
        (tmp_path / "metrics.jsonl").open("a").write('{"step": 7, "tra')  # as a kill may leave it
        raise KeyboardInterrupt

    def until_step_8(models):
        return score(models) if len(rows(tmp_path)) < 2 else interrupt(models)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, networks("psp", "fcn"), augment=MOVING, evaluate=until_step_8, **FULL)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5
    assert_continued(tmp_path, uninterrupted)


def test_resume_after_kill_9(tmp_path, uninterrupted):
    killed = subprocess.run(
        [sys.executable, SCRIPT, "killed", tmp_path], env=environment(), timeout=300
    )
    assert killed.returncode == -signal.SIGKILL
    assert column(tmp_path, "step") == [4, 5, 8, 10]
    (half,) = tmp_path.glob(".last.pt.*.part")
    assert half.read_bytes() == b"PK half a checkpoint"
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5
    time.sleep(
        1
    )  # TensorBoard reads event files in the order of their second, then of their process
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
    ("name", "left"), [("last.pt", 50_000), ("best-psp.pt", 50_000), ("best-psp.pt", 0)]
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
        run(lambda: fit(tmp_path, networks("psp", "fcn"), augment=MOVING, evaluate=rising, **FULL))
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: cannot write")
    assert "No space left on device; free the disk" in message
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5
    monkeypatch.undo()
    fit(tmp_path, networks("psp", "fcn"), augment=MOVING, resume=True, **FULL)
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
    kept = f"what an older run left in {tmp_path} is kept in {tmp_path / 'older-1'}"
    assert kept in capsys.readouterr().out
    assert column(tmp_path, "step") == [2]
    assert [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars("lr")] == [2]
    assert column(tmp_path / "older-1", "step") == [10, 12]
    assert (tmp_path / "older-1" / "last.pt").read_bytes() == before
    assert (tmp_path / "older-1" / "best-fcn.pt").read_bytes() == best

    with pytest.raises(InputError, match="no checkpoint yet"):
        fit(tmp_path, iters=2, lr=1e30)
    assert torch.load(tmp_path / "older-2" / "last.pt", weights_only=True)["step"] == 2


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
            fit(tmp_path, networks("psp", "fcn"), augment=MOVING, **FULL)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == stop
    assert_continued(tmp_path, uninterrupted)


def test_a_checkpoint_between_two_lines_holds_only_finite_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(dme.training.loop, "SAVE_SECONDS", 0)
    with pytest.raises(InputError, match=r"weights are not finite after|loss is"):
        fit(tmp_path, iters=9, lr=1e30)
    if (tmp_path / "last.pt").exists():
        assert all(value.isfinite().all() for value in state(tmp_path).values())


def test_the_clock_saves_every_minute_and_says_once_how_long_it_takes(capsys):
    now = [100.0]
    clock = Clock(20, 420, now=lambda: now[0])
    saved = []
    for done in range(21, 421):
        now[0] += 30 if done == 21 else 6  # the first step takes longer
        clock.tick(done)
        if clock.save_due():
            clock.saved()
            saved.append(now[0])
        clock.announce(done)
    printed = capsys.readouterr().out
    assert printed == "expected: about 39 minutes for 390 more steps of 6 s, then scores\n"
    assert all(later - earlier <= 60 for earlier, later in itertools.pairwise([100.0, *saved]))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 seconds"), (99, "99 seconds"), (720, "12 minutes"), (12600, "3.5 hours")],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == f"about {words}"


def test_resume_refuses_other_settings(tmp_path):
    fit(tmp_path, augment=MOVING, iters=2)
    before = (tmp_path / "last.pt").read_bytes()
    for other, told in (
        (dict(iters=3), r"\(iters 2 -> 3\)"),
        (dict(iters=2, lr=0.5, seed=7), r"\(lr 0.01 -> 0.5, seed 0 -> 7\)"),
        (dict(iters=2, augment=Augment(crop=32)), r"\(flip True -> False, rotate 20 -> 0.0, "),
        (dict(iters=2, models=networks(width=4)), r"\(fcn.width 2 -> 4\)"),
        (dict(iters=2, models=networks("psp")), r"psp.width None -> 2.*fcn.width 2 -> None"),
        (
            dict(iters=2, data=discs(seed=1)),
            r"\(data 3 scans, crc32 \w{8} -> 3 scans, crc32 \w{8}\)",
        ),
    ):
        message = f"made with other settings .*{told}.*resume with the same or"
        with pytest.raises(InputError, match=message):
            fit(tmp_path, resume=True, **{"augment": MOVING} | other)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_resume_refuses_a_damaged_checkpoint(tmp_path):
    fit(tmp_path)
    whole = (tmp_path / "last.pt").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    best = (tmp_path / "best-fcn.pt").read_bytes()
    for damaged in (bytes(flipped), whole[:-100], whole[:1000], b"", b"no checkpoint", best):
        (tmp_path / "last.pt").write_bytes(damaged)
        message = r"last\.pt is damaged or no training checkpoint"
        with pytest.raises(InputError, match=message) as refused:
            fit(tmp_path, resume=True)
        assert "\n" not in str(refused.value)


def test_resume_refuses_what_another_version_wrote(tmp_path):
    fit(tmp_path)
    for change in ({"model": None}, {"model": {}}, {"optimizer": {}}, {"best": "gone"}):
        saved = torch.load(tmp_path / "last.pt", weights_only=True) | change
        if change == {"best": "gone"}:
            del saved["best"]
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
        broken = len(forward) == 2 * 13 * accumulate  # a head and the auxiliary one at every pass
        return get_loss("ce")(logits, target) * (math.nan if broken else 1)

    monkeypatch.setattr(dme.training.loop, "sample_batch", spy)
    monkeypatch.setattr(dme.training.loop, "get_loss", lambda spec: poisoned)
    with pytest.raises(InputError) as stopped:
        fit(tmp_path, data=discs(5), iters=14, save_every=10, accumulate=accumulate)
    scans = ", ".join(f"scan{i}" for i in sampled[13 * accumulate - 1])
    assert str(stopped.value).startswith(f"loss is nan at step 13 (scans {scans}); ")
    assert f"last good checkpoint is {tmp_path / 'last.pt'}; lower --lr" in str(stopped.value)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 10
    assert all(value.isfinite().all() for value in state(tmp_path).values())
    monkeypatch.undo()
    fit(tmp_path, data=discs(5), iters=14, save_every=10, accumulate=accumulate, resume=True)


def test_weights_that_are_not_finite_do_not_reach_the_checkpoint(tmp_path):
    models = networks()
    calls = []

    def overflow(gradient):
        calls.append(1)
        return gradient * (math.inf if len(calls) == 10 else 1)

    models["fcn"].backbone.encoder[0][0].conv.weight.register_hook(overflow)
    message = r"the weights are not finite after step 10 \(scans scan\d, scan\d\)"
    with pytest.raises(InputError, match=message):
        fit(tmp_path, models, iters=20, save_every=5)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5


def test_bad_input(tmp_path):
    message = "batch 1 gives a rank one image, which the psp head pools to one value"
    with pytest.raises(InputError, match=message):
        fit(tmp_path, networks("fcn", "psp"), batch=1)
    assert not list(tmp_path.iterdir())


def test_scans_that_16_does_not_divide_are_padded_and_the_loss_sees_only_them(tmp_path):
    data = discs(2, side=42)
    fit(tmp_path, networks("fcn", dropout=False), data, Augment(), iters=1, batch=2, eval_every=0)
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["train/loss"]

    model = networks("fcn", dropout=False)["fcn"].train()
    order = batch_indices(2, 2, 0, 0)
    x = normalise(torch.stack([data.images[i] for i in order]), model.preprocess)
    target = torch.stack([data.masks[i] for i in order]).long()
    logits, auxiliary = model.forward_with_aux(F.pad(x, (0, 6, 0, 6), mode="replicate"))
    auxiliary = F.interpolate(auxiliary, (48, 48), mode="bilinear")
    main = F.cross_entropy(logits[..., :42, :42], target)
    aux = F.cross_entropy(auxiliary[..., :42, :42], target)
    assert logged == pytest.approx((main + 0.4 * aux).item(), rel=1e-5)


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
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    assert "last.pt" in before
    message = "crop 64 is larger than every scan, of at most 48 x 48 pixels: choose a smaller"
    with pytest.raises(InputError, match=message):
        fit(tmp_path, augment=Augment(crop=64))
    with pytest.raises(InputError, match="colour augmentation needs RGB images"):
        fit(tmp_path, augment=Augment(colour=True))
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_joint_networks_share_their_backbone():
    Joint(networks("psp", "fcn"))
    with pytest.raises(ValueError, match="must share one backbone and one auxiliary head"):
        Joint({"a": networks()["fcn"], "b": networks()["fcn"]})
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
    one = subprocess.run(
        [sys.executable, SCRIPT, "ranks", tmp_path / "1"], env=environment(), timeout=300
    )
    launch = [sys.executable, "-m", "torch.distributed.run"]
    launch += ["--standalone", "--nproc-per-node", "2"]
    two = subprocess.run(
        [*launch, SCRIPT, "ranks", tmp_path / "2"], env=environment(), timeout=300
    )
    assert one.returncode == two.returncode == 0
    # without batch statistics and dropout they do what one rank does, and rank 0 alone writes
    alike = [tmp_path / n / "alike" for n in "12"]
    assert_same(state(alike[1]), state(alike[0]), atol=1e-6)
    for ours, theirs in zip(results(alike[1]), results(alike[0]), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    files = [{f.name for f in out.iterdir() if "events" not in f.name} for out in alike]
    assert files[0] == files[1]
    assert len(list(alike[1].glob("events.*"))) == 1
    # with them, both ranks evaluate the network that is saved
    for name in ("average", "statistics"):
        assert rows(tmp_path / "2" / name)[-1]["validation/score"] == 0
    # what goes wrong on rank 1 stops both
    told = {(tmp_path / "2" / f"{rank}.txt").read_text() for rank in (0, 1)}
    assert len(told) == 1
    assert told.pop().startswith("loss is nan at step 1 (scans ")


def test_ranks_must_fit_batch_and_machine(monkeypatch):
    message = "batch 4 does not divide over 3 ranks; choose a multiple of 3"
    with pytest.raises(InputError, match=message):
        share_of_batch(networks(), discs(), Augment(), Recipe(iters=1, batch=4), world=3)
    assert (
        share_of_batch(networks("psp"), discs(), Augment(), Recipe(iters=1, batch=6), world=3) == 2
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    message = "2 or more ranks on a machine with 1 GPU; start one per GPU"
    with pytest.raises(InputError, match=message):
        ranks.join()
