"""From a folder to scores: counts, tables, pictures and files of a run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.finetuning import (
    assert_counted,
    confusion,
    image_256,
    make_checkpoint,
    make_folder,
    predicted,
    truth_256,
)
from helpers.scripts import EXPERIMENTS, ROOT
from PIL import Image

from dme.common.files import sha256_file
from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.data.splits import split_indices
from dme.drawing.overlays import CYAN, GREEN, RED, overlay
from dme.inference.protocols import run_protocol
from dme.metrics import CONVENTIONS
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model


def test_the_reported_counts_are_those_of_the_saved_network(done, folder):
    out, results, _ = done
    assert_counted(out, folder)
    counts = np.array(results["counts_per_scan"]["study"])
    assert len(counts) == 2 and not np.array_equal(*counts)
    (_, false_alarms), (missed, found) = counts.sum(0)
    assert found > 0 and false_alarms + missed > 0  # else a wrong order of anything might not show


def test_the_scores_follow_from_the_counts(done):
    _, results, printed = done

    def by_hand(kind: str) -> tuple[list, list]:
        (tn, fp), (fn, tp) = np.array(results["counts_per_scan"][kind]).sum(0).tolist()
        dice = [2 * tn / (2 * tn + fp + fn), 2 * tp / (2 * tp + fp + fn)]
        return dice, [tn / (tn + fp + fn), tp / (tp + fp + fn)]

    dice, iou = by_hand("study")
    pooled = results["pooled"]
    assert pooled["dice"] == pytest.approx(dice, abs=1e-12)
    assert pooled["iou"] == pytest.approx(iou, abs=1e-12)
    assert pooled["mean_dice"] == pytest.approx(np.mean(dice), abs=1e-12)
    assert pooled["mean_iou"] == pytest.approx(np.mean(iou), abs=1e-12)
    assert results["history"] == [[3, pytest.approx(dice[1]), pytest.approx(iou[1])]]
    native_dice, native_iou = by_hand("native")
    assert results["pooled_native"]["dice"] == pytest.approx(native_dice, abs=1e-12)
    scans = np.array(results["counts_per_scan"]["study"]).reshape(-1, 4).tolist()
    wet = []
    true = []  # with fluid in the truth
    for _, fp, fn, tp in scans:
        if tp + fp + fn:
            wet.append((2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)))
        if tp + fn:
            true.append(wet[-1])
    dry = [(1, 1)] * (2 - len(wet))
    means = {
        "positives": np.mean(true, 0),
        "empty_left_out": np.mean(wet, 0),
        "empty_counts_1": np.mean(wet + dry, 0),
        "empty_counts_0": np.sum(wet, 0) / 2,
    }
    expected = {}
    for key, (mean_dice, mean_iou) in means.items():
        expected[key] = pytest.approx({"mean_dice": mean_dice, "mean_iou": mean_iou})
    assert results["per_scan"] == {**expected, "empty": 2 - len(wet)}

    assert "2 validation scans, split random, after 3 steps" in printed
    table = [line.rsplit(maxsplit=2) for line in printed.splitlines()[-15:]]
    rows = [(f"  {CONVENTIONS[key]}", *mean) for key, mean in means.items()]
    for name, *values in (
        ("fluid at 256 x 256, pooled", dice[1], iou[1]),
        *rows,
        ("  pooled, mean with background", np.mean(dice), np.mean(iou)),
        ("fluid at native size, pooled", native_dice[1], native_iou[1]),
    ):
        assert [name, *(f"{value:.4f}" for value in values)] in table
    assert "published" not in printed  # these are not the study's scans
    assert "which of them are of one eye is unknown" in printed
    assert "neighbour" not in printed and "leak" not in printed


def test_scans_without_fluid_are_counted_apart(finetune, tmp_path, capsys):
    """A network that never finds fluid is all wrong in the wet scan, all right in the dry one."""
    model = load_model(make_checkpoint(tmp_path / "dry.pth"))
    with torch.no_grad():
        model.head.classifier.bias.copy_(torch.tensor([500.0, -500.0]))
    save_model(model, tmp_path / "dry.pth")
    results = finetune("--weights", tmp_path / "dry.pth")
    counts = np.array(results["counts_per_scan"]["study"])
    assert counts[:, :, 1].sum() == 0 and sorted(counts[:, 1, 0] > 0) == [False, True]
    assert results["per_scan"] == {
        "positives": {"mean_dice": 0.0, "mean_iou": 0.0},
        "empty_left_out": {"mean_dice": 0.0, "mean_iou": 0.0},
        "empty_counts_1": {"mean_dice": 0.5, "mean_iou": 0.5},
        "empty_counts_0": {"mean_dice": 0.0, "mean_iou": 0.0},
        "empty": 1,
    }
    printed = capsys.readouterr().out
    assert "scans without fluid in truth and prediction: 1" in printed
    lines = [line.rsplit(maxsplit=2) for line in printed.splitlines()]
    assert [f"  {CONVENTIONS['empty_left_out']}", "0.0000", "0.0000"] in lines


def test_a_result_says_where_it_comes_from(done, folder, tiny):
    out, results, printed = done
    sides = split_indices(open_cache(open_source(folder), 256), "random", 0)
    names = [[f"scan{i:02}" for i in side] for side in sides]
    assert results["scans"] == names[1] and len(names[1]) == 2
    leaking = sum(i - 1 in sides[0] or i + 1 in sides[0] for i in sides[1])
    assert (results["split"], results["leak"], results["seed"]) == ("random", leaking, 0)
    assert results["data_kind"] == "folder" and str(folder) in results["data"]
    assert results["data_sha256"] == open_source(folder).sha256
    start = f"tiny.pth (sha256 {sha256_file(tiny)[:12]}), unet, psp head, width 2"
    assert results["start"] == start
    assert results["arch"] == load_model(tiny).arch
    assert {"command", "commit", "time_utc", "versions", "device"} <= results.keys()
    asked = results["settings"]
    expected = {"iters": 3, "crop": 64, "aux_weight": 0.4, "size": "512"}
    assert {name: asked[name] for name in expected} == expected
    assert not {"data", "out", "resume"} & asked.keys()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    phases = ("data", "forward", "backward", "optimiser")
    seconds = [sum(row[f"seconds/{phase}"] for phase in phases) for row in rows]
    assert results["seconds_per_iteration"] == pytest.approx(float(np.median(seconds)))
    assert seconds[0] > 0

    assert printed.splitlines()[:2] == [f"data: {results['data']}", f"start: {start}"]
    # nobody said of which eyes these scans are
    eyes = "which of them are of one eye is unknown (index.csv can say it)"
    assert f"split: random, 8 train, 2 validation scans; {eyes}" in printed.splitlines()
    assert "data note: masks: binary 0/1, 1 is fluid, 255 is ignore" in printed.splitlines()
    assert "replaced" not in printed


def test_the_network_is_left_ready_for_use(done, tiny):
    out, results, _ = done
    model = load_model(out / "model.pt")
    start = load_model(tiny)
    assert model.classes == ["background", "fluid"] and model.preprocess["size"] == "512"
    assert {k: model.preprocess[k] for k in ("mean", "std")} == start.preprocess
    for name in ("start", "data_sha256", "data_kind", "split", "leak", "commit", "time_utc"):
        assert model.weights_extra[name] == results[name]
    assert not {"data", "command"} & model.weights_extra.keys()
    for file in ("model.pt", "best-model.pt"):  # that one shares: nobody's paths
        assert str(out.parent).encode() not in (out / file).read_bytes()
    moved = []
    for after, before in zip(model.parameters(), start.parameters(), strict=True):
        moved.append(not torch.equal(after, before))
    assert np.mean(moved) > 0.9
    expected = {"config.json", "metrics.jsonl", "last.pt", "best-model.pt", "loss.png"}
    expected |= {"model.pt", "results.json", "figure6.png"}
    assert {f.name for f in out.iterdir() if not f.name.startswith("events.")} == expected


def test_the_picture_shows_scan_before_after_and_truth(done, folder, tiny):
    out, results, _ = done
    picture = np.asarray(Image.open(out / "figure6.png"))
    before = load_model(tiny).to(memory_format=torch.channels_last)
    after = load_model(out / "model.pt").to(memory_format=torch.channels_last)
    before.preprocess["size"] = "512"
    most = max(results["scans"], key=lambda name: (truth_256(folder, name) == 1).sum())
    image = np.asarray(Image.open(folder / "images" / f"{most}.png"))
    truth = np.asarray(Image.open(folder / "fluid" / f"{most}.png"))
    cells = [
        np.repeat(image[..., None], 3, axis=2),
        overlay(image, predicted(before, folder, most)["native"], RED),
        overlay(image, predicted(after, folder, most)["native"], CYAN),
        overlay(image, truth, GREEN),
    ]
    # as high as it was taken, not 256 x 256
    height = round(image.shape[0] * 384 / image.shape[1])
    assert picture.shape[1] == 6 + 4 * (384 + 6)
    for column, cell in enumerate(cells):
        left = 6 + column * (384 + 6)
        expected = Image.fromarray(cell).resize((384, height), Image.Resampling.BILINEAR)
        shown = picture[26 : 26 + height, left : left + 384]
        differs = (shown != np.asarray(expected)).any(axis=2)
        assert differs.mean() < 0.01, column  # ties of resized probabilities
    assert not np.array_equal(cells[1] == RED, cells[2] == CYAN)
    assert picture.shape[0] == 26 + len(results["scans"]) * (height + 22)  # two scans, each once


def test_native_size_and_scans_of_several_shapes(finetune, tmp_path):
    data = make_folder(tmp_path / "mixed", sides=((90, 131), (75, 140)))
    results = finetune("--data", data, "--noise", 0.1, "--lr", 1e-5)
    assert np.array(results["counts_per_scan"]["native"])[:, 1, 1].sum() > 0
    assert_counted(tmp_path / "out", data)
    assert results["settings"]["size"] == "native"
    assert load_model(tmp_path / "out" / "model.pt").preprocess["size"] == "native"


def test_fresh_weights_eyes_apart_and_moving_average(finetune, tmp_path, capsys):
    rows = [f"scan{i:02},{1 + i // 3},{i % 3}" for i in range(9)]  # three eyes; scan09 is left out
    data = make_folder(tmp_path / "eyes", index="\n".join(["name,subject,bscan", *rows]))
    start = ("--data", data, "--weights", "none", "--width", 2, "--head", "fcn", "--seed", 5)
    results = finetune(*start, "--split", "subject:1/2", "--eval-every", 1, "--ema", 0.5)
    # subjects 1 and 3 validate
    assert results["scans"] == [f"scan{i:02}" for i in (0, 1, 2, 6, 7, 8)] and results["leak"] == 0
    line = "split: subject:1/2, 3 train, 6 validation scans; 0 of the latter"
    assert line in capsys.readouterr().out
    assert results["start"] == "fresh weights (seed 5), unet, fcn head, width 2"
    assert results["seed"] == 5
    assert_counted(tmp_path / "out", data)
    assert [step for step, _, _ in results["history"]] == [1, 2]
    assert results["history"][1][1:] == [results["pooled"]["dice"][1], results["pooled"]["iou"][1]]


def test_the_interval_by_eye_of_three_eyes(finetune, tmp_path, capsys):
    rows = [f"scan{i:02},{1 + i // 2},{i % 2}" for i in range(10)]  # five eyes
    data = make_folder(tmp_path / "eyes", index="\n".join(["name,subject,bscan", *rows]))
    results = finetune("--data", data, "--split", "subject:1/2")
    assert sorted(set(results["subjects"])) == [1, 3, 5]
    counts = np.array(results["counts_per_scan"]["native"])
    per_eye = counts.reshape(3, 2, 2, 2).sum(1)
    dice = 2 * per_eye[:, 1, 1] / (per_eye[:, 1].sum(1) + per_eye[:, :, 1].sum(1))
    low, high = results["dice_native_interval_by_eye"]
    assert dice.min() <= low <= results["pooled_native"]["dice"][1] <= high <= dice.max()
    assert f"95 % interval by eye: {low:.4f} to {high:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_two_ranks_report_every_scan_once(folder, tiny, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    command += [
        EXPERIMENTS / "finetune.py",
        "--data",
        folder,
        "--weights",
        tiny,
        "--out",
        tmp_path,
    ]
    command += "--iters 1 --crop 64 --batch 4 --seed 1".split()
    finished = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    _, validation = split_indices(open_cache(open_source(folder), 256), "random", 1)
    assert results["scans"] == [f"scan{i:02}" for i in validation]
    assert_counted(tmp_path, folder)
    assert finished.stdout.count("validation scans, split random") == 1


@pytest.mark.slow
def test_real_scans(call, real_data, tmp_path, capsys):
    data = real_data / "chiu2015"
    assert call("--data", data, "--iters", 2, "--crop", 64, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out.splitlines()
    split = "split: paper, 88 train, 22 validation scans"
    assert f"{split}; 21 of the latter have a neighbour in training" in printed
    assert any(text.startswith("start: hrf-psp (sha256 ") for text in printed)
    assert "note: the study's network is four times as wide: --weights hrf-psp-64" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["split"], results["leak"], len(results["scans"])) == ("paper", 21, 22)
    counts = np.array(results["counts_per_scan"]["study"])
    assert counts.shape == (22, 2, 2) and (counts.sum((1, 2)) == 256**2).all()
    assert (counts[:, 1].sum(1) == 0).sum() == 11  # scans without fluid in the truth
    model = load_model(tmp_path / "out" / "model.pt").to(memory_format=torch.channels_last)
    for i in (0, 21):
        name = results["scans"][i]
        mask = np.asarray(Image.open(data / "fluid" / f"{name}.png"))
        truth = Image.fromarray((mask > 0).astype(np.uint8))
        truth = np.array(truth.resize((256, 256), Image.Resampling.BICUBIC))
        image = torch.tensor(image_256(data, name))[None]
        guess = run_protocol(model, image, "light").argmax(1)[0].numpy()
        assert np.array_equal(counts[i], confusion(truth, guess))


def test_results_say_which_unlabelled_scans_were_learnt_from(
    finetune, folder, done, tmp_path, capsys
):
    unlabelled = make_folder(tmp_path / "more", wet=(0, 0, 0), sides=((80, 96),))
    for name in ("scan05", "scan06"):  # two that are labelled
        (unlabelled / "images" / f"{name}.png").write_bytes(
            (folder / "images" / f"{name}.png").read_bytes()
        )
    for mask in (unlabelled / "fluid").iterdir():
        mask.unlink()
    (unlabelled / "fluid").rmdir()
    results = finetune("--unlabelled", unlabelled, "--ema", 0.5, "--unlabelled-weight", 0.3)
    source = open_source(unlabelled)
    assert results["unlabelled"] == {
        "data": f"5 B-scans from {unlabelled} (folder, no fluid labels)",
        "scans": 3,
        "sha256": source.sha256,
    }
    assert results["settings"]["unlabelled_weight"] == 0.3
    assert "unlabelled" not in results["settings"]
    printed = capsys.readouterr().out
    assert f"unlabelled: 3 scans beside the others, of 5 B-scans from {unlabelled}" in printed
    assert "unlabelled note: 2 scans: trained on or scored already, left out" in printed
    _, plain, _ = done
    assert "unlabelled" not in plain


def test_scans_that_train_on_leaves_out_may_be_unlabelled_ones(finetune, folder, done, capsys):
    _, plain, _ = done
    scored = set(plain["scans"])
    wet = "scan01" if "scan01" not in scored else "scan02"
    words = ("--unlabelled", folder, "--ema", 0.5, "--train-on", wet)
    results = finetune(*words)
    assert set(results["scans"]) == scored
    assert results["unlabelled"]["scans"] == 10 - len(scored) - 1
    left_out = f"unlabelled note: {len(scored) + 1} scans: trained on or scored already, left out"
    assert left_out in capsys.readouterr().out
