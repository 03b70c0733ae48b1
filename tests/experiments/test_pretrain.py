"""Pretraining on a made-up set of photographs: scores against a plain loop, then end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hrffolder import make_hrf
from helpers.scripts import EXPERIMENTS, ROOT, exit_code, load_script

from dme.common.errors import InputError
from dme.common.files import sha256_file
from dme.data.cache import open_cache
from dme.data.hrf import open_hrf
from dme.inference.windows import resize, sliding_window
from dme.metrics import scores
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model, normalise
from dme.training import pretraining, vessels
from dme.training.run_folder import read_rows


@pytest.fixture(scope="module")
def script():
    return load_script("pretrain_hrf")


@pytest.fixture
def fails(script, capsys):
    """fails(*arguments): the one line of the script, which must stop with exit code 2."""

    def call(*arguments) -> str:
        assert exit_code(script, *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ")

    return call


def test_joint_networks_share_all_but_their_heads():
    models = pretraining.joint_models(["psp", "fcn", "deeplabv3"], 2)
    assert len({id(model.backbone) for model in models.values()}) == 1
    assert len({id(model.aux_head) for model in models.values()}) == 1
    assert len({id(m.head) for m in models.values()}) == 3
    assert all(m.classes == ["background", "vessel"] for m in models.values())
    assert [m.arch["head"] for m in models.values()] == ["psp", "fcn", "deeplabv3"]


def test_vessel_counts(tmp_path):
    """Against every network by itself, photograph by photograph."""
    root = make_hrf(tmp_path / "hrf")
    half, full = (open_cache(open_hrf(root, scale)) for scale in (0.5, 1.0))
    assert half.images.shape == (45, 32, 48, 3)
    torch.manual_seed(0)
    models = pretraining.joint_models(["psp", "fcn"], 2)
    for model in models.values():  # so that they find something
        torch.nn.init.normal_(model.head.classifier.weight)
    counts, picture = vessels.vessel_counts(models, half, full, [7, 3])
    for name, model in models.items():
        expected = {"scale": torch.zeros(2, 2), "full": torch.zeros(2, 2)}
        for i in (3, 7):
            image = torch.from_numpy(half.images[i]).permute(2, 0, 1)[None]
            with torch.inference_mode():
                logits = sliding_window(model.eval(), normalise(image, model.preprocess))
            for kind, truth in (("scale", half.fluid[i]), ("full", full.fluid[i])):
                found = resize(logits, truth.shape).argmax(1)[0]
                for t in (0, 1):
                    for p in (0, 1):
                        expected[kind][t, p] += (
                            (torch.from_numpy(truth) == t) & (found == p)
                        ).sum()
        for kind, table in expected.items():
            difference = np.abs(counts[name][kind] - table.numpy()).max()
            assert difference <= 2, (name, kind)  # ties of rounding
            assert counts[name][kind].sum() == table.sum() and (table[:, 1] > 0).all()
    assert picture.shape[2] == 3 and picture.dtype == np.uint8


def test_networks_that_make_nan_are_not_scored(tmp_path):
    half = open_cache(open_hrf(make_hrf(tmp_path / "hrf"), 0.5))
    models = pretraining.joint_models(["psp", "fcn"], 2)
    models["fcn"].head.classifier.bias.data[1] = float("nan")
    with pytest.raises(InputError, match=f"makes NaN or infinity of scan {half.names[7]}"):
        vessels.vessel_counts(models, half, half, [7, 3])


def test_networks_of_different_resolution_are_scored_side_by_side():
    """A unet's logits are as large as the image, those of the MobileNets 1/8 and 1/2."""
    torch.manual_seed(0)
    small = {"width": 0.25, "head_channels": 8}
    models = [build_model(width=2), build_model("mobilenet_v2", **small)]
    models.append(build_model("mobilenet_v3_small", **small))
    x = torch.rand(1, 3, 48, 64)
    with torch.inference_mode():
        together = sliding_window(vessels.SideBySide(models).eval(), x, 32, 20).split(2, dim=1)
        for model, logits in zip(models, together, strict=True):
            assert torch.allclose(logits, sliding_window(model, x, 32, 20), atol=1e-6)
            assert logits.std() > 0


def test_best_weights_are_reported(tmp_path):
    models = pretraining.joint_models(["psp", "fcn"], 2)
    for name, model in models.items():
        save_model(model, tmp_path / f"best-{name}.pt")
    best = {name: model.head.classifier.weight.clone() for name, model in models.items()}
    with torch.no_grad():
        for parameter in (*models["psp"].parameters(), *models["fcn"].head.parameters()):
            parameter.add_(1.0)
    loaded = pretraining.load_best(models, tmp_path)
    for name, model in loaded.items():
        assert torch.equal(model.head.classifier.weight, best[name])
        assert model.weights_sha256 == sha256_file(tmp_path / f"best-{name}.pt")
    assert loaded["psp"].backbone is loaded["fcn"].backbone


