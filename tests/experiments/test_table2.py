"""Table 2: the study's rows as arguments of finetune.py, and the table from finished rows."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.scripts import EXPERIMENTS, exit_code, finetune_settings, load_script

import dme.training.series
from dme.nets.zoo import known
from dme.training.settings import Augment, Recipe

# The study's Table 2 once more:
# iterations, crop, flip, loss, optimizer, L2, mDice, mIoU, fluid Dice, fluid IoU
PUBLISHED = {
    1: (200, 0, False, "ce", "sgd", 5e-4, 0.7721, 0.6855, 0.5468, 0.3762),
    2: (400, 0, False, "ce", "sgd", 5e-4, 0.7173, 0.6371, 0.4374, 0.2799),
    3: (400, 0, True, "ce", "sgd", 5e-4, 0.7040, 0.6263, 0.4109, 0.2585),
    4: (400, 192, False, "ce", "sgd", 5e-4, 0.6951, 0.6190, 0.3937, 0.2451),
    5: (400, 224, False, "ce", "sgd", 5e-4, 0.7106, 0.6299, 0.4271, 0.2715),
    6: (400, 320, False, "ce", "sgd", 5e-4, 0.8401, 0.7567, 0.6826, 0.5182),
    7: (400, 320, False, "dice", "sgd", 5e-4, 0.8395, 0.7560, 0.6813, 0.5166),
    8: (400, 320, False, "focal", "sgd", 5e-4, 0.8280, 0.7429, 0.6585, 0.4909),
    9: (400, 320, False, "ce", "adam", 5e-4, 0.4981, 0.4963, 0.0000, 0.0000),
    10: (400, 320, False, "ce", "sgd", 1e-4, 0.8430, 0.7600, 0.6883, 0.5247),
    11: (400, 320, False, "ce", "sgd", 1e-3, 0.8312, 0.7464, None, None),
}


@pytest.fixture(scope="module")
def table2():
    return load_script("table2")


@pytest.fixture
def settings():
    """settings(arguments): arguments, Augment and Recipe as finetune.py understands them."""
    finetune = load_script("finetune")
    return lambda arguments: finetune_settings(finetune, *arguments.split())


@pytest.fixture
def call(table2, capsys):
    """call(*arguments): exit code, stdout and the last line of stderr of table2.py."""

    def call(*arguments) -> tuple[int, str, str]:
        code, printed = exit_code(table2, *arguments), capsys.readouterr()
        return code, printed.out, printed.err.rstrip("\n")

    return call


def result(dice: float = 0.6, iou: float = 0.45, background: float = 0.99, **other) -> dict:
    """What the table reads of a row's results."""
    pooled = {"dice": [background, dice], "iou": [0.98, iou]}
    pooled |= {"mean_dice": (background + dice) / 2, "mean_iou": (0.98 + iou) / 2}
    content = {
        "pooled": pooled,
        "seconds_per_iteration": 1.25,
        "data_kind": "folder",
        "data_sha256": "d1",
    }
    content |= {"arch": {"width": 16}, "scans": [f"s{i}" for i in range(22)], "leak": 21}
    return content | other


def arguments(table2, row: int, seed: int, weights: str = "hrf-psp") -> list[str]:
    start = f"--split paper --weights {weights} --amp auto --seed {seed}"
    return [*(table2.ROWS | table2.EXTENDED)[row].arguments.split(), *start.split()]


def write_row(table2, folder: Path, row: int, seed: int = 0, **content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"arguments": arguments(table2, row, seed), **result(**content)}
    (folder / f"{row:02}-seed{seed}.json").write_text(json.dumps(whole))


def cells(text: str, row: int) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# The rows


def test_the_published_numbers(table2):
    scores = {
        n: (row.mean_dice, row.mean_iou, row.fluid_dice, row.fluid_iou)
        for n, row in table2.ROWS.items()
    }
    assert scores == {n: row[6:] for n, row in PUBLISHED.items()}


@pytest.mark.parametrize("row", PUBLISHED)
def test_rows_ask_for_what_the_study_did(table2, settings, row):
    steps, crop, flip, loss, optimizer, decay, *_ = PUBLISHED[row]
    args, augment, recipe = settings(table2.ROWS[row].arguments)
    assert augment == Augment(crop=crop, max_class_share=0.75, flip=flip)
    assert recipe == Recipe(
        iters=steps,
        batch=2,
        loss=loss,
        aux_weight=1.0 if loss in ("dice", "focal") else 0.4,
        optimizer=optimizer,
        lr=0.01,
        l2=decay,
        schedule="poly",
        horizon=40_000,
        lr_min=1e-4,
    )
    assert (args.size, args.head, args.weights) == ("512", None, None)


