"""Cross-validation tables from made-up folds: every number against one computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError

EYES = ((1, 7), (2, 6), (3, 5), (4, 8), (9, 10))


@pytest.fixture(scope="module")
def script():
    return load_script("crossval")


@pytest.fixture(scope="module")
def tables():
    return load_script("fluid_tables")


def counts(hit, missed, false, total=1000):
    return [[total - hit - missed - false, false], [missed, hit]]


def fold(eyes, arguments, native, central, data="a" * 64):
    return {
        "arguments": arguments,
        "data_kind": "folder",
        "data_sha256": data,
        "arch": {"backbone": "unet", "head": "psp", "width": 16},
        "scans": [f"scan{eye}" for eye in eyes],
        "subjects": list(eyes),
        "scale_um": [4.0, 12.0, 120.0],
        "counts_per_scan": {"study": native, "native": native, "central": central},
    }


def arguments(split, seed=0):
    return f"--recipe fluid --split {split} --amp auto --seed {seed}".split()


@pytest.fixture
def folds(tmp_path):
    """Five folds of two scans: of the first half of the fluid is found, the second is empty."""
    folder = tmp_path / "folds"
    folder.mkdir()
    for k, eyes in enumerate(EYES, 1):
        native = [counts(50, 50, 20 * (k == 1)), counts(0, 0, 10 * (k == 2))]
        central = [counts(50, 50, 0), counts(0, 0, 0)]
        content = fold(eyes, arguments(f"subject:{k}/5"), native, central)
        (folder / f"subject{k}of5-seed0.json").write_text(json.dumps(content))
    return folder


def table(script, tmp_path, *more):
    return written_table(
        script, tmp_path / "out", "--print", "--results", tmp_path / "folds", *more
    )


def test_all_folds_together(script, folds, tmp_path):
    text = table(script, tmp_path)
    # pooled: 250 found, 250 missed, 30 false; central columns: none false
    assert f"| {2 * 250 / (500 + 280):.4f} (" in text
    assert "| fluid IoU, pooled over all pixels | 0.4717 (" in text
    assert (
        "| scans with fluid in which some is found | 5 of 5 (1.00 to 1.00) | 5 of 5 (1.00 to "
        "1.00) |"
    ) in text
    assert "| scans without fluid left empty | 4 of 5 (" in text
    assert " | 5 of 5 (1.00 to 1.00) |" in text.split("left empty")[1].splitlines()[0]
    # Dice of the five with fluid: 0.5882, four times 0.6667; of the empty one with 10 false: 0
    dice = np.array([100 / 170, *[2 / 3] * 4, 0])
    label = "| fluid Dice, mean over scans with fluid in truth or prediction (false alarm: 0) |"
    assert f"{label} {dice.mean():.4f} ± {dice.std(ddof=1):.4f} (" in text
    label = "| fluid Dice, mean over scans with fluid in the truth |"
    assert f"{label} {dice[:5].mean():.4f} ± {dice[:5].std(ddof=1):.4f} (" in text
    dice = np.array([100 / 170, *[2 / 3] * 4, 0, *[1] * 4])
    label = "| fluid Dice, mean over all scans, no fluid in both:"
    assert f"{label} 1 | {dice.mean():.4f} ± {dice.std(ddof=1):.4f} (" in text
    dice[-4:] = 0
    assert f"{label} 0 | {dice.mean():.4f} ± {dice.std(ddof=1):.4f} (" in text
    # area: a pixel is 48 um²; errors -50 px (four times), -30, +10 and 0 (four times)
    error = np.array([-50] * 4 + [-30, 10] + [0] * 4) * 48e-6
    assert f"| area error per scan, mm² | {error.mean():+.4f} (" in text
    limits = error.mean() + 1.96 * np.array([-1, 1]) * error.std(ddof=1)
    assert f"| {limits[0]:+.4f} to {limits[1]:+.4f} |" in text
    mean_area = 500 * 48e-6 / 10
    assert f"(of {mean_area:.4f}) | {abs(error).mean():.4f} (" in text
    assert "| subject:2/5 | 2, 6 | 2 | 0.6250 | 0.4545 | 0.6667 | 0.5000 |" in text
    assert (tmp_path / "out" / "bland_altman.png").read_bytes().startswith(b"\x89PNG")


def test_eyes_that_chose_the_recipe_stand_apart(script, folds, tmp_path):
    text = table(script, tmp_path)
    # fold 1: eye 1 has 20 false px, fold 2: eye 6 has 10; of the others half is found
    whole = "| all ten eyes | 10 | 0.6410 ("
    assert whole in text
    assert "| the six that chose nothing | 6 | 0.6667 (0.6667 to 0.6667) |" in text
    assert "| eyes 9 and 10, in no development fold | 2 | 0.6667 |" in text  # too few for one
    assert f"| the four that chose the recipe | 4 | {200 / 330:.4f} (" in text
    assert "| 1 | 1 | 1 | 20 % | 0.5882 | 0.6667 | 28.6 % | -0.0014 |" in text
    assert "| 6 | 1 | 0 | 0 % | 0.0000 | nan | 100.0 % | +0.0005 |" in text


def test_another_seed(script, folds, tmp_path):
    for path in sorted(folds.glob("*.json")):
        content = json.loads(path.read_text())
        content["arguments"][-1] = "1"
        content["counts_per_scan"]["native"][0] = counts(100, 0, 0)
        path.with_name(path.name.replace("seed0", "seed1")).write_text(json.dumps(content))
    text = table(script, tmp_path, "--seeds", "0", "1")
    # seed 0: 250 found, 250 missed, 30 false; of seed 1 all found, 10 false
    values = np.array([500 / 780, 1000 / 1010])
    spread = f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
    assert f"| all ten eyes | {values[0]:.4f} | {values[1]:.4f} | {spread} |" in text
    assert "| the six that chose nothing | 0.6667 | 1.0000 |" in text
    assert "seed 0:" in text and "seed 1:" not in text
    assert "seed by seed" not in table(script, tmp_path, "--seeds", "1")


def test_other_eyes_and_synthetic_scans_say_so(script, folds, tmp_path):
    for path in folds.glob("*.json"):
        content = json.loads(path.read_text())
        content["data_kind"] = "phantom"
        content["subjects"] = [20 + eye for eye in content["subjects"]]
        path.write_text(json.dumps(content))
    text = table(script, tmp_path)
    assert "| all 10 eyes | 10 |" in text and "chose" not in text
    assert "Recipe fluid on SYNTHETIC scans" in text
    assert "All folds together, SYNTHETIC scans" in text and "ublished" not in text


def test_the_folders_it_names_are_there(script, folds, tmp_path, capsys):
    text = written_table(script, tmp_path, "--print")  # the folds lie where they do by default
    printed = capsys.readouterr().out
    assert text in printed
    places = dict(line.split(": ") for line in printed.splitlines()[-3:])
    assert set(places) == {"table", "folds", "picture"}
    assert places["folds"] == str(folds)
    assert all(Path(place).exists() for place in places.values())


def test_results_with_the_old_name_of_the_central_columns(script, folds, tmp_path):
    before = table(script, tmp_path)
    for path in folds.glob("*.json"):
        path.write_text(path.read_text().replace('"central"', '"graded"'))
    assert table(script, tmp_path) == before


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
    assert f"| paper | 2 | {cell} | 0.9474 ± 0.0000 | {cell} |" in text
    assert "| random |" not in text


def test_interval_resamples_eyes_not_scans(tables):
    one = np.array([counts(90, 10, 0)] * 50 + [counts(10, 90, 0)])
    eyes = np.array([1] * 50 + [2])
    low, high = tables.dice_interval(one, eyes)
    # both draws may be the poor eye (a quarter of all) or the good one
    assert low == pytest.approx(20 / 110) and high == pytest.approx(180 / 190)
    again = tables.dice_interval(one, eyes)
    assert (low, high) == again
    low, high = tables.dice_interval(one, np.ones(51))
    assert low == pytest.approx(high)


def test_interval_leaves_two_and_a_half_percent_on_each_side(tables):
    """Of three eyes one is drawn three times in 1 of 27 cases: 3.7 %, less than 5, above 2.5."""
    eyes = np.array([1, 2, 3])
    low, high = tables.dice_interval(
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