def test_wrong_arguments(fails, tmp_path):
    together = "--eval-only and --weights go together: name the checkpoints to score"
    assert fails("--eval-only") == together
    assert "go together" in fails("--weights", "hrf-psp")
    told = fails("--heads", "psp", "lraspp")
    assert told.startswith("unknown head 'lraspp' for a unet; choose one of")
    assert fails("--minutes", 0).startswith("minutes is 0.0; expected a finite number above 0")
    assert fails("--minutes", 1, "--iters", 2).startswith("--minutes: expected a number above 0")
    assert fails("--width", 0) == "width is 0; it must be at least 1"
    assert fails("--steps", 0) == "iters is 0; expected a finite number at least 1"
    assert fails("--amp", "fp8").startswith("amp is fp8; expected one of auto")
    assert fails().startswith("no fundus photographs: give --data or HRF_DATA")
    assert fails("--data", tmp_path).startswith(f"{tmp_path} has no images/")
    assert fails("--data", tmp_path, "--scale", 0).startswith(
        "scale is 0.0; expected a finite number above 0"
    )
    assert "nothing.pt" in fails("--eval-only", "--weights", tmp_path / "nothing.pt")
    save_model(build_model(width=2, num_classes=3), tmp_path / "three.pt")
    told = fails("--eval-only", "--weights", tmp_path / "three.pt")
    assert "does not map RGB to background and vessel" in told


def test_networks_that_normalise_differently_are_scored_apart(tmp_path):
    one, other = build_model(width=2), build_model(width=2)
    other.preprocess = {"mean": [0.0] * 3, "std": [255.0] * 3}
    save_model(one, tmp_path / "one.pt")
    save_model(other, tmp_path / "other.pt")
    told = "other.pt and .*one.pt normalise images differently; score one at a"
    with pytest.raises(InputError, match=told):
        pretraining.load_pretrained([str(tmp_path / "one.pt"), str(tmp_path / "other.pt")])


@pytest.mark.slow
def test_from_photographs_to_scores(tmp_path):
    """Two steps at half size; then the checkpoints score what the training reported."""
    root = make_hrf(tmp_path / "hrf", 512, 512)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HRF_DATA": str(root),
    }

    def call(out: Path, *arguments) -> tuple[dict, str]:
        command = [
            sys.executable,
            EXPERIMENTS / "pretrain_hrf.py",
            "--out",
            out,
            *map(str, arguments),
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        return json.loads((out / "results.json").read_text()), done.stdout

    trained, text = call(tmp_path / "run", "--steps", 2, "--width", 2, "--batch", 2)
    assert [row["network"] for row in trained["rows"]] == ["psp", "fcn", "deeplabv3"]
    assert (trained["recipe"], trained["scale"], trained["seed"]) == ("small", 0.5, 0)
    (row,) = read_rows(tmp_path / "run" / "metrics.jsonl")
    step = sum(row[f"seconds/{phase}"] for phase in ("data", "forward", "backward", "optimiser"))
    assert trained["training_minutes"] == pytest.approx(2 * step / 60)
    assert trained["data_sha256"] == open_hrf(root, 0.5).sha256
    files = {f.name for f in (tmp_path / "run").iterdir() if not f.name.startswith("events.")}
    assert files == {
        *("config.json", "metrics.jsonl", "loss.png", "last.pt", "results.json", "vessels.png"),
        *("best-psp.pt", "best-fcn.pt", "best-deeplabv3.pt"),
    }
    for row in trained["rows"]:
        checkpoint = tmp_path / "run" / f"best-{row['network']}.pt"
        assert row["weights_sha256"] == sha256_file(checkpoint)
        assert row["width"] == 2 and load_model(checkpoint).classes == ["background", "vessel"]
        for kind, pixels in (("scale", 30 * 256**2), ("full", 30 * 512**2)):
            counts = np.array(row["counts"][kind])
            assert counts.sum() == pixels
            assert row[f"dice_{kind}"] == pytest.approx(scores(counts)["dice"][1], abs=1e-12)
        assert f"{row['dice_scale']:.4f}" in text

    (scored,) = call(
        tmp_path / "eval", "--eval-only", "--weights", tmp_path / "run" / "best-psp.pt"
    )[0]["rows"]
    for kind in ("dice_scale", "dice_full"):
        assert 0 < scored[kind] == pytest.approx(trained["rows"][0][kind], abs=1e-4)
    assert scored["weights_sha256"] == trained["rows"][0]["weights_sha256"]
    scored = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert scored["recipe"] is scored["training_minutes"] is None
