"""The human line: made-up folds beside a table of areas and beside .mat files of two graders."""

import csv
import json

import numpy as np
import pytest
import scipy.io
from helpers.matfiles import duke_volume, write_subject_mat
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError

EYES = (1, 2, 3)
SIZE = 20 * 30


@pytest.fixture(scope="module")
def script():
    return load_script("graders")


def volume(eye: int, seed: int) -> np.ndarray:
    """Fluid ids (20, 30, 4) as a grader draws them, NaN in the B-scan nobody annotated."""
    generator = np.random.default_rng(10 * eye + seed)
    fluid = np.full((20, 30, 4), np.nan)
    for position in (0, 1, 3):
        fluid[:, :, position] = 0
        if position:
            row, column = generator.integers(3, 10, 2)
            fluid[row : row + 5, column : column + 6 + seed, position] = position
    return fluid


def confusion(truth: np.ndarray, other: np.ndarray) -> list[list[int]]:
    counts = []
    for t in (False, True):
        counts.append([int(((truth == t) & (other == o)).sum()) for o in (False, True)])
    return counts


@pytest.fixture
def folds(tmp_path):
    """.mat files of three eyes by two graders, and a fold for each; the network is a third."""
    images = np.random.default_rng(0).integers(0, 200, (20, 30, 4), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    (tmp_path / "folds").mkdir()
    for eye in EYES:
        first, second, network = (volume(eye, seed) for seed in range(3))
        path = tmp_path / "set" / f"Subject_{eye:02}.mat"
        write_subject_mat(path, images, first, fluid2=second)
        names = []
        counts = []
        opinions = []
        for position in (0, 1, 3):
            names.append(f"subject{eye:02}_bscan{position:02}")
            masks = [fluid[:, :, position] > 0 for fluid in (first, second, network)]
            counts.append(confusion(masks[0], masks[2]))
            opinions.append(confusion(masks[1], masks[2]))
        content = {
            "arguments": ["--split", f"subject:{eye}/3"],
            "command": "python experiments/finetune.py",
            "commit": "0" * 12,
            "start": "hrf-psp",
            "data_kind": "mat",
            "data_sha256": "a" * 64,
            "scans": names,
            "subjects": [eye] * 3,
            "scale_um": [4.0, 12.0, 120.0],
            "counts_per_scan": {"study": counts, "native": counts, "central": counts},
            "other_grader": {"counts_per_scan": opinions},
        }
        path = tmp_path / "folds" / f"subject{eye}of3-seed0.json"
        path.write_text(json.dumps(content))
    return tmp_path / "folds"


def areas(fluid: np.ndarray) -> list[int]:
    return [int((fluid[:, :, position] > 0).sum()) for position in (0, 1, 3)]


def write_areas(path, automatic: int = 7) -> None:
    """The table of areas of the same scans; the automatic method always finds as much."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow("name,subject,bscan,grader1_px,grader2_px,chiu2015_automatic_px".split(","))
        for eye in EYES:
            first, second = (areas(volume(eye, seed)) for seed in (0, 1))
            for place, position in enumerate((0, 1, 3)):
                name = f"subject{eye:02}_bscan{position:02}"
                table.writerow([name, eye, position, first[place], second[place], automatic])


def test_areas_of_a_table(script, folds, tmp_path):
    write_areas(tmp_path / "areas.csv")
    words = ("--folds", folds, "--areas", tmp_path / "areas.csv")
    text = written_table(script, tmp_path / "out", *words)
    assert "Fluid in 9 real scans of 3 eyes" in text
    # the graders agree on presence; grader 2 draws 5 px more in two of three scans
    more = 5 * 48e-6 * 2 / 3
    cells = "1.000 (1.000 to 1.000)"
    (row,) = [line for line in text.splitlines() if line.startswith("| grader 2 | grader 1 |")]
    assert row.startswith(f"| grader 2 | grader 1 | {cells} | {cells} | {cells} | ")
    assert f"| {more:+.4f} ({more:+.4f} to {more:+.4f}) | {more:.4f} (" in row
    # always found: no scan is left empty, agreement is chance
    cells = "1.000 (1.000 to 1.000) | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000)"
    assert f"| automatic, Chiu 2015 | grader 1 | {cells} | " in text
    assert "| network | grader 2 | " in text
    assert "a third party's table, which nobody here could check" in text
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert script.markdown(result) == text
    assert {"command", "commit", "areas_sha256", "folds", "seed"} <= result.keys()


def test_overlap_where_mat_files_hold_both_graders(script, folds, tmp_path):
    words = ("--folds", folds, "--data", tmp_path / "set")
    text = written_table(script, tmp_path / "out", *words)
    drawn = [[volume(eye, seed) > 0 for eye in EYES] for seed in range(3)]
    first, second, network = (np.stack(volumes) for volumes in drawn)
    for who, against, one, other in (
        ("network", "grader 1", network, first),
        ("grader 2", "grader 1", second, first),
        ("network", "grader 2", network, second),
    ):
        dice = 2 * (one & other).sum() / (one.sum() + other.sum())
        assert f"| {who} | {against} | {dice:.4f} (" in text
    assert "automatic" not in text and "third party" not in text


def test_the_automatic_method_where_every_file_holds_it(script, folds, tmp_path):
    words = ("--folds", folds, "--data", tmp_path / "set")
    first = np.stack([volume(eye, 0) for eye in EYES])
    automatic = np.stack([volume(eye, 3) for eye in EYES])
    for place, eye in enumerate(EYES):
        text = written_table(script, tmp_path / "out", *words)
        assert "automatic" not in text
        path = tmp_path / "set" / f"Subject_{eye:02}.mat"
        names = ("images", "manualFluid1", "manualFluid2")
        held = scipy.io.loadmat(path, variable_names=names)
        variables = {name: held[name] for name in names}
        scipy.io.savemat(path, {**variables, "automaticFluidDME": automatic[place]})
    text = written_table(script, tmp_path / "out", *words)
    both = ((automatic > 0) & (first > 0)).sum()
    dice = 2 * both / ((automatic > 0).sum() + (first > 0).sum())
    assert f"| automatic, Chiu 2015 | grader 1 | {dice:.4f} (" in text
    assert text.count("| automatic, Chiu 2015 | grader 1 |") == 2  # areas, then overlap


def test_networks_whose_second_opinion_was_not_counted(script, folds, tmp_path):
    for path in folds.glob("*.json"):
        content = json.loads(path.read_text())
        del content["other_grader"]
        path.write_text(json.dumps(content))
    text = written_table(script, tmp_path / "out", "--folds", folds, "--data", tmp_path / "set")
    overlap = text[text.index("| overlap |") :]
    assert "| grader 2 | grader 1 |" in overlap and "| network | grader 2 |" not in overlap


def test_other_areas_are_refused(script, folds, tmp_path, capsys):
    path = tmp_path / "areas.csv"
    words = ("--folds", folds, "--areas", path, "--out", tmp_path / "out")
    assert exit_code(script, *words) == 2
    assert "no table of areas" in capsys.readouterr().err
    write_areas(path)
    path.write_text(
        path.read_text().replace("subject02_bscan01,2,1,30", "subject02_bscan01,2,1,31")
    )
    assert exit_code(script, *words) == 2
    assert "grader 1 of subject02_bscan01 has other areas" in capsys.readouterr().err
    path.write_text(path.read_text().replace("subject02_bscan03,", "another,"))
    assert exit_code(script, *words) == 2
    assert "'subject02_bscan03' is missing or no number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_folds_are_refused(script, folds, tmp_path):
    with pytest.raises(InputError, match="no subject.of.-seed1.json"):
        written_table(script, tmp_path, "--folds", folds, "--seed", "1")
    again = json.loads((folds / "subject1of3-seed0.json").read_text())
    (folds / "subject4of3-seed0.json").write_text(json.dumps(again))
    with pytest.raises(InputError, match="subject01_bscan00, .* in more than one fold"):
        written_table(script, tmp_path, "--folds", folds)


@pytest.mark.slow
def test_real_scans_as_mat_files(script, real_data, tmp_path):
    """Masks of PNG files as grader 1; grader 2 the same, moved down by three pixels."""
    images, first = duke_volume(real_data / "chiu2015", 1)
    second = np.roll(first, 3, axis=0)
    (tmp_path / "set").mkdir()
    write_subject_mat(tmp_path / "set" / "Subject_01.mat", images, first, fluid2=second)
    annotated = np.flatnonzero(~np.isnan(first).all((0, 1)))
    truth = first[:, :, annotated] > 0
    counts = [confusion(truth[..., i], truth[..., i]) for i in range(len(annotated))]
    fold = {
        "arguments": [],
        "command": "",
        "commit": "",
        "start": "",
        "data_kind": "mat",
        "data_sha256": "a" * 64,
        "scans": [f"subject01_bscan{i:02}" for i in annotated],
        "subjects": [1] * len(annotated),
        "scale_um": [3.87, 11.33, 123.0],
        "counts_per_scan": {"native": counts, "central": counts},
    }
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "subject1of1-seed0.json").write_text(json.dumps(fold))
    words = ("--folds", tmp_path / "folds", "--data", tmp_path / "set")
    text = written_table(script, tmp_path / "out", *words)
    other = second[:, :, annotated] > 0
    dice = 2 * (truth & other).sum() / (truth.sum() + other.sum())
    assert f"| grader 2 | grader 1 | {dice:.4f} (" in text
    assert "| network | grader 1 | 1.0000 (" in text
