"""The preliminary study: its numbers by hand on a small set, the published ones on the real set."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import call_main, exit_code, load_script
from PIL import Image

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data import phantom


@pytest.fixture
def prepare(tmp_path):
    """prepare(*arguments) runs the script and returns its results."""
    script = load_script("prepare")

    def call(*arguments) -> dict:
        out = tmp_path / "out"
        call_main(script, "--out", out, *arguments)
        return json.loads((out / "results.json").read_text())

    call.script = script
    return call


def make_set(root: Path) -> Path:
    """3 eyes, 5 B-scans of 20 x 40 px each: 8 px of fluid in the first of eye 1 and in every one of eye 2."""
    for subject in (1, 2, 3):
        for position in range(5):
            image, mask = np.full((20, 40), 50, np.uint8), np.zeros((20, 40), np.uint8)
            if subject == 3:
                image[:2] = 255  # a wedge of a tenth
            if subject == 2 or (subject, position) == (1, 0):
                mask[5:7, 10:14] = 2
            if (subject, position) == (3, 0):
                mask[10:] = 255  # half of this scan was not graded
            for folder, pixels in (("images", image), ("fluid", mask)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / folder / f"subject{subject}_{position}.png")
    return root


def test_numbers_by_hand(prepare, tmp_path, capsys):
    found = prepare("--data", make_set(tmp_path / "set"), "--split", "subject:2/3", "--size", 16)
    assert found["sizes"] == {"20 x 40": 15}
    total, graded_px = found["total"], 15 * 800 - 400
    assert (total["scans"], total["empty"], total["fluid_px"]) == (15, 9, 48)
    assert total["fluid_percent"] == pytest.approx(100 * 48 / graded_px)
    assert total["wedge_percent"] == pytest.approx(10 / 3)
    assert found["graded_per_fluid_px"] == pytest.approx(graded_px / 48)
    assert [found["subjects"][s]["empty"] for s in "123"] == [4, 0, 5]
    assert [found["subjects"][s]["fluid_percent"] for s in "123"] == pytest.approx([0.2, 1.0, 0.0])
    assert [found["subjects"][s]["wedge_percent"] for s in "123"] == pytest.approx([0, 0, 10])
    assert found["scans_over_1_percent_wedge"] == 5
    assert found["resized"]["size"] == "16 x 16"
    assert found["split"] == {
        "name": "subject:2/3",
        "train": 10,
        "validation": 5,
        "validation_beside_train": 0,
        "validation_empty": 0,
    }
    assert "masks: instance ids 2..2, fluid is id > 0, 255 is ignore" in found["notes"]
    assert {"command", "commit", "data_sha256"} <= set(found)

    printed = capsys.readouterr().out
    assert printed.startswith("data: 15 B-scans from")
    assert "255 is ignore" in printed and "15 of 20 x 40 px" in printed
    table = {
        line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.startswith("  ")
    }
    assert table["2"] == ["5", "0", "1.00", "0.00"]
    assert table["all"] == ["15", "9", "0.41", "3.33"]
    assert (
        Image.open(tmp_path / "out" / "examples.png").size[0] > 3 * 384
    )  # three pictures side by side


def test_random_split_leaks_and_is_the_default(prepare, tmp_path):
    split = prepare("--data", make_set(tmp_path / "set"))["split"]
    assert (split["name"], split["train"], split["validation"]) == ("random", 12, 3)
    assert split["validation_beside_train"] > 0


def test_panel_shows_fluid_first_then_empty_scans(prepare, tmp_path, monkeypatch):
    shown = {}

    def spy(rows, columns, titles):
        shown.update(rows=rows, titles=titles)

    monkeypatch.setattr("dme.data.description.panel", spy)
    monkeypatch.setattr("dme.drawing.canvas.save_png", lambda path, picture: None)
    prepare("--data", make_set(tmp_path / "set"))
    assert shown["titles"] == [
        "subject 1, B-scan 0: 1.00 % fluid",
        "subject 2, B-scan 0: 1.00 % fluid",
        "subject 1, B-scan 1: no fluid",
        "subject 3, B-scan 0: no fluid",
    ]
    assert np.unique(shown["rows"][0][1]).tolist() == [0, 255]
    assert np.unique(shown["rows"][3][1]).tolist() == [0, 128]  # not graded is grey


def test_phantom_is_called_synthetic(prepare, monkeypatch, capsys):
    def scans():
        for position in range(10):
            fluid = np.zeros((20, 40), np.uint8)
            fluid[5, : position + 1] = 1
            yield BScan(f"p{position}", np.zeros((20, 40), np.uint8), fluid, position=position)

    monkeypatch.setattr(phantom, "phantom_set", scans, raising=False)
    found = prepare()
    assert "SYNTHETIC" in found["data"] and "SYNTHETIC" in capsys.readouterr().out.splitlines()[0]
    assert found["total"]["fluid_px"] == 55 and found["split"]["name"] == "random"


def test_bad_input_writes_nothing(prepare, tmp_path, capsys):
    data = make_set(tmp_path / "set")
    with pytest.raises(InputError, match="split"):
        prepare("--data", data, "--split", "paper")
    with pytest.raises(InputError, match="unknown split"):
        prepare("--data", data, "--split", "eyes")
    (data / "fluid").rename(data / "other")
    with pytest.raises(InputError, match="without fluid labels"):
        prepare("--data", data)
    assert not (tmp_path / "out").exists()

    capsys.readouterr()
    assert exit_code(prepare.script, "--data", tmp_path / "nowhere") == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: no such file") and stderr.count("\n") == 1


def test_real_set_gives_the_published_numbers(prepare, real_data):
    found = prepare("--data", real_data / "chiu2015")
    assert found["sizes"] == {"496 x 768": 110}
    assert (found["total"]["scans"], found["total"]["empty"]) == (110, 32)
    assert round(found["total"]["fluid_percent"], 2) == 0.83
    assert (
        all(row["scans"] == 11 for row in found["subjects"].values())
        and len(found["subjects"]) == 10
    )
    assert found["split"] == {
        "name": "paper",
        "train": 88,
        "validation": 22,
        "validation_beside_train": 21,
        "validation_empty": 11,
    }
