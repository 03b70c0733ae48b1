"""The study of width: the runs that are asked for, and the table from made-up ones."""

import json

import pytest
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError


@pytest.fixture
def script():
    return load_script("width")


def test_every_run_is_asked_for(script, monkeypatch, tmp_path):
    asked = {}

    def run_missing(name, runs, out, results):
        asked[name] = runs
        return {}

    monkeypatch.setattr(script.series, "run_missing", run_missing)
    monkeypatch.setenv("HRF_DATA", "elsewhere")
    with pytest.raises(InputError, match="no finished runs"):
        written_table(script, tmp_path, "--amp", "bf16", "--seeds", "0", "1", "--hrf", "mine")
    assert script.os.environ["HRF_DATA"] == "mine"
    pretraining, finetuning = asked["pretrain_hrf.py"], asked["finetune.py"]
    assert len(pretraining) == len(script.STARTS) == 8 and len(finetuning) == 16
    assert " ".join(pretraining["pretrain-small-64-half"]) == (
        "--recipe small --scale 0.5 --heads psp --width 64 --steps 1000 --amp bf16"
    )
    assert " ".join(finetuning["row10-openmmlab-16-seed1"]) == (
        f"--crop 320 --l2 1e-4 --split paper --weights {tmp_path}/pretrain-openmmlab-16"
        "/best-psp.pt --amp bf16 --seed 1"
    )


def test_table_and_curve(script, tmp_path):
    starts = {"openmmlab-16": [0.2, 0.3], "openmmlab-64": [0.5], "openmmlab-64-half": [0.4]}
    folder = tmp_path / "runs"
    folder.mkdir()
    pretraining = script.pretraining_runs(starts, "auto")
    settings = script.Settings(starts=tuple(starts), seeds=(0, 1))
    finetuning = script.finetuning_runs(settings, "auto", tmp_path)
    for name, words in pretraining.items():
        content = {"arguments": words, "rows": [{"dice_scale": 0.75}], "seconds": 100}
        (folder / f"{name}.json").write_text(json.dumps(content))
    for start, scores in starts.items():
        for seed, score in enumerate(scores):
            name = f"row10-{start}-seed{seed}"
            content = {"arguments": finetuning[name], "pooled": {"dice": [0.99, score]}}
            (folder / f"{name}.json").write_text(json.dumps(content))

    text = written_table(script, tmp_path, "--print", "--seeds", "0", "1")
    recipe = script.RECIPES["openmmlab"]
    assert text.startswith("Row 10 of Table 2 on real scans")
    assert text.splitlines()[4:] == [
        f"| {recipe} | 16 | 2000 | 0.5 | 0.7500 | 0.2500 ± 0.0707 | 2 |",
        f"| {recipe} | 64 | 2000 | 0.5 | 0.7500 | 0.5000 | 1 |",
        f"| {recipe} | 64 | 1000 | 0.5 | 0.7500 | 0.4000 | 1 |",
    ]
    rows = [
        {"recipe": "openmmlab", "width": 64, "vessel": 0.8, "seeds": [0.5, 0.7]},
        {"recipe": "openmmlab", "width": 64, "vessel": 0.7, "seeds": [0.3]},
        {"recipe": "openmmlab", "width": 16, "vessel": 0.75, "seeds": [0.2]},
    ]
    assert script.curves(rows) == {
        f"{recipe}, width 16": [(0.75, 0.2)],
        f"{recipe}, width 64": [(0.7, 0.3), (0.8, 0.6)],
    }
    assert (tmp_path / "width.png").read_bytes().startswith(b"\x89PNG")


def test_what_reproduce_left_stands_beside(script, tmp_path):
    pretraining, rows = tmp_path / "pretrain-64", tmp_path / "table2"
    pretraining.mkdir()
    rows.mkdir()
    network = {"width": 64, "dice_scale": 0.8}
    results = {"recipe": "openmmlab", "scale": 1.0, "rows": [network]}
    (pretraining / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="no finished pretraining and row 10"):
        script.reproduced(tmp_path)
    (pretraining / "config.json").write_text('{"config": {"iters": 4000}}')
    with pytest.raises(InputError, match="no finished pretraining and row 10"):
        script.reproduced(tmp_path)  # without row 10
    for name, dice in (("10-seed0", 0.6), ("10-seed1", 0.5), ("09-seed0", 0.0)):
        (rows / f"{name}.json").write_text(json.dumps({"pooled": {"dice": [0.99, dice]}}))
    assert script.reproduced(tmp_path) == {
        "recipe": "openmmlab",
        "width": 64,
        "steps": 4000,
        "size": 1.0,
        "seeds": [0.6, 0.5],
        "vessel": 0.8,
    }


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "no finished runs" in capsys.readouterr().err