def test_rows_beyond_the_paper_differ_from_its_best_in_what_they_are_named_for(table2, settings):
    _, augment, recipe = settings(table2.ROWS[10].arguments)
    best = vars(augment) | vars(recipe)
    expected = {
        12: {"crop": 288, "l2": 5e-4},
        13: {"crop": 288, "l2": 5e-4, "flip": True},
        14: {"rotate": 10},
        15: {"shift": 0.1},
        16: {"brightness": 0.1},
        17: {"loss": "iou"},
        18: {"loss": "ce+dice:1,1"},
        19: {"loss": "ce+dice:1,0.5"},
        20: {"loss": "ce+dice:0.5,1"},
        21: {},
        22: {},
    }
    assert list(table2.EXTENDED) == list(expected)
    for n, differing in expected.items():
        _, augment, recipe = settings(table2.EXTENDED[n].arguments)
        ours = vars(augment) | vars(recipe)
        assert {k: v for k, v in ours.items() if v != best[k]} == differing, n
    published = {n: row[2:] for n, row in table2.EXTENDED.items() if row.mean_dice is not None}
    assert published == {12: (0.8351, 0.7509, None, None), 13: (0.8420, 0.7589, None, None)}


@pytest.mark.parametrize(("row", "head"), [(21, "fcn"), (22, "deeplabv3")])
def test_other_heads_start_from_weights_that_ship(table2, settings, row, head):
    args, _, _ = settings(table2.EXTENDED[row].arguments)
    shipped = known()[args.weights]
    assert args.head == shipped["arch"]["head"] == head and "file" in shipped


# The table


def test_the_table_gives_mean_and_deviation_over_seeds(table2, call, tmp_path):
    rows = tmp_path / "rows"
    for seed, dice, iou, seconds in (
        (0, 0.60, 0.40, 1.0),
        (1, 0.64, 0.44, 9.0),
        (2, 0.65, 0.45, 2.0),
    ):
        scores = {"dice": dice, "iou": iou, "background": 0.98}
        write_row(table2, rows, 6, seed, seconds_per_iteration=seconds, **scores)
    write_row(table2, rows, 11, 0, dice=0.7, iou=0.5, background=0.994)
    code, printed, _ = call(
        "--print", "--results", rows, "--seeds", 0, 1, 2, "--out", tmp_path / "out"
    )
    assert code == 0
    # fluid 0.60, 0.64, 0.65: mean 0.63, squares 0.0009 + 0.0001 + 0.0004 over 2;
    # the means of two, half of it
    assert cells(printed, 6) == [
        *("6", "crop 320", "0.8401", "0.7567", "0.6826", "0.5182"),
        *("0.8050 ± 0.0132", "0.7050 ± 0.0132", "0.6300 ± 0.0265", "0.4300 ± 0.0265", "3", "2.00"),
    ]
    assert cells(printed, 11) == [
        *("11", "crop 320, L2 1e-3", "0.8312", "0.7464", "", ""),
        *("0.8470", "0.7400", "0.7000", "0.5000", "1", "1.25"),
    ]
    numbers = [line.split()[1] for line in printed.splitlines() if line.startswith("| ")]
    assert numbers == ["row", "6", "11"]
    assert "Published, and ours on real scans: head PSP" in printed
    assert "width 16, 22 validation scans of split paper" in printed
    assert "Dice here is 0.980 to 0.994 whatever the fluid's" in printed
    assert "21 of the 22 validation scans have a neighbour in training" in printed
    assert (tmp_path / "out" / "table2.md").read_text() in printed
    assert f"rows: {rows}" in printed


def test_synthetic_scans_are_called_so(table2, call, tmp_path):
    write_row(table2, tmp_path / "rows", 10, data_kind="phantom")
    _, printed, _ = call("--print", "--out", tmp_path)
    assert "ours on SYNTHETIC scans" in printed and "real scans" not in printed
    assert cells(printed, 10)[6:8] == ["0.7950", "0.7150"]


def test_extended_rows_come_on_demand(table2, call, tmp_path):
    for row in (10, 12, 14):
        write_row(table2, tmp_path / "rows", row)
    numbers = {}
    for asked in ((), ("--extended",), ("--rows", 14, 12)):
        _, printed, _ = call("--print", "--out", tmp_path, *asked)
        lines = [line.split()[1] for line in printed.splitlines() if line.startswith("| ")]
        numbers[asked] = lines[1:]
    assert list(numbers.values()) == [["10"], ["10", "12", "14"], ["14", "12"]]
    assert cells(printed, 14)[2:6] == ["", "", "", ""]
    assert cells(printed, 12)[2:6] == ["0.8351", "0.7509", "", ""]


# Running


class Trainings:
    """In place of subprocess.run: notes what it is to start, leaves results as a training does."""

    def __init__(self, fails_at: int = 0):
        self.started, self.fails_at, self.data = [], fails_at, []

    def __call__(self, command, **options):
        if "git" in command:
            return SimpleNamespace(stdout="", returncode=0)
        command = [str(word) for word in command]
        self.started.append(command)
        self.data.append(os.environ.get("DME_DATA"))
        if len(self.started) == self.fails_at:
            return SimpleNamespace(returncode=2)
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        dice = 0.5 + 0.01 * len(self.started)
        (out / "results.json").write_text(json.dumps(result(dice=dice)))
        return SimpleNamespace(returncode=0)


