"""`suggest`: the list, its picture, what is counted as labelled, and what is refused."""

import csv
import json
import shlex
from typing import ClassVar

import numpy as np
import pytest
from helpers.knowing_networks import Bright, grey_values
from helpers.scan_files import files, picture, save
from helpers.scripts import exit_code, load_script
from helpers.vendor_files import raster, write_vol
from torch.nn import functional as F

import dme.inference.scan  # noqa: F401, which must not meet a patched loading first
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

    def call(*arguments, out=tmp_path / "out", network=None):
        with monkeypatch.context() as patch:
            patch.setattr("dme.nets.loading.load_model", lambda name, device: network or Leaning())
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


def test_what_is_there_is_kept(suggest, scans, tmp_path):
    """The next list lies in a numbered folder, as results of predict, and the next command too."""
    first = listed_after(suggest, scans, tmp_path / "out")
    code, printed, errors = suggest(scans, "--count", "3")
    assert code == 0, errors
    assert [row["scan"] for row in listed(tmp_path / "out")] == first
    assert len(listed(tmp_path / "out-2")) == 3
    assert "holds other results or files: writing into" in printed
    assert f"--order {tmp_path / 'out-2' / 'suggested.csv'}" in printed
    save(tmp_path / "other" / "suggested.png", picture())
    assert suggest(scans, out=tmp_path / "other")[0] == 0
    assert files(tmp_path / "other") == {"suggested.png"}


def test_what_decided_is_said(suggest, scans, tmp_path):
    printed = suggest(scans, "--count", "2")[1]
    assert "candidates: 4 of 8 unlabelled scans, those of most disagreement" in printed
    table = [line.split() for line in printed.splitlines() if line.lstrip()[:1] in "12"]
    for cells, row in zip(table, listed(tmp_path / "out"), strict=True):
        assert cells[:2] == [row["rank"], row["scan"]]
        assert float(cells[2]) == pytest.approx(float(row["nats_per_1000_px"]), abs=0.006)
        assert float(cells[3]) == pytest.approx(float(row["stands_for_scans"]), abs=0.06)
    printed = suggest(scans, "--count", "4", out=tmp_path / "all")[1]
    assert "all 8 unlabelled scans" in printed and "disagreement decided nothing" in printed
    assert "no more" not in printed
    printed = suggest(scans, "--count", "50", out=tmp_path / "more")[1]
    assert "8 listed, not 50: there are no more unlabelled scans" in printed


def test_the_next_command_runs_as_it_is_printed(suggest, tmp_path):
    for i in range(3):
        save(tmp_path / "my scans" / f"a {i}.png", picture(seed=i))
    printed = suggest(tmp_path / "my scans", "--volume", out=tmp_path / "the list")[1]
    command = printed.splitlines()[-1].removeprefix("label them: ")
    order = str(tmp_path / "the list" / "suggested.csv")
    assert shlex.split(command)[1:] == [
        "annotate",
        str(tmp_path / "my scans"),
        "--volume",
        "--order",
        order,
    ]


def test_what_is_done_is_not_suggested_again(suggest, scans, tmp_path):
    first = listed_after(suggest, scans, tmp_path / "one")
    corrections = Corrections(tmp_path / "kept")
    drawn = Annotation(np.zeros((40, 60), np.uint8), done=True)
    for number, name in enumerate(first):
        place = Place(name, "eye", number)
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
    assert suggest(scans, "--count", "0")[0] == 2
    assert "no such file or folder" in suggest(tmp_path / "none")[2]
    errors = suggest(scans, "--labelled", tmp_path, out=tmp_path / "b")[2]
    assert "no images in" in errors


class Physical(Leaning):
    """Learnt at 8 x 20 um per pixel; keeps the sizes at which scans enter."""

    entered: ClassVar[set] = set()  # of all copies; sides are padded to multiples of 16

    def __init__(self):
        super().__init__()
        self.preprocess |= {"size": "um", "um_per_px": (8.0, 20.0)}
        self.entered.clear()

    def forward(self, x):
        self.entered.add(tuple(x.shape[-2:]))
        return super().forward(x)


def test_scales_of_files_and_arguments_reach_the_network(suggest, scans, tmp_path):
    network = Physical()
    code, printed, errors = suggest(scans, "--scale", "4,10", network=network)
    assert code == 0, errors
    assert network.entered == {(32, 32)} and "scale unknown" not in printed
    record = json.loads((tmp_path / "out" / "suggested.json").read_text())
    assert record["settings"]["scale_um"] == [4.0, 10.0]

    # what the files say, or nothing
    lines = [f"bscan_{i}.png,1,{i},8,10,120" for i in range(4)]
    header = "name,subject,bscan,axial_um,lateral_um,spacing_um"
    (scans / "left" / "index.csv").write_text("\n".join([header, *lines]) + "\n")
    network = Physical()
    code, _, errors = suggest(scans / "left", network=network, out=tmp_path / "b")
    assert code == 0, errors
    assert network.entered == {(48, 32)}
    printed = suggest(scans / "right", network=Physical(), out=tmp_path / "c")[1]
    assert "note: 4 scans: scale unknown" in printed and "--scale" in printed
    code, _, errors = suggest(scans, "--scale", "0.004,0.01", out=tmp_path / "d")
    assert code == 2 and "these look like mm" in errors


def test_colours_are_read_and_impossible_scales_refused(suggest, scans, tmp_path):
    coloured = np.stack([picture(), picture() // 2, picture() // 3], axis=2)
    save(scans / "left" / "bscan_2.png", coloured)
    assert suggest(scans, "--count", "8")[0] == 0
    path = write_vol(tmp_path / "a.vol", raster(), lateral_mm=0.02)
    code, _, errors = suggest(path, out=tmp_path / "vol")
    assert code == 2 and "give the right one with --scale" in errors
    assert suggest(path, "--scale", "4,10,120", out=tmp_path / "given")[0] == 0


def test_a_scan_that_cannot_be_read_is_said(suggest, scans, tmp_path):
    (scans / "left" / "bscan_9.png").write_bytes(b"no picture")
    code, printed, errors = suggest(scans, "--count", "2")
    assert code == 1 and "skipped" in errors and "bscan_9" in errors
    assert len(listed(tmp_path / "out")) == 2
