"""The preliminary study: numbers by hand on a small set, the published ones on the real set."""

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
    """3 eyes of 5 B-scans, 20 x 40 px: 8 px of fluid in the first of eye 1 and in all of eye 2."""
    for subject in (1, 2, 3):
        for position in range(5):
            image = np.full((20, 40), 50, np.uint8)
            mask = np.zeros((20, 40), np.uint8)
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


GRADED_PX = 15 * 800 - 400  # of the set


@pytest.fixture
def small_set(tmp_path) -> Path:
    return make_set(tmp_path / "set")


def test_numbers_by_hand(prepare, small_set):
    results = prepare("--data", small_set, "--split", "subject:2/3", "--size", 16)
    assert results["sizes"] == {"20 x 40": 15}
    assert results["resized"]["size"] == "16 x 16"
    assert results["scans_over_1_percent_wedge"] == 5
    assert "masks: instance ids 2..2, fluid is id > 0, 255 is ignore" in results["notes"]
    assert {"command", "commit", "data_sha256"} <= set(results)

    total = results["total"]
    assert total["scans"] == 15
    assert total["empty"] == 9
    assert total["fluid_px"] == 48
    assert total["fluid_percent"] == pytest.approx(100 * 48 / GRADED_PX)
    assert total["wedge_percent"] == pytest.approx(10 / 3)
    assert results["graded_per_fluid_px"] == pytest.approx(GRADED_PX / 48)

    # of the three eyes
    eyes = [results["subjects"][eye] for eye in "123"]
    assert [eye["empty"] for eye in eyes] == [4, 0, 5]
    assert [eye["fluid_percent"] for eye in eyes] == pytest.approx([0.2, 1.0, 0.0])
    assert [eye["wedge_percent"] for eye in eyes] == pytest.approx([0, 0, 10])
    assert results["split"] == {
        "name": "subject:2/3",
        "train": 10,
        "validation": 5,
        "validation_beside_train": 0,
        "validation_empty": 0,
    }


def test_the_value_of_fluid_can_be_given(prepare, small_set, capsys):
    """Of masks with 0, 2 and 255 it is 2, or what somebody says."""
    results = prepare("--data", small_set, "--fluid-value", 0, "--split", "random")
    assert results["total"]["fluid_px"] == GRADED_PX - 48
    assert (
        "masks: fluid is 0, as `fluid_value` says, all else background, 255 is ignore"
        in (results["notes"])
    )
    capsys.readouterr()
    assert exit_code(prepare.script, "--data", small_set, "--fluid-value", 7) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "--fluid-value 7: no mask holds it, values are 0 (" in message


def test_masks_that_cannot_be_understood_name_the_option(prepare, small_set, capsys):
    for file in (small_set / "fluid").iterdir():
        mask = np.asarray(Image.open(file))
        Image.fromarray(255 - 255 * (mask == 2).astype(np.uint8)).save(file)
    assert exit_code(prepare.script, "--data", small_set) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "99.6 % would be fluid" in message
    assert message.endswith("say which value is fluid by --fluid-value, 0 perhaps")


def test_what_is_printed_and_drawn(prepare, small_set, tmp_path, capsys):
    prepare("--data", small_set, "--split", "subject:2/3", "--size", 16)
    printed = capsys.readouterr().out
    assert printed.startswith("data: 15 B-scans from")
    assert "255 is ignore" in printed
    assert "15 of 20 x 40 px" in printed
    table = {}
    for line in printed.splitlines():
        if line.startswith("  "):
            name, *numbers = line.split()
            table[name] = numbers
    assert table["2"] == ["5", "0", "1.00", "0.00"]
    assert table["all"] == ["15", "9", "0.41", "3.33"]
    examples = Image.open(tmp_path / "out" / "examples.png")
    assert examples.width > 3 * 384  # three pictures side by side


def test_random_split_leaks_and_is_the_default(prepare, small_set):
    split = prepare("--data", small_set)["split"]
    assert split["name"] == "random"
    assert split["train"] == 12
    assert split["validation"] == 3
    assert split["validation_beside_train"] > 0


def test_neighbours_are_only_told_of_eyes_that_are_known(prepare, small_set, capsys):
    prepare("--data", small_set)
    assert (
        "leak: an adjacent annotated B-scan of the same eye is in train" in capsys.readouterr().out
    )
    for folder in ("images", "fluid"):
        for file in (small_set / folder).iterdir():
            file.rename(file.with_stem(file.stem.replace("subject", "scan")))
    prepare("--data", small_set)
    printed = capsys.readouterr().out
    assert "which are of one eye is unknown" in printed
    assert "leak" not in printed and "same eye" not in printed


def test_panel_shows_fluid_first_then_empty_scans(prepare, small_set, monkeypatch):
    shown = {}

    def spy(rows, columns, titles):
        shown.update(rows=rows, titles=titles)

    monkeypatch.setattr("dme.data.description.panel", spy)
    monkeypatch.setattr("dme.drawing.canvas.save_png", lambda path, picture: None)
    prepare("--data", small_set)
    assert shown["titles"] == [
        "subject 1, B-scan 0: 1.00 % fluid",
        "subject 2, B-scan 0: 1.00 % fluid",
        "subject 1, B-scan 1: no fluid",
        "subject 3, B-scan 0: no fluid",
    ]
    annotations = [row[1] for row in shown["rows"]]
    assert set(annotations[0].flat) == {0, 255}
    assert set(annotations[3].flat) == {0, 128}  # not graded is grey


def test_phantom_is_called_synthetic(prepare, monkeypatch, capsys):
    def scans():
        for position in range(10):
            fluid = np.zeros((20, 40), np.uint8)
            fluid[5, : position + 1] = 1
            image = np.zeros((20, 40), np.uint8)
            yield BScan(f"p{position}", image, fluid, position=position)

    monkeypatch.setattr(phantom, "phantom_set", scans, raising=False)
    results = prepare()
    first_line = capsys.readouterr().out.splitlines()[0]
    assert "SYNTHETIC" in results["data"]
    assert "SYNTHETIC" in first_line
    assert results["total"]["fluid_px"] == 55
    assert results["split"]["name"] == "random"


def test_bad_input_writes_nothing(prepare, small_set, tmp_path, capsys):
    data = small_set
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
    assert stderr.startswith("error: no such file")
    assert stderr.count("\n") == 1


def test_real_set_gives_the_published_numbers(prepare, real_data):
    results = prepare("--data", real_data / "chiu2015")
    assert results["sizes"] == {"496 x 768": 110}
    total = results["total"]
    assert total["scans"] == 110
    assert total["empty"] == 32
    assert round(total["fluid_percent"], 2) == 0.83
    assert len(results["subjects"]) == 10
    assert all(row["scans"] == 11 for row in results["subjects"].values())
    assert results["split"] == {
        "name": "paper",
        "train": 88,
        "validation": 22,
        "validation_beside_train": 21,
        "validation_empty": 11,
    }
