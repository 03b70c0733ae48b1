"""The folder of a run across restarts, the stopwatch, the picture of the loss."""

import json
import math
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dme.common.errors import InputError
from dme.common.files import sha256_file, unsealed
from dme.training.run_folder import (
    PHASES,
    Run,
    Stopwatch,
    loss_curve,
    read_rows,
    seconds_per_step,
    start_of_resumed,
)


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
    assert [unsealed(json.loads(line)) for line in lines] == [
        {"step": 10, "loss": 2.0, "lr": 0.1},
        {"step": 20, "loss": 1.0, "dice": None},
        {"step": 30, "loss": 0.25},
    ]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in events] == [(10, 2.0), (20, 1.0), (30, 0.25)]
    assert not (tmp_path / ".last.pt.123.part").exists()
    assert (tmp_path / "last.pt").exists()


def test_a_new_run_keeps_what_an_older_one_left(tmp_path):
    config = {"fcn.backbone": "unet", "lr": 0.1}
    first = Run(tmp_path, config)
    first.log(10, {"loss": 2.0})
    first.close()
    in_work = ("last.pt", "best-fcn.pt")
    products = ("model.pt", "results.json", "figure6.png")
    foreign = ("best-2023.pt", "notes.txt", ".bigdownload.part", "last.pt.bak")
    for name in (*in_work, *products, *foreign):
        (tmp_path / name).write_text(f"first {name}")

    # what it works on is out of the way, what it leaves at its end stays until then
    second = Run(tmp_path, config | {"lr": 0.2})
    second.close()
    older = tmp_path / "older-1"
    assert read_rows(tmp_path / "metrics.jsonl") == []
    assert not any((tmp_path / name).exists() for name in in_work)
    for name in (*in_work, *products):
        assert (older / name).read_text() == f"first {name}"
    for name in (*products, *foreign):
        assert (tmp_path / name).read_text() == f"first {name}"
    assert read_rows(older / "metrics.jsonl") == [{"step": 10, "loss": 2.0}]
    assert json.loads((older / "config.json").read_text())["config"] == config
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["lr"] == 0.2
    assert "commit" in record

    # what is kept already is not kept again
    third = Run(tmp_path, config)
    third.close()
    assert not (tmp_path / "older-2").exists()
    (tmp_path / "model.pt").write_text("another")
    fourth = Run(tmp_path, config)
    fourth.close()
    assert [path.name for path in (tmp_path / "older-2").glob("*.pt")] == ["model.pt"]


