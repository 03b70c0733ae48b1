"""The study of other devices: what is trained, on whom it is tried, and the table."""

import json
from pathlib import Path

import pytest
from helpers.scripts import load_script, written_table

from dme.data.phantom_devices import KINDS, PER_KIND


@pytest.fixture(scope="module")
def script():
    return load_script("devices")


def entry(rows: dict) -> dict:
    """A result of robustness.py; rows: name -> counts by eye."""
    content = {
        name: {"counts_per_eye": counts, "false_px_without_fluid": 5}
        for name, counts in rows.items()
    }
    return {"networks": [{"perturbations": content}], "data_sha256": "a" * 64}


def counts(hit: int, missed: int, false: int) -> list:
    return [[1000, false], [missed, hit]]


def write(script, out: Path, candidate: str, fold: int, plain: int, dim: int) -> None:
    """A finished fold: of 100 px of fluid so many found in scans as they are and in dim ones."""
    name = script.run_name(candidate, fold)
    weights = str(out / name / "model.pt")
    words = script.trainings(out, candidate, "auto")[name]
    trained = {"arguments": words, "split": f"dev:{fold}/4", "data_sha256": "b" * 64}
    eyes = {
        "as it is": [counts(plain, 100 - plain, 0)],
        "dim": [counts(dim, 100 - dim, 0)],
        "inverted": [counts(0, 100, 0)],
        "as it is, scale unknown": [counts(50, 50, 0)],
    }
    tried = {"arguments": ["--weights", weights, "--split", f"dev:{fold}/4"], **entry(eyes)}
    by_scan = [counts(10 * kind, 10, 0) for kind in (1, 2, 3) for _ in range(PER_KIND)]
    devices = entry({"as it is": by_scan}) | {
        "arguments": ["--weights", weights, *script.HELD_OUT],
        "data_sha256": "c" * 64,
    }
    files = {"": trained, "eyes": tried, "devices": devices}
    for folder, content in files.items():
        path = out / "runs" / folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def test_dice_is_pooled_over_the_folds(script, tmp_path):
    for fold, plain, dim in ((1, 80, 60), (2, 40, 20)):
        write(script, tmp_path, "as best", fold, plain, dim)
    write(script, tmp_path, "matched brightness", 1, 90, 90)
    text = written_table(script, tmp_path, "--print")

    # 120 of 200 px as they are, 80 of 200 dim; inverted scans are left out of the mean
    plain, dim, unknown = 240 / 320, 160 / 280, 200 / 300
    false = 2 * 3 * 5
    kinds = [20 / 30, 40 / 50, 60 / 70]
    devices = 2 * 60 / (2 * 60 + 30)
    assert len(kinds) == len(KINDS)
    numbers = " | ".join(f"{value:.3f}" for value in (devices, *kinds))
    line = f"| as best | {plain:.3f} | {dim:.3f} | {unknown:.3f} | {false} | {numbers} |"
    assert line in text
    assert "| matched brightness |" not in text  # its second fold is missing


def test_what_went_is_shown_and_never_run(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.series, "_run", lambda *run: pytest.fail(f"run: {run}"))
    for fold in (1, 2):
        write(script, tmp_path, "fewer, grain", fold, 80, 60)
    text = written_table(script, tmp_path, "--candidates", "fewer, stretch", "fewer, grain")
    assert "| fewer, grain |" in text and "| fewer, stretch |" not in text
    assert set(script.GONE) < set(script.CANDIDATES)


def test_the_eyes_are_those_of_the_protocol(script, tmp_path):
    splits = set()
    for candidate in script.CANDIDATES:
        for words in script.trainings(tmp_path, candidate, "auto").values():
            splits.add(words[words.index("--split") + 1])
            assert words[words.index("--iters") + 1] == "300"
    assert splits == {"dev:1/4", "dev:2/4"}
