"""The label curve: tiny networks trained on SYNTHETIC scans, and the table from made-up runs."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.finetuning import make_folder
from helpers.scripts import exit_code, load_script, written_table

from dme.commands import finetune
from dme.common.errors import InputError

SCANS = 12
INDEX = "name,subject,bscan\n" + "".join(f"scan{i:02},{1 + i // 3},{i}\n" for i in range(SCANS))
EYES = {f"scan{i:02}": 1 + i // 3 for i in range(SCANS)}
WET = (0, 1, 1) * 4


@pytest.fixture
def script():
    return load_script("labels")


@pytest.fixture
def tiny(script, monkeypatch):
    """One fold of four eyes; trainings run in this process, of two steps each."""
    protocol = script.Protocol(
        recipe="--recipe best --iters 2 --batch 2 --width 2 --size native",
        splits=("subject:1/2",),
        start="none",
        counts=(1, 2, 4),
        worth=2,
        suggests=True,
        unlabelled="--ema 0.5",
    )
    monkeypatch.setitem(script.PROTOCOLS, "fluid", protocol)
    calls = []

    def train(path: Path, arguments: list[str], out: Path) -> int:
        assert path.name == "finetune.py"
        calls.append(out.name)
        from dme.training.fine_tuning import fine_tune

        fine_tune(finetune.parse_args([*arguments, "--out", str(out)]))
        return 0

    monkeypatch.setattr(script.series, "_run", train)
    return calls


def test_series_of_tiny_networks(script, tiny, tmp_path, monkeypatch):
    data = make_folder(tmp_path / "data", wet=WET, sides=((64, 96),), index=INDEX)
    monkeypatch.setenv("DME_DATA", str(data))
    out = tmp_path / "out"
    words = ("--data", data, "--amp", "off")
    text = written_table(script, out, *words)
    assert len(tiny) == len(set(tiny)) == 4 + 2 + 1  # random, suggest, rest unlabelled
    assert (out / "labels.png").read_bytes().startswith(b"\x89PNG")

    # what is chosen is of the training eyes, and one round keeps what the round before chose
    orders = json.loads((out / "runs" / "orders.json").read_text())["orders"]["subject:1/2"]
    for name, number in (("seed0", 6), ("suggest", 4)):
        assert len(orders[name]) == len(set(orders[name])) == number
        assert {EYES[scan] for scan in orders[name]} <= {2, 4}
    assert orders["suggest"][0] == orders["seed0"][0]
    assert WET[int(orders["seed0"][0][-2:])]

    # the runs learned from these, and were scored on the other eyes
    for run, chosen in (
        ("random-2", orders["seed0"][:2]),
        ("suggest-2", orders["suggest"][:2]),
        ("suggest-4", orders["suggest"]),
        ("unlabelled-2", orders["suggest"][:2]),
        ("random-all", []),
    ):
        path = out / "runs" / f"none-{run}-subject1of2-seed0.json"
        result = json.loads(path.read_text())
        assert result["settings"]["train_on"] == chosen
        assert set(result["subjects"]) == {1, 3}
        # beside them the rest of the training eyes, and nothing of the scored ones
        seen = result.get("unlabelled", {}).get("scans")
        assert seen == (4 if run.startswith("unlabelled") else None)
    index = (out / "training-subject1of2" / "index.csv").read_text().splitlines()[1:]
    assert {int(line.split(",")[1]) for line in index} == {2, 4} and len(index) == 6

    # nothing is run again, and the table is the same from files alone
    before = list(tiny)
    assert written_table(script, out, *words) == text
    assert written_table(script, out, "--amp", "off", "--print") == text
    assert tiny == before
    assert "missing runs |\n" in text and " of 1 |" not in text
    assert "With 2 labels drawn at random" in text or "Not known yet" in text

    # another data set is refused
    other = make_folder(tmp_path / "other", wet=(*WET[:-1], 0), sides=((64, 96),), index=INDEX)
    assert exit_code(script, "--data", other, "--amp", "off", "--out", out) == 2


# ---- from made-up runs


@pytest.fixture
def orders(script) -> dict:
    names = [f"img_{i:03}" for i in range(88)]
    by_order = {f"seed{seed}": names for seed in (0, 1, 2)} | {"suggest": names[:8]}
    return {split: by_order for split in script.PROTOCOLS["fluid"].splits}


@pytest.fixture
def write(script, orders, tmp_path):
    """write(trial, hit, missed): a finished run, of two scans whose pixels add up to these."""
    folder = tmp_path / "runs"
    folder.mkdir()
    args = argparse.Namespace(amp="auto", out=tmp_path)
    (folder / "orders.json").write_text(json.dumps({"data_sha256": "a", "orders": orders}))

    def write(trial, hit: int, missed: int) -> None:
        protocol = script.PROTOCOLS["fluid"]
        counts = [[[90, 0], [missed, 0]], [[90, 0], [0, hit]]]
        content = {
            "arguments": script.arguments(trial, orders, protocol, args),
            "data_kind": "folder",
            "data_sha256": "a",
            "counts_per_scan": {"native": counts},
        }
        (folder / f"{trial.name}.json").write_text(json.dumps(content))

    return write


def test_table_says_what_is_there_and_what_is_missing(script, write, orders, tmp_path):
    first, second = script.PROTOCOLS["fluid"].splits
    for seed, hit in ((0, 40), (1, 60)):
        write(script.Trial("devices-psp", "random", 8, first, seed), hit, 100 - hit)
        write(script.Trial("devices-psp", "random", 8, second, seed), 60, 40)
    write(script.Trial("devices-psp", "random", 8, first, 2), 99, 1)  # its other fold is missing
    for split in (first, second):
        write(script.Trial("devices-psp", "random", None, split, 0), 80, 20)
        write(script.Trial("devices-psp", "suggest", 8, split), 70, 30)
        for seed, hit in ((0, 74), (1, 78)):
            write(script.Trial("devices-psp", script.REST, 8, split, seed), hit, 100 - hit)
    write(script.Trial("none", "random", 2, first), 30, 70)
    text = written_table(script, tmp_path, "--print")

    def dice(*pairs: tuple[int, int]) -> float:
        hit, missed = np.sum(pairs, axis=0)
        return 2 * hit / (2 * hit + missed)

    few = [dice((40, 60), (60, 40)), dice((60, 40), (60, 40))]
    every = dice((80, 20), (80, 20))
    chosen = dice((70, 30), (70, 30))
    mean = f"{np.mean(few):.4f} ± {np.std(few, ddof=1):.4f}"
    share = f"{100 * np.mean(few) / every:.0f} %"
    assert f"| {mean} | {share} | 2 | 1 of 6 |" in text
    assert f"| all (88) | {every:.4f} | {every:.4f} | {every:.4f} | 100 % | 1 | 4 of 6 |" in text
    assert "| synthetic scans | suggest | 16 |  |  |  |  | 0 | 2 of 2 |" in text
    assert f"| nothing | random | 2 | {dice((30, 70)):.4f} |  |  |  | 1 |  |" in text
    assert "| nothing | random | 8 |  |  |  |  | 0 | 1 of 1 |" in text
    assert f"With 8 labels drawn at random you get {share} of the fluid Dice that all 88" in text
    gain = f"({chosen:.4f}, {chosen - np.mean(few):+.4f} against random; seeds: 1)"
    assert f"With 8 that suggest chose: {100 * chosen / every:.0f} % {gain}" in text
    both = [dice((hit, 100 - hit), (hit, 100 - hit)) for hit in (74, 78)]
    mean = f"{np.mean(both):.4f} ± {np.std(both, ddof=1):.4f}"
    share = f"{100 * np.mean(both) / every:.0f} %"
    assert f"suggest, rest unlabelled | 8 | {mean} | {mean} | {mean} | {share} | 2 |" in text
    assert f"chose and the rest unlabelled: {share} ({np.mean(both):.4f}, " in text


def test_order_of_worth(script):
    protocol = script.PROTOCOLS["fluid"]
    stages = script.stages(protocol)
    trials = [trial for stage in stages for trial in stage]
    assert len(trials) == len(set(trials)) == len({trial.name for trial in trials}) == 58 + 4 + 6
    assert {trial.count for trial in stages[0][:12]} == {8, None}
    assert {trial.count for trial in stages[0][:4]} == {8, None}  # of one seed, on both folds
    by_suggest = [trial.count for trial in trials if trial.rule == "suggest"]
    assert by_suggest == sorted(by_suggest) and len(by_suggest) == 2 * 5 + 4
    # whose network chooses is trained before the rest is unlabelled beside its scans
    assert [trial.rule for trial in stages[4]] == ["suggest"] * 4 + [script.REST] * 6
    others = [trial for trial in trials if trial.start != "devices-psp"]
    assert len(others) == 6 and {trial.split for trial in others} == {protocol.splits[0]}

    layers = [t for stage in script.stages(script.PROTOCOLS["layers"]) for t in stage]
    assert len(layers) == len(set(layers)) == 6
    assert {trial.rule for trial in layers} == {"random"}


def test_layers_are_scored_in_px(script):
    runs = [{"boundary_errors_px_per_scan": [[9.0] * 8 + [1.0], [9.0] * 8 + [None]]}]
    runs.append({"boundary_errors_px_per_scan": [[9.0] * 8 + [4.0]]})
    assert script.score("layers", runs) == 2.5


def test_share_of_a_dice_and_of_an_error(script):
    assert script.share("fluid", [0.2, 0.4], [0.6]) == "50 %"
    assert script.share("layers", [3.0], [1.2]) == "2.50 times"
    assert script.share("layers", [], [1.2]) == script.share("fluid", [0.1], []) == ""


def test_too_few_scans_are_refused(script, tiny, monkeypatch, tmp_path):
    data = make_folder(tmp_path / "data", wet=WET, sides=((64, 96),), index=INDEX)
    large = replace(script.PROTOCOLS["fluid"], counts=(1, 6))
    with pytest.raises(InputError, match="6 training scans; expected more than 6"):
        script.open_scans(str(data), large)


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "run without --print first" in capsys.readouterr().err
