"""`suggest`: the list, its picture, what is counted as labelled, and what is refused."""

import csv
import json

import numpy as np
import pytest
from helpers.knowing_networks import Bright, grey_values
from helpers.scan_files import files, picture, save
from helpers.scripts import exit_code, load_script
from torch.nn import functional as F

from dme.data.corrections import Annotation, Corrections, Place


class Leaning(Bright):
    """Calls fluid what is brighter than 100, and the brighter the further to the left."""

    def backbone(self, x):
        return [F.adaptive_avg_pool2d(grey_values(x), 8)]

    def forward(self, x):
        logits = super().forward(x)
        logits[:, 1, :, : x.shape[-1] // 2] += grey_values(x)[:, 0, :, : x.shape[-1] // 2] / 30
        return logits


@pytest.fixture
def suggest(monkeypatch, tmp_path, capsys):
    module = load_script("suggest")

    def call(*arguments, out=tmp_path / "out"):
        with monkeypatch.context() as patch:
            patch.setattr("dme.nets.loading.load_model", lambda name, device: Leaning())
            code = exit_code(module, *arguments, "--out", out)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def scans(tmp_path):
    """Two eyes of four B-scans."""
    for eye in ("left", "right"):
        for i in range(4):
            save(tmp_path / "in" / eye / f"bscan_{i}.png", picture(seed=i))
    return tmp_path / "in"


def listed(out) -> list[dict]:
    with open(out / "suggested.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_list_and_its_picture(suggest, scans, tmp_path):
    code, printed, errors = suggest(scans, "--count", "2")
    assert code == 0, errors
    rows = listed(tmp_path / "out")
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert {row["volume"] for row in rows} == {"left", "right"}
    assert all(row["scan"] in printed for row in rows)
    assert files(tmp_path / "out") == {"suggested.csv", "suggested.png", "suggested.json"}
    record = json.loads((tmp_path / "out" / "suggested.json").read_text())
    assert record["suggested"] == [row["scan"] for row in rows]
    assert len(record["disagreement"]) == 8 and record["settings"]["seed"] == 0
    assert str(tmp_path) not in json.dumps(record)

    again = suggest(scans, "--count", "2", out=tmp_path / "again")
    assert again[0] == 0 and listed(tmp_path / "again") == rows


def test_what_is_done_is_not_suggested_again(suggest, scans, tmp_path):
    first = listed_after(suggest, scans, tmp_path / "one")
    corrections = Corrections(tmp_path / "kept")
    drawn = Annotation(np.zeros((40, 60), np.uint8), done=True)
    for number, name in enumerate(first):
        place = Place(name, 1, number)
        corrections.save(place, picture(), drawn, Annotation())
    second = listed_after(suggest, scans, tmp_path / "two", "--labelled", tmp_path / "kept")
    assert len(second) == 2 and not set(first) & set(second)
    code, _, errors = suggest(scans / "left", "--labelled", tmp_path / "kept")
    assert code == 2 and "which is none of the 4 scans" in errors


def listed_after(suggest, scans, out, *arguments) -> list[str]:
    code, _, errors = suggest(scans, "--count", "2", *arguments, out=out)
    assert code == 0, errors
    return [row["scan"] for row in listed(out)]


def test_what_is_refused(suggest, scans, tmp_path):
    save(tmp_path / "out" / "suggested.png", picture())
    code, _, errors = suggest(scans)
    assert code == 2 and "suggested.png, which no run of dme left there" in errors
    assert suggest(scans, "--count", "0")[0] == 2
    assert "no such file or folder" in suggest(tmp_path / "none")[2]
    errors = suggest(scans, "--labelled", tmp_path, out=tmp_path / "b")[2]
    assert "no state.json in it" in errors


def test_a_scan_that_cannot_be_read_is_said(suggest, scans, tmp_path):
    (scans / "left" / "bscan_9.png").write_bytes(b"no picture")
    code, printed, errors = suggest(scans, "--count", "2")
    assert code == 1 and "skipped" in errors and "bscan_9" in errors
    assert len(listed(tmp_path / "out")) == 2
