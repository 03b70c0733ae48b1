"""Choosing the recipe: the runs that are asked for, and the table from made-up ones."""

import json
from pathlib import Path

import pytest
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError


@pytest.fixture(scope="module")
def script():
    return load_script("development")


@pytest.fixture
def call(script, tmp_path):
    return lambda *words: written_table(script, tmp_path, *words)


def write(
    script, folder: Path, candidate: str, fold: int, hit: int, outside: int, data="a" * 64
) -> None:
    """A finished fold of one scan: of 100 px of fluid `hit` found, `outside` px false.

    The false ones lie beside the central columns.
    """
    words = f"{script.BASE} {script.CANDIDATES[candidate]} --split dev:{fold}/4"
    central = [[[1000, 0], [100 - hit, hit]]]
    every = [[[1000, outside], [100 - hit, hit]]]
    content = {
        "arguments": f"{words} --amp auto --seed 0".split(),
        "data_sha256": data,
        "counts_per_scan": {"study": every, "native": every, "central": central},
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{script.run_name(candidate, fold)}.json").write_text(json.dumps(content))


def test_scores_are_pooled_over_the_folds(script, call, tmp_path):
    for fold, hit in ((1, 80), (2, 40)):
        write(script, tmp_path / "runs", "crops", fold, hit, 60)
    write(script, tmp_path / "runs", "whole", 1, 90, 0)
    text = call("--print", "--folds", "1", "2")
    pooled, central = 2 * 120 / (200 + 120 + 120), 2 * 120 / (200 + 120)
    every = f"{160 / 240:.3f} {80 / 200:.3f}"
    each = f"{160 / 180:.3f} {80 / 140:.3f}"
    row = f"| crops | {pooled:.4f} | {central:.4f} | {pooled:.4f} | {every} | {each} |"
    assert row in text
    assert "| whole |" not in text  # its second fold is missing
    assert "| whole | " in call("--print", "--folds", "1")


def test_eyes_9_and_10_are_never_asked_for(script, call, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        script.series, "run_missing", lambda name, runs, out, results: asked.update(runs) or {}
    )
    with pytest.raises(InputError, match="no finished runs"):
        call()
    assert len(asked) == 4 * len(script.CANDIDATES)
    splits = [words[words.index("--split") + 1] for words in asked.values()]
    assert set(splits) == {f"dev:{k}/4" for k in (1, 2, 3, 4)}


def test_runs_on_other_data_are_refused(script, call, tmp_path):
    write(script, tmp_path / "runs", "whole", 1, 90, 0)
    write(script, tmp_path / "runs", "whole", 2, 90, 0, data="b" * 64)
    with pytest.raises(InputError, match="different data"):
        call("--print", "--folds", "1", "2")


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "no finished runs" in capsys.readouterr().err
