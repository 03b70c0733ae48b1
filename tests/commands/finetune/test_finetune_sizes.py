"""Scans of different sizes train together, whatever the recipe's crop, and it is said how."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dme.data.phantom import phantom_bscan

SIDES = ((96, 128), (110, 120), (90, 150), (120, 130), (100, 160), (104, 140))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Synthetic scans of six sizes with fluid and boundaries."""
    root = tmp_path_factory.mktemp("mixed") / "own"
    for name in ("images", "fluid", "boundaries"):
        (root / name).mkdir(parents=True)
    for seed, (height, width) in enumerate(SIDES):
        scan = phantom_bscan(seed, height, width, fluid=True)
        Image.fromarray(scan.image).save(root / "images" / f"s{seed}.png")
        Image.fromarray((scan.fluid == 1).astype(np.uint8)).save(root / "fluid" / f"s{seed}.png")
        np.save(root / "boundaries" / f"s{seed}.npy", scan.layers.astype(np.float32))
    return root


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--recipe", "best"), "px wide, samples 60 x 80 px: what they do not cover is unknown"),
        (("--recipe", "best", "--crop", 56), "samples 56 x 56 px: what they do not cover is"),
        (("--recipe", "layers"), "crop 80 instead of 240: no training scan is larger"),
        (("--recipe", "layers", "--task", "layers+fluid"), "samples 80 x 80 px"),
        (("--recipe", "study"), None),  # all are squares of 512 px
    ],
)
def test_scans_of_different_sizes_train(call, mixed, tiny, tmp_path, capsys, arguments, told):
    out = tmp_path / "out"
    quick = ("--weights", tiny, "--iters", 1, "--batch", 2, "--head", "psp", "--split", "all")
    assert call(*arguments, "--data", mixed, *quick, "--out", out) == 0
    printed = capsys.readouterr().out
    assert (told is None) == ("training scan" not in printed)
    assert told is None or told in printed
    results = json.loads((out / "results.json").read_text())
    assert results["split"] == "all" and (out / "model.pt").exists()
    assert arguments[1] != "layers" or results["settings"]["crop"] == 80


def test_samples_of_mixed_scans_hold_whole_scans_and_the_unknown(prepared, mixed):
    same = ("--data", mixed, "--split", "all", "--size", "native", "--crop", 0)
    data = prepared(*same)["data"]
    assert data.frame(0) == (120, 160)
    for mask, (height, width) in zip(data.masks, SIDES, strict=True):
        assert mask.shape == (height, width) and not torch.any(mask == 255)


def test_a_guessed_scale_and_a_run_of_warmup_are_said(call, mixed, tiny, tmp_path, capsys):
    quick = ("--weights", tiny, "--iters", 1, "--batch", 2, "--synthetic", 0, "--split", "all")
    arguments = ("--recipe", "fluid", "--data", mixed, "--unlabelled", mixed.parent / "more")
    (mixed.parent / "more").mkdir(exist_ok=True)
    image = phantom_bscan(9, 100, 130).image
    Image.fromarray(image).save(mixed.parent / "more" / "x.png")
    assert call(*arguments, *quick, "--out", tmp_path / "guessed") == 0
    printed = capsys.readouterr().out
    note = f"note: {len(SIDES)} scans: scale unknown"
    assert note in printed and "give the scale with --scale" in printed
    assert "unlabelled note: 1 scan: scale unknown" in printed
    assert "note: --iters 1 of a --warmup of 50 steps" in printed

    stated = ("--scale", "3.87,11.33", "--warmup", 0)
    assert call(*arguments, *quick, *stated, "--out", tmp_path / "stated") == 0
    printed = capsys.readouterr().out
    assert "scale unknown" not in printed and "--warmup" not in printed


def test_a_stated_scale_decides_the_size_of_training_scans(prepared, mixed):
    physical = ("--split", "all", "--size", "um", "--um-per-px", 7.74, 22.66, "--crop", 0)
    data = prepared("--data", mixed, *physical, "--scale", "3.87,22.66")["data"]
    for mask, (height, width) in zip(data.masks, SIDES, strict=True):
        assert mask.shape == (height // 2, width)
