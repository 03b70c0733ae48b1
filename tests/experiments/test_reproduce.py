"""The study in one command: what it plans, what it leaves alone, how it stops and goes on."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.dukefolder import make_duke
from helpers.hrffolder import make_hrf
from helpers.scripts import EXPERIMENTS, exit_code, load_script

WIDTH = {"gpu": 64, "cpu": 16}


@pytest.fixture(scope="module")
def reproduce():
    return load_script("reproduce")


@pytest.fixture
def settings(reproduce, tmp_path):
    return reproduce.Settings(out=tmp_path)


def options(command: list[str]) -> str:
    """A command of experiments/ without the folder."""
    return " ".join(command).removeprefix(f"{EXPERIMENTS}/")


# ---- the plan


def test_on_a_gpu_every_part_is_planned(reproduce, settings, tmp_path):
    tasks = reproduce.all_tasks(settings, gpu=True)
    parts = [task.part for task in tasks]
    expected = {"tests": 1, "bench": 1, "pretrain": 2, "table2": 7, "rows": 11, "table1": 2}
    assert {part: parts.count(part) for part in dict.fromkeys(parts)} == expected
    assert list(expected) == list(settings.only)  # in the order of worth
    assert len({task.result for task in tasks}) == len({task.name for task in tasks}) == len(tasks)

    tests, bench, pretraining, convert, *rows, light, paper = tasks
    assert tests.command[:5] == ["-m", "pytest", "-q", "-m", "gpu"]
    assert options(bench.command) == (f"benchmarks/gpu.py --repeats 3 --width 64 --out {tmp_path}")
    assert options(pretraining.command) == (
        "pretrain_hrf.py --recipe openmmlab --scale 0.5 --heads psp --width 64 --minutes 3 "
        f"--amp auto --out {tmp_path}/pretrain-64"
    )
    weights = f"{tmp_path}/hrf-psp-64.pth"
    assert options(convert.command) == (
        f"weights.py --half --convert {tmp_path}/pretrain-64/best-psp.pt --out {weights}"
    )
    assert options(rows[0].command) == (
        f"finetune.py {' '.join(rows[0].row)} --out {tmp_path}/runs/10-seed0"
    )
    assert all(f"--weights {weights}" in options(row.command) for row in rows)
    assert [row.result.stem for row in rows[:7]] == [
        "10-seed0", "06-seed0", "10-seed1", "10-seed2", "02-seed0", "05-seed0", "09-seed0"
    ]  # fmt: skip
    for protocol, task in (("light", light), ("paper", paper)):
        assert options(task.command) == (
            f"baseline.py --protocol {protocol} --weights {weights} hrf-fcn hrf-deeplabv3 "
            f"--out {tmp_path}/table1-{protocol}"
        )


def test_a_cpu_gets_less(reproduce, settings, tmp_path):
    tasks = reproduce.all_tasks(settings, gpu=False)
    assert "bench" not in {task.part for task in tasks}
    assert [task.name for task in tasks if task.part == "table1"] == ["Table 1, light"]
    assert any(f"--width {WIDTH['cpu']}" in options(task.command) for task in tasks)


def test_what_is_asked_for_reaches_the_scripts(reproduce, settings):
    asked = replace(
        settings,
        pretrain_steps=50,
        data="my scans",
        hrf="my photographs",
        amp="bf16",
        width=32,
        scale=1.0,
    )
    for task in reproduce.all_tasks(asked, gpu=True):
        words = task.command
        if task.part == "pretrain" and task.folder:
            assert "--steps 50 --amp bf16" in options(words) and "--width 32" in options(words)
            assert "--scale 1 " in options(words)
            assert words[words.index("--data") + 1] == "my photographs"
        if task.part in ("table2", "rows", "table1"):
            assert words[words.index("--data") + 1] == "my scans"
        if task.row:
            assert "--amp bf16" in options(words) and "my scans" not in task.row


def test_given_weights_nothing_is_pretrained(reproduce, settings):
    tasks = reproduce.all_tasks(replace(settings, weights="hrf-psp-openmmlab"), gpu=True)
    assert "pretrain" not in {task.part for task in tasks}
    assert all("hrf-psp-openmmlab" in task.row for task in tasks if task.row)


def test_a_rehearsal_is_narrow_and_of_one_step(reproduce, settings, tmp_path):
    tasks = reproduce.all_tasks(replace(settings, rehearse=True), gpu=True)
    pretraining = next(task for task in tasks if task.name == "pretraining")
    assert "--width 4 --steps 1 " in options(pretraining.command)
    for task in tasks:
        if task.row:
            assert "--iters 1 " in options(task.command)
        if task.part == "table1":
            assert f"--weights {tmp_path}/hrf-psp-4.pth --out" in options(task.command)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "jobs is 0; expected a finite number at least 1"),
        (["--minutes", "-1"], "minutes is -1.0; expected a finite number at least 0"),
        (["--minutes", "nan"], "minutes is nan; expected a finite number at least 0"),
        (["--pretrain-minutes", "0"], "pretrain_minutes is 0.0; expected a finite number"),
    ],
)
def test_settings_out_of_range(reproduce, capsys, words, message):
    assert exit_code(reproduce, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


# ---- running, with stand-ins for the scripts

LEAVES = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "calls", "a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
(folder / "results.json").write_text('{"score": 0.5}')
"""
CHECKPOINTS = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
if "--resume" in sys.argv:
    (folder / "results.json").write_text('{"score": 0.25}')
    sys.exit()
