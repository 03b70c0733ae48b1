"""Records: JSON's own types, provenance, the folder of a run across restarts, the stopwatch."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dme.record
from dme.record import Run, Stopwatch, loss_curve, plain, provenance, read_rows, write_json


def test_plain():
    given = {
        1: (Path("a") / "b", np.float32(0.5), np.int64(7), np.bool_(True)),
        "nan": [math.nan, math.inf, np.float64("nan"), 1.5],
        "array": np.array([[1.0, math.nan], [3.0, 4.0]]),
        "counts": torch.tensor([2**60, -1]),
        "rest": [None, True, "text"],
    }
    expected = {
        "1": ["a/b", 0.5, 7, True],
        "nan": [None, None, None, 1.5],
        "array": [[1.0, None], [3.0, 4.0]],
        "counts": [2**60, -1],
        "rest": [None, True, "text"],
    }
    assert plain(given) == expected
    assert [type(v) for v in plain(given)["1"]] == [str, float, int, bool]


def test_write_json(tmp_path):
    given = {"score": math.nan, "counts": np.eye(2, dtype=np.int64), "text": ["[\n 1", "{}"], "none": []}
    write_json(tmp_path / "new" / "a.json", given)
    text = (tmp_path / "new" / "a.json").read_text()
    assert json.loads(text) == given | {"score": None, "counts": [[1, 0], [0, 1]]}
    assert "NaN" not in text and "[ 1, 0 ]" in text  # a list of numbers takes one line
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "a.json", {"unknown": object()})
    assert (tmp_path / "new" / "a.json").read_text() == text  # a failed write leaves the old file
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["a.json"]


def test_provenance(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments/prepare.py", "--data", "my scans"])
    found = provenance()
    assert found.keys() == {"command", "commit", "time_utc", "versions", "device"}
    assert found["command"] == "python experiments/prepare.py --data 'my scans'"
    monkeypatch.setattr(sys, "argv", [str(dme.record.ROOT / "experiments" / "bench.py"), "cache"])
    assert provenance()["command"] == "python experiments/bench.py cache"  # the checkout's place says nothing
    assert found["versions"]["torch"] == torch.__version__ and found["versions"]["numpy"] == np.__version__
    assert found["time_utc"].endswith("Z") and found["device"]


def test_commit(monkeypatch, tmp_path):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    monkeypatch.setattr(dme.record, "ROOT", tmp_path)
    assert provenance()["commit"] == "unknown"  # no checkout
    git("init", "-q")
    (tmp_path / "record.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = provenance()["commit"]
    assert len(clean) == 12 and int(clean, 16)
    (tmp_path / "record.py").write_text("2")
    assert provenance()["commit"] == clean + "+changes"
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(dme.record, "ROOT", tmp_path / "site-packages")
    assert provenance()["commit"] == "unknown"  # the checkout is somebody else's


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
    assert not (tmp_path / ".last.pt.123.part").exists() and (tmp_path / "last.pt").exists()

    old = ("last.pt", "best-fcn.pt", "model.pt", "results.json")
    for name in old:
        (tmp_path / name).touch()
    third = Run(tmp_path, {"lr": 0.2})  # a new run where an old one was
    third.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [] and not any((tmp_path / name).exists() for name in old)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"] == {"lr": 0.2} and "commit" in config


def test_logged_lines_survive_a_kill(tmp_path):
    run = Run(tmp_path, {})
    run.log(1, {"loss": 2.0})  # neither closed nor flushed by us
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 2.0}
    assert [e.value for e in EventAccumulator(str(tmp_path)).Reload().Scalars("loss")] == [2.0]
    run.close()


def test_stopwatch(monkeypatch):
    times = iter([0.0, 1.0, 1.5, 4.0, 4.25, 10.0, 13.0, 14.0])
    monkeypatch.setattr(dme.record.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(torch.device("cpu"))
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
    blank, drawn = loss_curve([]), loss_curve(rows)
    assert blank.shape == drawn.shape == (480, 800, 3) and (blank != drawn).any()
