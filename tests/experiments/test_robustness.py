"""The perturbation table: what is counted, said of whom, and how a user's scans are taken."""

import json

import numpy as np
import pytest
from helpers.scripts import call_main, exit_code, load_script
from PIL import Image

from dme.data.phantom import phantom_bscan
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import build_model


@pytest.fixture(scope="module")
def script():
    return load_script("robustness")


@pytest.fixture
def folder(tmp_path):
    """Two scans, one of them without fluid."""
    for name in ("images", "fluid"):
        (tmp_path / "scans" / name).mkdir(parents=True)
    for seed, wet in enumerate((True, False)):
        scan = phantom_bscan(seed, 64, 96, fluid=wet)
        Image.fromarray(scan.image).save(tmp_path / "scans" / "images" / f"{seed}.png")
        Image.fromarray(scan.fluid * 255).save(tmp_path / "scans" / "fluid" / f"{seed}.png")
    return tmp_path / "scans"


@pytest.fixture
def everything_is_fluid(tmp_path):
    """A network that calls every pixel fluid."""
    model = build_model(width=4, head="fcn", aux=False)
    model.head.classifier.weight.data.zero_()
    model.head.classifier.bias.data[:] = model.head.classifier.bias.new_tensor([-5.0, 5.0])
    model.classes = ["background", "fluid"]
    model.preprocess = model.preprocess | {"size": "native"}
    save_model(model, tmp_path / "all.pt")
    return tmp_path / "all.pt"


def test_own_scans_are_scored_row_by_row(script, folder, everything_is_fluid, tmp_path):
    words = ["--data", folder, "--weights", everything_is_fluid, "--healthy", folder / "images"]
    call_main(script, *words, "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = result["networks"][0]["perturbations"]
    wet = phantom_bscan(0, 64, 96, fluid=True).fluid.sum()

    # all 64 x 96 pixels of both scans are called fluid
    plain = rows["as it is"]
    px = 64 * 96
    assert np.sum(plain["counts_per_eye"], axis=0).tolist() == [[0, 2 * px - wet], [0, wet]]
    assert plain["false_px_without_fluid"] == px
    assert plain["false_px_healthy"] == 2 * px
    assert rows["half size"]["false_px_without_fluid"] == px // 4

    # a scan that is refused counts nowhere
    inverted = rows["inverted"]
    assert inverted["refused"] == 2
    assert inverted["scans_without_fluid"] == 0
    table = (tmp_path / "out" / "robustness.md").read_text()
    dice = 2 * wet / (2 * px + wet)
    assert (
        f"| as it is | 2 | {dice:.3f} | {wet / (2 * px):.3f} | 1.000 | {px:,} (1 scans)" in table
    )
    assert "| inverted | 2, 2 refused | none |" in table


def test_networks_side_by_side(script, folder, everything_is_fluid, tmp_path):
    words = ["--data", folder, "--rows", "as it is", "--out", tmp_path / "out"]
    call_main(script, *words, "--weights", everything_is_fluid, everything_is_fluid)
    table = (tmp_path / "out" / "robustness.md").read_text().split("| perturbation |")[1]
    wet = phantom_bscan(0, 64, 96, fluid=True).fluid.sum()
    dice = 2 * wet / (2 * 64 * 96 + wet)
    assert f"| as it is | {dice:.3f} | {dice:.3f} |" in table


def test_scans_without_masks_are_refused(script, folder, tmp_path, capsys):
    words = ["--data", folder / "images", "--out", tmp_path / "out"]
    assert exit_code(script, *words) == 2
    assert "no fluid masks" in capsys.readouterr().err