try:
    (folder / "began").touch()
    time.sleep(60)
except KeyboardInterrupt:
    (folder / "last.pt").touch()
    sys.exit(130)
"""


@pytest.fixture
def stand_in(reproduce, tmp_path):
    """stand_in(name, code): a row of Table 2 that runs `code`."""

    def make(name, code):
        folder = tmp_path / "runs" / name
        result = tmp_path / "table2" / f"{name}.json"
        command = ["-c", code, str(folder)]
        return reproduce.Task("table2", name, command, result, 1, folder, ["--crop", "320"])

    return make


def test_rows_become_files_of_table_2(reproduce, stand_in, tmp_path, capsys):
    tasks = [stand_in(f"row {number}", LEAVES) for number in range(3)]
    assert reproduce.run_part(tasks, 2, None, tmp_path) == []
    for task in tasks:
        assert json.loads(task.result.read_text()) == {
            "arguments": ["--crop", "320"],
            "score": 0.5,
        }
        assert (task.folder / "calls").read_text() == "\n"  # no --resume without a checkpoint
    assert [line.split(" s  ")[1] for line in capsys.readouterr().out.splitlines()]


def test_a_failure_is_reported_and_the_rest_goes_on(reproduce, stand_in, tmp_path, capsys):
    broken = stand_in("broken", "import sys; print('first'); sys.exit('error: no such file')")
    silent = stand_in("silent", "import sys; sys.exit(1)")
    tasks = [broken, silent, stand_in("fine", LEAVES)]
    assert reproduce.run_part(tasks, 1, None, tmp_path) == ["broken", "silent"]
    lines = capsys.readouterr().out.splitlines()
    log = tmp_path / "logs" / "broken.log"
    assert lines[0].endswith(f"broken FAILED: error: no such file (all of it: {log})")
    assert "silent FAILED: no output" in lines[1]
    assert not broken.result.exists() and tasks[2].result.exists()


def test_a_deadline_stops_and_the_next_call_goes_on(reproduce, stand_in, tmp_path, monkeypatch):
    """What runs writes its checkpoint and is no failure; what waits does not begin."""
    first, second = stand_in("first", CHECKPOINTS), stand_in("second", LEAVES)
    began = time.monotonic()
    # the deadline comes once the first has begun
    real = time.monotonic
    monkeypatch.setattr(
        reproduce.time,
        "monotonic",
        lambda: real() + (1000 if (first.folder / "began").exists() else 0),
    )
    assert reproduce.run_part([first, second], 1, began + 900, tmp_path) == []
    assert real() - began < 50
    assert (first.folder / "last.pt").exists() and not second.folder.exists()
    assert not first.result.exists() and not second.result.exists()

    assert reproduce.run_part([first, second], 1, None, tmp_path) == []
    assert json.loads(first.result.read_text())["score"] == 0.25  # by --resume
    assert second.result.exists()


def test_what_is_finished_is_not_run_again(reproduce, stand_in, tmp_path, monkeypatch, capsys):
    tasks = [stand_in("row 1", LEAVES), stand_in("row 2", LEAVES)]
    monkeypatch.setattr(reproduce, "all_tasks", lambda settings, gpu: tasks)
    monkeypatch.setattr(reproduce, "show_data", lambda settings: None)
    monkeypatch.setattr(reproduce, "summarise", lambda settings, tasks: "summary\n")
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--out", str(tmp_path)])
    assert reproduce.main() == 0
    tasks[1].result.unlink()
    assert reproduce.main() == 0
    assert (tasks[0].folder / "calls").read_text().count("\n") == 1
    assert (tasks[1].folder / "calls").read_text().count("\n") == 2
    assert (tmp_path / "summary.md").read_text() == "summary\n"
    assert "not finished" not in capsys.readouterr().out


# ---- the summary


def test_rows_wait_for_the_pretrained_network(reproduce, settings, tmp_path, capsys):
    tasks = reproduce.all_tasks(settings, gpu=True)
    rows = [task for task in tasks if task.part == "table2"]
    assert reproduce.ready(rows) == []
    network = rows[0].needs
    assert f"7 runs of table2 wait for {network}: pretrain first" in capsys.readouterr().out
    network.parent.mkdir(parents=True, exist_ok=True)
    network.touch()
    assert reproduce.ready(rows) == rows
    assert capsys.readouterr().out == ""


def test_summary(reproduce, settings, tmp_path):
    tasks = reproduce.all_tasks(settings, gpu=True)
    text = reproduce.summarise(settings, tasks)
    assert text.startswith("# The study, reproduced on ") and "|" not in text

    (tmp_path / "gpu-tests.xml").write_text(
        '<?xml version="1.0"?><testsuites name="all"><testsuite name="pytest" errors="1" '
        'failures="2" skipped="3" tests="40" time="5.0"></testsuite></testsuites>'
    )
    pretraining = next(task for task in tasks if task.name == "pretraining")
    row = {"width": 64, "dice_scale": 0.75, "arch": {"head": "psp", "width": 64}}
    write(pretraining.result, {"training_minutes": 3.04, "scale": 1.0, "rows": [row]})
    pooled = {"mean_dice": 0.8, "mean_iou": 0.7, "dice": [0.99, 0.61], "iou": [0.98, 0.44]}
    result = {
        "data_kind": "folder",
        "arch": {"width": 64},
        "scans": ["a"] * 22,
        "leak": 21,
        "pooled": pooled,
        "seconds_per_iteration": 0.1,
    }
    write(tmp_path / "table2" / "10-seed0.json", result)
    line = {"arch": {"head": "fcn", "width": 16}, "published": 0.0008, "table1_measure": 0.0015}
    write(tmp_path / "table1-light" / "results.json", {"rows": [line]})

    text = reproduce.summarise(replace(settings, rehearse=True), tasks)
    assert "\n\nREHEARSAL: these numbers mean nothing.\n\n" in text
    assert "\n\ngpu tests: 40 tests, 2 failures, 1 errors, 3 skipped\n\n" in text
    assert "\n\nPretrained: width 64, 3.0 minutes, vessel Dice 0.7500 on 30 photographs" in text
    assert "| 10 | crop 320, L2 1e-4 | 0.8430 | 0.7600 | 0.6883 | 0.5247 | 0.8000 | 0.70" in text
    assert text.endswith(
        "\n\nTable 1, light: mean IoU of the class read as fluid, published and here\n\n"
        "- fcn, width 16: 0.0008, 0.0015\n"
    )


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# ---- all of it


@pytest.mark.slow
def test_a_rehearsal_from_end_to_end(tmp_path):
    """Pretraining, the core of Table 2 and Table 1, on made-up photographs and scans."""
    scans = make_duke(tmp_path / "duke")
    photographs = make_hrf(tmp_path / "hrf", 512, 544)
    out = tmp_path / "out"
    parts = ["--rehearse", "--jobs", "2", "--only", "pretrain", "table2", "table1"]
    data = ["--data", scans, "--hrf", photographs, "--out", out]
    command = [sys.executable, EXPERIMENTS / "reproduce.py", *parts, *data]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout and "not finished" not in done.stdout
    summary = (out / "summary.md").read_text()
    assert "Pretrained: width 4" in summary and "- psp, width 4: 0.0022, " in summary
    rows = [line for line in summary.splitlines() if line.startswith(("| 2 ", "| 5 ", "| 10 "))]
    assert [row.split(" | ")[-2] for row in rows] == ["1", "1", "3"]  # seeds
    assert "22 validation scans of split paper" in summary

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and " s  " not in again.stdout  # nothing ran
