"""Layers, and scans that two graders annotated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.matfiles import write_subject_mat

from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.data.phantom import phantom_bscan
from dme.inference.scan import probabilities
from dme.nets.loading import load_model
from dme.retina.accuracy import boundary_errors_px
from dme.retina.boundaries import boundaries_from_probabilities

HALF = ("--iters", 2, "--size", "half", "--max-class-share", 1, "--crop", 48)


def stacked(seeds) -> dict[str, np.ndarray]:
    """Phantom scans as a .mat file holds them: (H, W, N), boundaries (8, W, N)."""
    scans = [phantom_bscan(seed, 124, 192, fluid=True) for seed in seeds]
    return {
        name: np.stack([getattr(scan, name) for scan in scans], 2)
        for name in ("image", "fluid", "layers")
    }


@pytest.fixture(scope="module")
def two_graders(tmp_path_factory) -> Path:
    """Phantom scans of two subjects as .mat files; grader 2 draws every boundary 2 px lower."""
    root = tmp_path_factory.mktemp("mat")
    for subject in (1, 2):
        scans = stacked((10 * subject, 10 * subject + 1))
        layers = scans["layers"]
        layers[:, :30] = np.nan
        layers[4, 60:70] = np.nan
        write_subject_mat(
            root / f"Subject_0{subject}.mat",
            scans["image"],
            scans["fluid"],
            layers,
            fluid2=scans["fluid"],
            layers2=layers + 2,
        )
    return root


@pytest.mark.parametrize("task", ["layers", "layers+fluid"])
def test_layers_of_mat_files_and_of_both_graders(call, two_graders, tiny, tmp_path, capsys, task):
    out = tmp_path / "out"
    data = ("--data", two_graders, "--split", "subject:1/2")
    assert call("--task", task, *data, "--weights", tiny, *HALF, "--out", out) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    classes = len(results["classes"])
    assert classes == 9 + (task == "layers+fluid")
    assert printed.count(f", for {classes} classes") == 2  # both classifiers were replaced
    assert load_model(out / "model.pt").classes == results["classes"]
    assert results["subjects"] == [1, 1]

    # of every column all of whose boundaries are known, each pixel is counted once
    counts = np.array(results["counts_per_scan"]["native"])
    assert counts.shape == (2, classes, classes)
    assert (counts.sum((1, 2)) == 124 * (192 - 30 - 10)).all()
    model = load_model(out / "model.pt").to(memory_format=torch.channels_last)
    cache = open_cache(open_source(two_graders))
    errors = []
    for image, truth in zip(cache.images[:2], cache.layers[:2], strict=True):
        rows = boundaries_from_probabilities(probabilities(model, torch.tensor(image)))
        errors.append(boundary_errors_px(rows, truth))
    np.testing.assert_allclose(results["boundary_errors_px_per_scan"], errors, atol=1e-4)
    assert results["boundaries_px"][-1]["mean"] == pytest.approx(np.mean(errors, 0)[-1])
    assert f"{results['boundaries_px'][0]['mean']:.3f}" in printed

    compared = results["other_grader"]
    assert compared["mean boundary error, px"]["grader"] == pytest.approx(2)
    assert ("fluid Dice" in compared) == (task == "layers+fluid")
    if task == "layers+fluid":
        assert compared["fluid Dice"]["grader"] == 1.0  # they agree on it
    counts = np.array(compared["counts_per_scan"])  # of the network, against the second one
    assert counts.shape == (2, classes, classes)
    assert (out / "layers.png").exists()


def test_a_missing_second_grader_is_said(call, tiny, tmp_path, capsys):
    scans = stacked((1, 2, 3))
    file, out = tmp_path / "Subject_01.mat", tmp_path / "out"
    write_subject_mat(file, scans["image"], scans["fluid"])
    data = ("--data", file, "--split", "random")
    assert call(*data, "--weights", tiny, *HALF, "--out", out) == 0
    assert "no comparison with grader 2: " in capsys.readouterr().out
    assert "other_grader" not in json.loads((out / "results.json").read_text())


def test_a_second_grader_who_left_scans_out_is_said(call, tiny, tmp_path, capsys):
    scans = stacked((1, 2, 3, 4, 5))
    other = np.where(np.arange(5) == 0, scans["fluid"], np.nan)  # the first scan alone
    file = tmp_path / "Subject_01.mat"
    write_subject_mat(file, scans["image"], scans["fluid"], fluid2=other)
    data = ("--data", file, "--split", "random")
    assert call(*data, "--weights", tiny, *HALF, "--out", tmp_path / "out") == 0
    assert "no comparison with grader 2, who left out subject01_bscan" in capsys.readouterr().out


def test_crops_cannot_go_onto_fluid_that_is_no_class(fails, two_graders):
    data = ("--data", two_graders, "--split", "subject:1/2")
    told = fails("--task", "layers", *data, "--on-fluid", 0.5)
    assert told.startswith("crops can be placed on fluid only where fluid is a class")


def test_a_set_without_boundaries_teaches_no_layers(fails):
    told = fails("--task", "layers")
    assert "have no layer boundaries; --task layers needs them" in told