@pytest.mark.parametrize(
    "name",
    ["model.pt", "results.json", "best-fcn.pt", "last.pt", "loss.png", "metrics.jsonl"],
)
@pytest.mark.parametrize("config", [None, '{"lr": 1}', "not JSON", b"\xff\xfe"])
def test_files_that_no_run_left_are_never_replaced(tmp_path, name, config):
    (tmp_path / name).write_text("mine")
    if config is not None:
        content = config if isinstance(config, bytes) else config.encode()
        (tmp_path / "config.json").write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    message = f"holds .*{name}, which no run of dme left there: choose a new folder with `out`"
    with pytest.raises(InputError, match=message):
        Run(tmp_path, {"fcn.backbone": "unet"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_link_in_place_of_a_file_is_refused_before_the_training(tmp_path):
    run = Run(tmp_path / "run", {})
    run.close()
    (tmp_path / "elsewhere.pt").write_text("mine")
    (tmp_path / "run" / "model.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(InputError, match="model.pt is a link, which is never replaced"):
        Run(tmp_path / "run", {})


def test_what_a_resumed_run_started_from_is_found_again(tmp_path):
    file = tmp_path / "model.pt"
    file.write_text("the first network")
    config = {"model.backbone": "unet", "model.weights": sha256_file(file)}
    run = Run(tmp_path / "run", config)
    run.close()
    shutil.move(file, tmp_path / "run")
    weights = tmp_path / "run" / "model.pt"
    assert start_of_resumed(tmp_path / "run", str(weights)) == str(weights)

    run = Run(tmp_path / "run", config)
    run.close()
    weights.write_text("the second network")
    kept = tmp_path / "run" / "older-1" / "model.pt"
    assert start_of_resumed(tmp_path / "run", str(weights)) == str(kept)
    assert start_of_resumed(tmp_path / "run", "dme-fluid") == "dme-fluid"


@pytest.mark.parametrize(
    "damage",
    [
        b'\xff\xfe{"step": 1}',
        b"[1]",
        b"null",
        b'{"step": 1.5}',
        b'{"step": true}',
        b'{"loss": 1}',
        b'{"step": 1, "loss": "x"}',
        b'{"step": 1, "loss": [1]}',
        b'{"step": 4, "lo',
        b"[" * 5000,
        b"1" * 5000,
    ],
)
def test_a_damaged_line_of_the_log_is_left_out(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n' + damage + b'\n{"step": 3, "loss": null}\n')
    assert read_rows(path) == [{"step": 1, "loss": 2.0}, {"step": 3, "loss": None}]


def test_seconds_of_a_step_without_a_line():
    whole = {f"seconds/{phase}": 0.5 for phase in PHASES}
    assert seconds_per_step([{"step": 1}, whole, {"step": 2, "seconds/data": 9}]) == 2.0
    assert math.isnan(seconds_per_step([{"step": 1}]))


def test_logged_lines_survive_a_kill(tmp_path):
    run = Run(tmp_path, {})
    run.log(1, {"loss": 2.0})  # neither closed nor flushed by us
    assert unsealed(json.loads((tmp_path / "metrics.jsonl").read_text())) == {
        "step": 1,
        "loss": 2.0,
    }
    assert [e.value for e in EventAccumulator(str(tmp_path)).Reload().Scalars("loss")] == [2.0]
    run.close()


def logged(folder):
    run = Run(folder, {})
    for step in (10, 20, 30):
        run.log(step, {"train/loss": 1.5 / step, "validation/score": 0.25})
    run.close()
    return folder / "metrics.jsonl"


def test_no_flipped_bit_is_read_as_another_number(tmp_path, capsys):
    path = logged(tmp_path)
    content = path.read_bytes()
    rows = read_rows(path)
    assert len(rows) == 3
    assert rows[0] == {"step": 10, "train/loss": 0.15, "validation/score": 0.25}
    capsys.readouterr()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = read_rows(path)
        assert len(found) >= 1
        for row in found:
            assert row in rows
    assert "is damaged, left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": "x"}',
        b"[1]",
        b"3",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"step": 1',
        b"\0" * 40,
    ],
)
def test_damaged_lines_are_left_out_and_said(tmp_path, capsys, line):
    path = logged(tmp_path)
    first, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, line, *rest]))
    capsys.readouterr()
    assert [row["step"] for row in read_rows(path)] == [10, 20, 30]
    assert capsys.readouterr().err == f"{path}: line 2 is damaged, left out\n"

    # the next run goes on without it
    Run(tmp_path, {}, start=20).close()
    capsys.readouterr()
    assert [row["step"] for row in read_rows(path)] == [10, 20]
    assert capsys.readouterr().err == ""


def test_events_do_not_name_the_computer(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "mueller-laptop")
    run = Run(tmp_path, {})
    run.log(1, {"loss": 2.0})
    run.close()
    (events,) = tmp_path.glob("events.*")
    assert "mueller" not in events.name
    assert b"mueller" not in events.read_bytes()
    assert socket.gethostname() == "mueller-laptop"


def test_stopwatch():
    times = iter([0.0, 1.0, 1.5, 4.0, 4.25, 10.0, 13.0, 14.0])
    watch = Stopwatch(torch.device("cpu"), clock=lambda: next(times))
    for phase in ("data", "forward", "data", "forward"):
        watch.lap(phase)
    assert watch.read() == {"data": 3.5, "forward": 0.75}  # until 4.25; read at 10
    watch.lap("data")
    assert watch.read() == {"data": 3.0}
    assert watch.marks == [("", 14.0)]


def test_what_the_stopwatch_skips_belongs_to_no_phase():
    times = iter([0.0, 1.0, 5.0, 7.0, 8.0])
    watch = Stopwatch(torch.device("cpu"), clock=lambda: next(times))
    watch.lap("data")
    watch.skip()
    watch.lap("data")
    assert watch.read() == {"data": 3.0}


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
