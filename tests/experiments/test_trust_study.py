"""Samples of the trust study, of a network that calls bright pixels fluid, counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.knowing_networks import Bright
from helpers.scan_files import picture
from helpers.scripts import load_script

from dme.bscan import BScan
from dme.commands.predict import FIT_THRESHOLD
from dme.data.source import Source

BLOCK = (slice(10, 15), slice(20, 28))  # the bright pixels of `picture`: 40 of 2400


@pytest.fixture(scope="module")
def script():
    return load_script("trust")


@pytest.fixture
def scan() -> BScan:
    """Of the bright block the left half is fluid."""
    image = picture()
    fluid = np.zeros_like(image)
    fluid[10:15, 20:24] = 1
    return BScan("scan", image, fluid, subject=3, scale_um=(4.0, 10.0, 100.0))


def source_of(*scans: BScan, sha256: str = "a") -> Source:
    return Source("folder", "", sha256, "SYNTHETIC", lambda source, labelled_only: iter(scans))


@pytest.fixture
def run_folder(tmp_path, monkeypatch) -> Path:
    """What a fine-tuning left whose network is Bright."""
    monkeypatch.setattr("dme.nets.loading.load_model", lambda path: Bright().eval())
    folder = tmp_path / "fold"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "results.json").write_text(json.dumps({"scans": ["scan", "unknown"]}))
    return folder


def test_a_sample_by_hand(script, scan):
    sample = script.measured(Bright().eval(), scan)
    assert sample["found_share"] == 40 / 2400 and sample["true_share"] == 20 / 2400
    assert sample["dice"] == 2 * 20 / (40 + 20)
    assert sample["mm2"] == pytest.approx(2400 * 40e-6)
    empty = replace(scan, image=np.full_like(scan.image, 50), fluid=np.zeros_like(scan.fluid))
    assert script.measured(Bright().eval(), empty)["dice"] == 1


def test_unknown_pixels_are_neither_right_nor_wrong(script, scan):
    """With the block's right half unknown all that is found and known is right."""
    scan.fluid[:, 24:30] = 255  # 240 pixels
    sample = script.measured(Bright().eval(), scan)
    assert sample["found_share"] == sample["true_share"] == 20 / 2160
    assert sample["dice"] == 1
    assert sample["mm2"] == pytest.approx(2160 * 40e-6)


def test_scans_are_measured_once(script, scan, run_folder, tmp_path):
    unknown = replace(scan, name="unknown", fluid=np.full_like(scan.fluid, 255))
    others = replace(scan, name="trained on")
    first = script.samples_of(run_folder, source_of(scan, unknown, others), tmp_path)
    assert [sample["scan"] for sample in first] == ["scan"]
    # the same data are not looked at again, other data are
    assert script.samples_of(run_folder, source_of(), tmp_path) == first
    assert script.samples_of(run_folder, source_of(sha256="b"), tmp_path) == []


def test_fluid_is_where_predict_says(script, scan, monkeypatch):
    """The fit is for the threshold that predict takes without a word."""
    assert script.FIT_THRESHOLD == FIT_THRESHOLD
    grey = replace(scan, image=np.where(scan.image > 100, 105, 50).astype(np.uint8))
    assert script.measured(Bright().eval(), grey)["found_share"] == 40 / 2400
    monkeypatch.setattr(script, "FIT_THRESHOLD", 0.9)  # 105 is fluid with 0.56
    assert script.measured(Bright().eval(), grey)["found_share"] == 0
