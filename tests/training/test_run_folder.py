"""The folder of a run across restarts, the stopwatch, the picture of the loss."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dme.training.run_folder import Run, Stopwatch, loss_curve, read_rows


def test_a_run_is_continued(tmp_path):
    first = Run(tmp_path, {"lr": 0.1})
    first.log(10, {"loss": 2.0, "lr": 0.1})
    first.log(20, {"loss": 1.0, "dice": math.nan})
    first.log(30, {"loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # cut short by a kill
    (tmp_path / ".last.pt.123.part").touch()
    (tmp_path / "last.pt").touch()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 30]
    first.close()

    second = Run(tmp_path, {"lr": 0.1}, start=20)
    second.log(30, {"loss": 0.25})
    second.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "loss": 2.0, "lr": 0.1},
        {"step": 20, "loss": 1.0, "dice": None},
        {"step": 30, "loss": 0.25},
    ]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(10, 2.0), (20, 1.0), (30, 0.25)]
    assert not (tmp_path / ".last.pt.123.part").exists()
    assert (tmp_path / "last.pt").exists()

    old = ("last.pt", "best-fcn.pt", "model.pt", "results.json")
    for name in old:
        (tmp_path / name).touch()
    third = Run(tmp_path, {"lr": 0.2})  # a new run where an old one was
    third.close()
    assert read_rows(tmp_path / "metrics.jsonl") == []
    assert not any((tmp_path / name).exists() for name in old)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"] == {"lr": 0.2}
    assert "commit" in config


def test_logged_lines_survive_a_kill(tmp_path):
    run = Run(tmp_path, {})
    run.log(1, {"loss": 2.0})  # neither closed nor flushed by us
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 2.0}
    assert [e.value for e in EventAccumulator(str(tmp_path)).Reload().Scalars("loss")] == [2.0]
    run.close()


def test_stopwatch():
    times = iter([0.0, 1.0, 1.5, 4.0, 4.25, 10.0, 13.0, 14.0])
    watch = Stopwatch(torch.device("cpu"), clock=lambda: next(times))
    for phase in ("data", "forward", "data", "forward"):
        watch.lap(phase)
    assert watch.read() == {"data": 3.5, "forward": 0.75}  # until 4.25; read at 10
    watch.lap("data")
    assert watch.read() == {"data": 3.0}
    assert watch.marks == [("", 14.0)]


@pytest.mark.gpu
def test_stopwatch_on_the_gpu():
    watch = Stopwatch(torch.device("cuda"))
    torch.cuda._sleep(10**8)  # clock cycles, of the device alone
    watch.lap("busy")
    watch.lap("idle")
    seconds = watch.read()
    assert seconds["busy"] > 0.02 > seconds["idle"]


def test_loss_curve(tmp_path):
    rows = [{"step": s, "train/loss": 1 / s, "train/dice": None} for s in (1, 2, 3)]
    blank = loss_curve([])
    drawn = loss_curve(rows)
    assert blank.shape == drawn.shape == (480, 800, 3)
    assert (blank != drawn).any()


def test_without_tensorboard_a_run_keeps_its_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = Run(tmp_path, {"lr": 0.1})
    run.log(1, {"loss": 2.0})
    run.image(1, "picture", np.zeros((4, 4, 3), np.uint8))
    run.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
    assert capsys.readouterr().err.count("\n") == 1
