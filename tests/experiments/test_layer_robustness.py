"""Layers in perturbed scans: errors in pixels of the scan as it is, and the table."""

import shutil

import numpy as np
import pytest
from helpers.finetuning import make_folder
from helpers.scripts import exit_code, load_script

import dme.inference.scan
from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.retina.rows import scale_rows


@pytest.fixture
def script():
    return load_script("layer_robustness")


@pytest.mark.parametrize("row", ["as it is", "speckle 0.3", "half size", "256 x 256"])
def test_errors_are_those_of_the_scan_as_it_is(script, monkeypatch, row):
    cache = open_cache(open_source("phantom"))
    before = cache.images[0].shape
    scales = []

    def look(model, image, scale_um):
        scales.append(scale_um)

    def two_pixels_low(model, image, by_class, fluid):
        rows = scale_rows(cache.layers[0], before, image.shape)
        return rows + 2 * image.shape[0] / before[0]

    monkeypatch.setattr(dme.inference.scan, "class_probabilities", look)
    monkeypatch.setattr(dme.inference.scan, "layer_rows", two_pixels_low)
    error = script.error_px(None, cache, 0, row, (4.0, 10.0))
    assert error == pytest.approx(2, abs=1e-3)
    expected = {"half size": (8.0, 20.0), "256 x 256": (4 * before[0] / 256, 10 * before[1] / 256)}
    assert scales == [pytest.approx(expected.get(row, (4.0, 10.0)))]


def test_table(script):
    errors = {row: [1.0, 3.0, np.nan] for row in script.ROWS}
    network = {"weights": "net", "weights_sha256": "ab" * 32, "errors_px_per_scan": errors}
    result = {
        "data": "3 B-scans",
        "data_kind": "phantom",
        "split": "subject:1/2",
        "subjects": [1, 2, 2],
        "networks": [network],
    }
    text = script.markdown(result)
    assert "in perturbed SYNTHETIC scans" in text and "validation scans of subject:1/2" in text
    assert "| perturbation | net (abababab) |" in text
    assert "| half size, scale unknown | 2.00 (1.00 to 3.00) |" in text


def test_scans_without_boundaries_are_refused(script, tmp_path, capsys):
    folder = make_folder(tmp_path / "fluid", wet=(0, 1))
    shutil.rmtree(folder / "boundaries", ignore_errors=True)
    assert exit_code(script, "--data", folder, "--out", tmp_path / "out") == 2
    assert "have no layer boundaries; give a folder with boundaries/" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
