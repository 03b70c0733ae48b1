"""Cross-validation tables from made-up folds: every number against one computed by hand."""

import json

import numpy as np
import pytest
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError

EYES = ((1, 7), (2, 6), (3, 5), (4, 8), (9, 10))


@pytest.fixture(scope="module")
def script():
    return load_script("crossval")


def counts(hit, missed, false, total=1000):
    return [[total - hit - missed - false, false], [missed, hit]]


def fold(eyes, arguments, native, graded, data="a" * 64):
    return {
        "arguments": arguments,
        "data_kind": "folder",
        "data_sha256": data,
        "arch": {"backbone": "unet", "head": "psp", "width": 16},
        "scans": [f"scan{eye}" for eye in eyes],
        "subjects": list(eyes),
        "scale_um": [4.0, 12.0, 120.0],
        "counts_per_scan": {"study": native, "native": native, "graded": graded},
    }


def arguments(split, seed=0):
    return f"--recipe best --split {split} --amp auto --seed {seed}".split()


@pytest.fixture
def folds(tmp_path):
    """Five folds of two scans: of the first half of the fluid is found, the second is empty."""
    folder = tmp_path / "folds"
    folder.mkdir()
    for k, eyes in enumerate(EYES, 1):
        native = [counts(50, 50, 20 * (k == 1)), counts(0, 0, 10 * (k == 2))]
        graded = [counts(50, 50, 0), counts(0, 0, 0)]
        content = fold(eyes, arguments(f"subject:{k}/5"), native, graded)
        (folder / f"subject{k}of5-seed0.json").write_text(json.dumps(content))
    return folder


def table(script, tmp_path, *more):
    return written_table(
        script, tmp_path / "out", "--print", "--results", tmp_path / "folds", *more
    )


def test_all_folds_together(script, folds, tmp_path):
    text = table(script, tmp_path)
    # pooled: 250 found, 250 missed, 30 false; graded columns: none false
    assert f"| {2 * 250 / (500 + 280):.4f} (" in text
    assert "| fluid IoU, pooled | 0.4717 | 0.5000 |" in text
    assert "| scans with fluid found | 1.000 (5 of 5) | 1.000 (5 of 5) |" in text
    assert "| scans without fluid left empty | 0.800 (4 of 5) | 1.000 (5 of 5) |" in text
    # Dice of the five with fluid: 0.5882, four times 0.6667; of the empty one with 10 false: 0
    dice = np.array([100 / 170, *[2 / 3] * 4, 0])
    assert (
        f"| Dice per scan, empty ones left out | {dice.mean():.4f} ± {dice.std(ddof=1):.4f} |"
        in text
    )
    dice = np.array([100 / 170, *[2 / 3] * 4, 0, *[1] * 4])
    assert (
        f"| Dice per scan, empty counting 1 | {dice.mean():.4f} ± {dice.std(ddof=1):.4f} |" in text
    )
    # area: a pixel is 48 um²; errors -50 px (four times), -30, +10 and 0 (four times)
    error = np.array([-50] * 4 + [-30, 10] + [0] * 4) * 48e-6
    assert f"| {error.mean():+.4f} ({error.mean() - 1.96 * error.std(ddof=1):+.4f} to " in text
    assert f"| {abs(error).mean():.4f} ({500 * 48e-6 / 10:.4f}) |" in text
    assert "| subject:2/5 | 2, 6 | 2 | 0.6250 | 0.4545 | 0.6667 | 0.5000 |" in text
    assert (tmp_path / "out" / "bland_altman.png").read_bytes().startswith(b"\x89PNG")


def test_an_incomplete_series_has_no_total(script, folds, tmp_path):
    (folds / "subject3of5-seed0.json").unlink()
    text = table(script, tmp_path)
    assert "All folds together" not in text and "subject:3/5" not in text and "subject:4/5" in text


def test_another_start_belongs_to_the_arguments(script, folds, tmp_path):
    with pytest.raises(
        InputError, match=r"subject1of5-seed0.json was made with .* expected .* --weights none"
    ):
        table(script, tmp_path, "--weights", "none")
    for path in folds.glob("*.json"):
        content = json.loads(path.read_text())
        content["arguments"] += ["--weights", "none"]
        path.write_text(json.dumps(content))
    assert "| subject:2/5 | 2, 6 | 2 | 0.6250 |" in table(script, tmp_path, "--weights", "none")


def test_leaky_splits_stand_apart(script, folds, tmp_path):
    for seed, hit in ((0, 60), (1, 80)):
        content = fold(
            (1,), arguments("paper", seed), [counts(hit, 100 - hit, 0)], [counts(90, 10, 0)]
        )
        (folds / f"paper-seed{seed}.json").write_text(json.dumps(content))
    text = table(script, tmp_path, "--leaky", "--seeds", "0", "1")
    values = np.array([120 / 160, 160 / 180])
    cell = f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
    assert f"| paper | 2 | {cell} | {cell} | 0.9474 ± 0.0000 |" in text
    assert "| random |" not in text


def test_interval_resamples_eyes_not_scans(script):
    one = np.array([counts(90, 10, 0)] * 50 + [counts(10, 90, 0)])
    eyes = np.array([1] * 50 + [2])
    low, high = script.interval_by_eye(one, eyes)
    # both draws may be the poor eye (a quarter of all) or the good one
    assert low == pytest.approx(20 / 110) and high == pytest.approx(180 / 190)
    again = script.interval_by_eye(one, eyes)
    assert (low, high) == again
    low, high = script.interval_by_eye(one, np.ones(51))
    assert low == pytest.approx(high)


def test_interval_leaves_two_and_a_half_percent_on_each_side(script):
    """Of three eyes one is drawn three times in 1 of 27 cases: 3.7 %, less than 5, above 2.5."""
    eyes = np.array([1, 2, 3])
    low, high = script.interval_by_eye(
        np.array([counts(10, 90, 0), counts(50, 50, 0), counts(90, 10, 0)]), eyes
    )
    assert low == pytest.approx(20 / 110)
    assert high == pytest.approx(180 / 190)


def test_folds_of_different_data_are_refused(script, folds, tmp_path, capsys):
    path = folds / "subject1of5-seed0.json"
    path.write_text(path.read_text().replace("a" * 64, "b" * 64))
    with pytest.raises(InputError, match="different data"):
        table(script, tmp_path)


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "no finished folds" in capsys.readouterr().err
