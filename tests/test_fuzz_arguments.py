"""Whatever arguments a command gets: an answer or one line, never a traceback, never a hang."""

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.finetuning import make_checkpoint, make_folder
from helpers.fuzzing import limits
from helpers.scripts import ROOT, call_main, load_script

from dme.common.errors import run

SEED = int(os.environ.get("DME_FUZZ_SEED", 0))
RUNS = int(os.environ.get("DME_FUZZ_RUNS", 300))  # in process, over all commands
PROCESSES = 10
COMMANDS = ("predict", "finetune", "prepare", "weights", "export")
SCRIPTS = (
    *("suggest", "annotate", "cache", "baseline", "table2", "pretrain_hrf", "reproduce"),
    *("transfer", "development", "crossval", "layers", "labels", "backbones", "width", "bench"),
)
# where each command begins its work: there it is stopped
WORK = (
    "dme.training.fine_tuning.train",
    "dme.training.pretraining.train",
    "dme.training.series.subprocess.run",
    "dme.training.series.subprocess.Popen",
    "dme.report.batch.Work.run",
    "dme.nets.download.download",
    "dme.inference.export.trace",
    "dme.report.suggestions.look_at_all",
    "dme.annotation.server.Server",
)
NUMBERS = (
    *("0", "1", "2", "-1", "0.5", "-0.0", "1.5", "nan", "inf", "-inf", "1e308", "1e-300", "1e9"),
    *("100000", "2147483648", "9" * 30, "9" * 5000, "0x10", "1_0", "٣", "", " ", "one"),
)
TEXTS = (
    *("", " ", "-", "--", "x" * 300, "a/b", "ä\udcff", "None", "%s", "{}", "subject:1/0", "\n"),
    *(
        "subject:9/3",
        "subject:-1/2",
        "dev:1/4",
        "ce+dice:nan,1",
        "ce+dice:1e400,0",
        "1,2",
        "1,2,3",
    ),
    *("nan,1,1", "1e308,1e308", "0,0", "1,,2", "-5,5", "OD", "fcn", "none", "dme-fluid"),
    *("random", "paper", "all", "small", "best", "layers"),
)


class Stopped(BaseException):
    """The arguments were accepted: the work would begin."""


class Seen(BaseException):
    """The parser of a command."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder of things that arguments may name."""
    root = tmp_path_factory.mktemp("fuzz")
    make_folder(root / "good")
    make_checkpoint(root / "tiny.pth")
    (root / "empty").mkdir()
    (root / "file.txt").write_text("nothing")
    (root / "noise.pth").write_bytes(random.Random(0).randbytes(3000))
    (root / "noise.mat").write_bytes(random.Random(1).randbytes(3000))
    np.save(root / "volume.npy", np.zeros((2, 40, 60), np.uint8))
    np.save(root / "objects.npy", np.array([{}], object), allow_pickle=True)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "pipe.mat")
    return root


def paths(root: Path) -> list[str]:
    names = [path.name for path in sorted(root.iterdir())]
    odd = [
        "nowhere",
        "file.txt/x",
        "loop/x",
        "n" * 300,
        "~nobody",
        "~nobody/x",
        "good/images",
        ".",
    ]
    return [*names, *odd, "/proc/x", "good/../good", str(root / "good"), "out\udcff"]


def parser_of(script, monkeypatch) -> argparse.ArgumentParser:
    """The parser whose `parse_args` the script calls."""

    def show(parser, *_, **__):
        raise Seen(parser)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", show)
        with pytest.raises(Seen) as seen:
            call_main(script)
    return seen.value.args[0]


def some_value(action: argparse.Action, names: list[str], draw: random.Random) -> str:
    """Mostly of the right kind."""
    if action.choices and draw.random() < 0.7:
        return str(draw.choice(list(action.choices)))
    if action.type in (int, float) and draw.random() < 0.9:
        return draw.choice(NUMBERS)
    return draw.choice((*names, *TEXTS)) if draw.random() < 0.9 else draw.choice(NUMBERS)


def some_arguments(parser, names: list[str], draw: random.Random) -> list[str]:
    """A few options with values of all kinds; now and then one too many or too few."""
    actions = [action for action in parser._actions if action.dest != "help"]
    words = []
    for action in draw.sample(actions, min(len(actions), draw.choice((0, 1, 1, 2, 2, 3, 5)))):
        count = 0 if action.nargs == 0 else action.nargs
        if count is None or not isinstance(count, int):
            count = 1 if count is None else draw.choice((1, 1, 2))
        if draw.random() < 0.03:
            count += 1
        if action.option_strings:
            words.append(draw.choice(action.option_strings))
        words += [some_value(action, names, draw) for _ in range(count)]
    if draw.random() < 0.02:
        words.append(draw.choice(("--nonsense", "--", "-x", "@file.txt")))
    return words


def stopped(*_, **__):
    raise Stopped


def answer(script, words: list[str]) -> str:
    """What came of it: "stopped", or the exit code."""
    try:
        with limits():
            run(lambda: call_main(script, *words))
    except Stopped:
        return "stopped"
    except SystemExit as left:
        return str(left.code or 0)
    return "returned"


@pytest.mark.slow
def test_no_arguments_end_in_a_traceback(place, tmp_path, monkeypatch, capsys):
    names = paths(place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DME_DATA", "good")
    for name in WORK:
        monkeypatch.setattr(name, stopped)
    draw = random.Random(SEED)
    scripts = [load_script(name) for name in (*COMMANDS, *SCRIPTS)]
    parsers = [parser_of(script, monkeypatch) for script in scripts]
    share = [6] * len(COMMANDS) + [1] * len(SCRIPTS)  # what a user's own data goes through

    outcomes = []
    faults = []
    for number in range(RUNS):
        (which,) = draw.choices(range(len(scripts)), share)
        words = some_arguments(parsers[which], names, draw)
        if "--out" not in words:
            words += ["--out", str(tmp_path / f"out{number}")]
        capsys.readouterr()
        try:
            outcome = answer(scripts[which], words)
        except BaseException as e:  # a traceback, or a hang
            faults.append((scripts[which].__name__, words, repr(e)[:300]))
            continue
        errors = capsys.readouterr().err
        outcomes.append(outcome)
        if outcome == "2" and "error: " not in errors:
            faults.append((scripts[which].__name__, words, errors[-300:]))
    assert not faults, "\n".join(map(str, faults))
    assert outcomes.count("2") > RUNS / 5 and outcomes.count("stopped") > RUNS / 20


@pytest.mark.slow
def test_real_processes_answer_in_a_line(place, tmp_path):
    draw = random.Random(SEED)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    wrong = [word for word in (*TEXTS, *NUMBERS) if word and not word.startswith("-")]
    for number in range(PROCESSES):
        command = COMMANDS[number % len(COMMANDS)]
        words = {
            "predict": ["--threshold", draw.choice(("5", "nan", "1e9")), "good"],
            "finetune": ["--data", draw.choice(("nowhere", "empty", "file.txt", "noise.mat"))],
            "prepare": ["--data", draw.choice(("nowhere", "empty", "loop", "noise.mat"))],
            "weights": ["name" + draw.choice(wrong)],
            "export": ["--weights", draw.choice(("noise.pth", "nowhere", "good", "loop"))],
        }[command]
        done = subprocess.run(
            [sys.executable, "-m", "dme", command, *words],
            cwd=place,
            env=environment,
            capture_output=True,
            timeout=120,
        )
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        assert done.returncode == 2, (command, words, lines)
        assert lines[-1].startswith("error: ") and "Traceback" not in "".join(lines), words
