"""Unlabelled B-scans of an eye: tiny networks on SYNTHETIC scans, and the table by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.finetuning import make_folder
from helpers.scripts import exit_code, load_script, written_table
from PIL import Image

from dme.commands import finetune

POSITIONS = (1, 4, 8)  # that are annotated, of twelve
PLACES = [(1 + i // 3, POSITIONS[i % 3]) for i in range(12)]
ROWS = [f"scan{i:02},{eye},{position},4,12,120\n" for i, (eye, position) in enumerate(PLACES)]
INDEX = "name,subject,bscan,axial_um,lateral_um,spacing_um\n" + "".join(ROWS)


@pytest.fixture
def script():
    return load_script("unlabelled")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Four eyes; a fold by subject leaves out the first and the third."""
    root = make_folder(tmp_path / "data", wet=(0, 1, 1) * 4, sides=((64, 96),), index=INDEX)
    monkeypatch.setenv("DME_DATA", str(root))
    return root


@pytest.fixture
def volume(tmp_path, data) -> Path:
    """Twelve B-scans, the annotated ones of eye 1 among them."""
    wet = [i % 3 == 0 for i in range(12)]  # so that none equals a scan of another eye
    root = make_folder(tmp_path / "volume", wet=wet, sides=((64, 96),))
    shutil.rmtree(root / "fluid")
    for i, position in enumerate(POSITIONS):
        shutil.copy(
            data / "images" / f"scan{i:02}.png", root / "images" / f"scan{position:02}.png"
        )
    return root


@pytest.fixture
def tiny(script, monkeypatch) -> list[str]:
    """Trainings of two steps in this process; their names."""
    protocol = script.Protocol(
        recipe="--recipe best --iters 2 --batch 2 --width 2 --size native",
        splits=("subject:1/2",),
        start="none",
        counts=(2,),
        worth=2,
        seeds=(0, 1),
    )
    for name, value in (("PROTOCOL", protocol), ("SPLIT", "subject:1/2")):
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script, "FEW", 2)
    monkeypatch.setattr(script, "CONTROL", 3)
    calls = []

    def train(path: Path, arguments: list[str], out: Path) -> int:
        from dme.training.fine_tuning import fine_tune

        calls.append(out.name)
        fine_tune(finetune.parse_args([*arguments, "--out", str(out)]))
        return 0

    monkeypatch.setattr(script.series, "_run", train)
    return calls


def test_series_of_tiny_networks(script, tiny, data, volume, tmp_path):
    out = tmp_path / "out"
    text = written_table(script, out, "--data", data, "--volume", volume, "--amp", "off")
    assert len(tiny) == len(set(tiny)) == 2 * 3

    # no annotated B-scan is looked at
    others = [0, 2, 3, 5, 6, 7, 9, 10, 11]
    index = (out / "volume" / "index.csv").read_text().splitlines()
    assert index[1:] == [f"bscan_{i:02},1,{i},4.0,12.0,120.0" for i in others]
    for i in others:
        copied = np.asarray(Image.open(out / "volume" / "images" / f"bscan_{i:02}.png"))
        assert np.array_equal(copied, Image.open(volume / "images" / f"scan{i:02}.png"))
    assert len(list((out / "volume" / "images").iterdir())) == 9

    # pairs differ in nothing else
    for name in tiny[::2]:
        alone, beside = (
            json.loads((out / "runs" / f"{run}.json").read_text())
            for run in (name, f"{name}-unlabelled")
        )
        assert alone["settings"] == beside["settings"] and "unlabelled" not in alone
        assert beside["unlabelled"]["scans"] == 9
        assert set(beside["subjects"]) == {1, 3}
        assert len(alone["settings"]["train_on"]) in (0, 2)
    assert "Missing" not in text and "Unlabelled: 9 B-scans of eye 1; nothing of eye 3." in text
    assert "| 2 | mean ± sd of 2 |" in text and "| all (6) | 0 |" in text
    assert written_table(script, out, "--amp", "off", "--print") == text
    assert len(tiny) == 6


def test_another_volume_is_refused(script, tiny, data, volume, tmp_path, capsys):
    words = ("--data", data, "--amp", "off", "--out", tmp_path / "out")
    assert exit_code(script, *words) == 2
    assert "error: no volume: give --volume" in capsys.readouterr().err
    (volume / "images" / "scan00.png").unlink()  # all are one place off
    assert exit_code(script, *words, "--volume", volume) == 2
    told = capsys.readouterr().err
    assert "scan00 is not B-scan 1 of the volume, of 11 B-scans: give that of eye 1" in told
    assert not tiny and not (tmp_path / "out" / "volume").exists()


def test_table_of_made_up_runs(script):
    names = [f"img_{i:03}" for i in range(88)]
    orders = {script.SPLIT: {f"seed{seed}": names for seed in (0, 1, 2)}}

    def result(hit: int, control: int) -> dict:
        """Of 100 px of fluid so many are found; the eyes have two scans each."""
        counts = []
        for pixels in (hit, hit, control, control):
            counts.append([[90, 10], [100 - pixels, pixels]])
        return {"subjects": [1, 1, 7, 7], "counts_per_scan": {"native": counts}}

    few = script.trials()[:3]
    results = {}
    for trial, alone, beside in zip(few[:2], (50, 60), (80, 60), strict=True):
        results[trial.name] = result(alone, 40)
        results[f"{trial.name}-unlabelled"] = result(beside, 30) | {"unlabelled": {"scans": 30}}
    results[few[2].name] = result(10, 10)

    def dice(hit: int) -> float:
        return 2 * hit / (hit + 10 + 100)

    text = script.markdown(orders, results)
    first = f"{dice(50):.4f} | {dice(80):.4f} | {dice(80) - dice(50):+.4f}"
    control = f"{dice(40):.4f} | {dice(30):.4f} | {dice(30) - dice(40):+.4f}"
    assert f"| 8 | 0 | {first} | {control} |" in text
    gains = [dice(80) - dice(50), 0.0]
    assert f"| {np.mean(gains):+.4f} ± {np.std(gains, ddof=1):.4f} |" in text
    assert f"| 8 | mean ± sd of 2 | {np.mean([dice(50), dice(60)]):.4f} ± " in text
    assert f"Missing: pairs of {few[2].name}, {script.trials()[3].name}." in text
    assert "Unlabelled: 30 B-scans of eye 1; nothing of eye 7." in text