def test_only_what_is_missing_runs(table2, call, monkeypatch, tmp_path):
    trainings = Trainings()
    monkeypatch.setattr(dme.training.series.subprocess, "run", trainings)
    monkeypatch.setenv("DME_DATA", "another-folder")
    write_row(table2, tmp_path / "rows", 6, seed=0, dice=0.9)
    code, printed, _ = call(
        "--rows", 6, 10, "--seeds", 0, 1, "--out", tmp_path, "--data", "some-folder"
    )
    assert code == 0
    expected = []
    for row, seed in ((6, 1), (10, 0), (10, 1)):
        name = f"{row:02}-seed{seed}"
        expected.append([*arguments(table2, row, seed), "--out", str(tmp_path / name)])
        kept = json.loads((tmp_path / "rows" / f"{name}.json").read_text())
        assert kept["arguments"] == arguments(table2, row, seed)
    assert [command[2:] for command in trainings.started] == expected
    assert {Path(command[1]) for command in trainings.started} == {EXPERIMENTS / "finetune.py"}
    assert trainings.data == ["some-folder"] * 3
    assert cells(printed, 6)[8] == "0.7050 ± 0.2758" and cells(printed, 10)[8] == "0.5250 ± 0.0071"

    code, again, _ = call("--rows", 6, 10, "--seeds", 0, 1, "--out", tmp_path)
    assert code == 0 and len(trainings.started) == 3 and cells(again, 6) == cells(printed, 6)


def test_all_rows_of_the_paper_run_by_default(table2, call, monkeypatch, tmp_path):
    trainings = Trainings()
    monkeypatch.setattr(dme.training.series.subprocess, "run", trainings)
    code, printed, _ = call(
        "--extended", "--weights", "mine.pth", "--amp", "off", "--out", tmp_path / "all"
    )
    assert code == 0 and len(trainings.started) == 22 and cells(printed, 22)[8] == "0.7200"
    for n, command in enumerate(trainings.started, start=1):
        own = {21: "hrf-fcn", 22: "hrf-deeplabv3"}.get(n, "mine.pth")
        assert command.count("--weights") == 1 and command[command.index("--weights") + 1] == own
        assert command[command.index("--amp") + 1] == "off"
    trainings.started.clear()
    call("--out", tmp_path / "paper")
    names = [Path(command[-1]).name for command in trainings.started]
    assert names == [f"{n:02}-seed0" for n in range(1, 12)]


def test_a_failing_row_keeps_those_before_it(table2, call, monkeypatch, tmp_path):
    monkeypatch.setattr(dme.training.series.subprocess, "run", Trainings(fails_at=3))
    code, _, told = call("--out", tmp_path)
    assert code == 2
    assert told.startswith("error: run 03-seed0 failed with exit code 2 (see above); 2 of 11")
    kept = sorted(file.name for file in (tmp_path / "rows").iterdir())
    assert kept == ["01-seed0.json", "02-seed0.json"]
    assert not (tmp_path / "table2.md").exists()


# What a user can get wrong


def test_rows_of_different_data_do_not_mix(table2, call, tmp_path):
    write_row(table2, tmp_path / "rows", 6)
    write_row(table2, tmp_path / "rows", 10, data_sha256="d2")
    code, _, told = call("--print", "--out", tmp_path)
    assert code == 2 and not (tmp_path / "table2.md").exists()
    assert told.startswith(
        f"error: the results in {tmp_path / 'rows'} were made on different data; keep one"
    )
    assert call("--print", "--rows", 10, "--out", tmp_path)[0] == 0


@pytest.mark.parametrize("number", [0, 23, -1])
def test_unknown_rows(call, tmp_path, number):
    code, _, told = call("--rows", 6, number, "--out", tmp_path)
    assert (code, told) == (2, f"error: no row {number}; there are 1 to 22")


def test_nothing_finished(call, tmp_path):
    code, _, told = call("--print", "--out", tmp_path)
    assert code == 2
    assert told == f"error: no finished rows in {tmp_path / 'rows'}; run without --print first"
    assert not any(tmp_path.iterdir())


def test_rows_made_with_other_weights_are_refused(table2, call, tmp_path):
    write_row(table2, tmp_path / "rows", 6)
    code, _, told = call("--print", "--weights", "other.pth", "--out", tmp_path)
    assert code == 2 and "06-seed0.json was made with --iters" not in told
    made_with = "--crop 320 --l2 5e-4 --split paper --weights hrf-psp"
    assert f"06-seed0.json was made with {made_with}" in told
