"""Does pretraining help: the runs that are asked for, table and curve from made-up ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError

STARTS, SPLITS = ("hrf-psp", "phantom-psp", "none"), ("paper", "subject:1/5", "subject:4/5")


@pytest.fixture(scope="module")
def script():
    return load_script("transfer")


@pytest.fixture
def call(script, tmp_path):
    return lambda *words: written_table(script, tmp_path, *words)


@pytest.fixture
def write(script, tmp_path):
    """write(start, split, seed, dice at 400 steps, at 1600): a finished run."""

    def write(start, split, seed, early, late, data="a" * 64):
        how = f"--weights {start} --split {split} --amp auto --seed {seed}"
        history = [
            [step, early + (late - early) * (step - 400) / 1200, 0.1]
            for step in range(200, 1601, 200)
        ]
        content = {
            "arguments": f"--crop 320 --iters 1600 --eval-every 200 {how}".split(),
            "data_kind": "folder",
            "data_sha256": data,
            "history": history,
        }
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"{script.run_name(start, split, seed)}.json").write_text(
            json.dumps(content)
        )

    return write


def test_table_and_curve(script, call, write, tmp_path):
    for start, gain in (("hrf-psp", 0.1), ("none", 0.0)):
        for seed in (0, 1, 2):
            write(start, "paper", seed, 0.2 + gain + 0.02 * seed, 0.5 + gain)
    for seed in (0, 1):
        write("none", "subject:4/5", seed, 0.1, 0.3 + 0.1 * seed)
    text = call("--print")
    assert "real scans" in text
    assert (
        f"| vessels (HRF) | 400 | 0.3200 ± {np.std([0.3, 0.32, 0.34], ddof=1):.4f} |  |  | 0-3 |"
        in text
    )
    assert "| nothing | 1600 | 0.5000 ± 0.0000 |  | 0.3500 ± 0.0707 | 0-3 |" in text
    assert (tmp_path / "transfer.png").read_bytes().startswith(b"\x89PNG")

    settings = script.Settings(starts=("hrf-psp", "none"), splits=("paper",))
    found = {f.stem: json.loads(f.read_text()) for f in (tmp_path / "runs").iterdir()}
    lines = script.curves(settings, found)
    assert [step for step, _ in lines["nothing"]] == list(range(200, 1601, 200))
    assert lines["vessels (HRF)"][1] == (400, pytest.approx(0.32))
    # a mean over splits only where all have been run
    lines = script.curves(replace(settings, splits=("paper", "subject:4/5")), found)
    assert list(lines) == ["nothing"] and lines["nothing"][-1] == (
        1600,
        pytest.approx((0.5 + 0.35) / 2),
    )


def test_all_27_runs_are_asked_for(script, call, monkeypatch):
    asked = {}

    def run_missing(name, runs, out, results):
        assert name == "finetune.py"
        asked.update(runs)
        return {}

    monkeypatch.setattr(script.series, "run_missing", run_missing)
    with pytest.raises(InputError, match="no finished runs"):
        call("--amp", "bf16")
    assert len(asked) == 27
    texts = {" ".join(words) for words in asked.values()}
    expected = set()
    for start in STARTS:
        for split in SPLITS:
            for seed in (0, 1, 2):
                where = f"--weights {start} --split {split} --amp bf16 --seed {seed}"
                expected.add(f"--crop 320 --iters 1600 --eval-every 200 {where}")
    assert texts == expected


def test_runs_on_other_data_are_refused(call, write):
    write("none", "paper", 0, 0.1, 0.2)
    write("none", "paper", 1, 0.1, 0.2, data="b" * 64)
    with pytest.raises(InputError, match="different data"):
        call("--print")


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "no finished runs" in capsys.readouterr().err
