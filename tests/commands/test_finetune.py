"""Fine-tuning from end to end on a made-up folder: what is trained on, what is reported, what is refused."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.matfiles import write_subject_mat
from helpers.scripts import EXPERIMENTS, ROOT, call_main, exit_code, finetune_settings, load_script
from PIL import Image
from torch.nn import functional as F

from dme.common.files import sha256_file
from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.data.phantom import phantom_bscan
from dme.data.splits import split_indices
from dme.drawing.overlays import CYAN, GREEN, RED, overlay
from dme.inference.protocols import run_protocol
from dme.inference.scan import probabilities
from dme.inference.windows import whole
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model, normalise
from dme.retina.accuracy import boundary_errors_px
from dme.retina.boundaries import boundaries_from_probabilities
from dme.training import fine_tuning
from dme.training.recipe import OPTIMIZERS
from dme.training.settings import Augment, Finetune, Recipe

RUN = ("--iters", 3, "--crop", 64)
WET = (1, 1, 0, 1, 1, 1, 0, 1, 1, 0)  # which of the made-up scans hold fluid


class Stopped(Exception):
    """A test has seen what it wanted."""


def make_folder(root: Path, wet=WET, sides=((96, 128),), index: str | None = None) -> Path:
    """Grey noise with a bright ellipse where there is fluid; the rightmost columns of scan00 are unknown."""
    rng = np.random.default_rng(0)
    for name in ("images", "fluid"):
        (root / name).mkdir(parents=True)
    for i, fluid in enumerate(wet):
        height, width = sides[i % len(sides)]
        y, x = np.mgrid[:height, :width]
        centre = (0.4 * height + 2 * i, 0.5 * width + 3 * i)
        mask = (
            fluid * (((y - centre[0]) / (12 + i)) ** 2 + ((x - centre[1]) / 25) ** 2 < 1)
        ).astype(np.uint8)
        image = (70 + 90 * mask + rng.normal(0, 25, mask.shape)).clip(0, 255).astype(np.uint8)
        if i == 0 and any(wet):  # beside nothing but 0, 255 would mean fluid
            mask[:, -20:] = 255
        Image.fromarray(image).save(root / "images" / f"scan{i:02}.png")
        Image.fromarray(mask).save(root / "fluid" / f"scan{i:02}.png")
    if index:
        (root / "index.csv").write_text(index)
    return root


def make_checkpoint(path: Path, steps: int = 0, seed: int = 2, **arch) -> Path:
    """A tiny network; after some steps of training it takes bright discs for fluid, so finds both classes."""
    torch.manual_seed(seed)
    model = build_model(**{"width": 2} | arch).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for step in range(steps):
        centres, radii = 64 * torch.rand(2, 2, 1, 1), torch.tensor([15, 25])
        disc = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2 < radii[:, None, None] ** 2
        noise = torch.randn(
            2, 1, 64 >> step % 3, 64 >> step % 3
        )  # fine, or coarse as of scans enlarged
        noise = F.interpolate(noise, (64, 64), mode="bilinear")[:, 0]
        logits = model(normalise((70 + 90 * disc + 25 * noise).clamp(0, 255), model.preprocess))
        optimizer.zero_grad()
        F.cross_entropy(logits, disc.long()).backward()
        optimizer.step()
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def script():
    return load_script("finetune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth", steps=60, seed=4)


@pytest.fixture
def call(script):
    """call(*arguments) runs the script and returns its exit code."""
    return lambda *arguments: exit_code(script, *arguments)


@pytest.fixture
def finetune(call, folder, tiny, tmp_path):
    """finetune(*arguments) trains for a moment, on the scans' own pixels, which are quickly validated."""
    base = ("--data", folder, "--weights", tiny, "--iters", 2, "--crop", 64, "--size", "native")

    def finetune(*arguments, code: int = 0) -> dict | None:
        assert call(*base, "--out", tmp_path / "out", *arguments) == code
        return None if code else json.loads((tmp_path / "out" / "results.json").read_text())

    return finetune


@pytest.fixture
def fails(call, folder, tiny, tmp_path, capsys):
    """fails(*arguments): the script stops with exit code 2 and leaves nothing; returns its one line."""
    base = ("--data", folder, "--weights", tiny, "--iters", 2, "--crop", 64, "--size", "native")

    def fails(*arguments) -> str:
        assert call(*base, "--out", tmp_path / "refused", *arguments) == 2
        assert not (tmp_path / "refused").exists()
        *progress, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and all("scan" in bar for bar in progress if bar)
        return line.removeprefix("error: ")

    return fails


@pytest.fixture
def prepared(script, call, monkeypatch, folder, tiny, tmp_path):
    """prepared(*arguments): what the script hands to the training loop, which does not run."""
    base = (
        "--data",
        folder,
        "--weights",
        tiny,
        "--crop",
        64,
        "--size",
        "native",
        "--out",
        tmp_path / "prepared",
    )

    def prepared(*arguments) -> dict:
        seen = {}

        def spy(models, data, augment, recipe, *rest):
            seen.update(models=models, data=data, augment=augment, recipe=recipe)
            raise Stopped

        monkeypatch.setattr(fine_tuning, "train", spy)
        with pytest.raises(Stopped):
            call(*base, *arguments)
        return seen

    return prepared


@pytest.fixture
def settings(script):
    """settings(*arguments): the Augment and Recipe they ask for."""
    return lambda *arguments: finetune_settings(script, *arguments)[1:]


@pytest.fixture(scope="module")
def done(script, folder, tiny, tmp_path_factory) -> tuple[Path, dict, str]:
    """One run that other tests look at: its folder, its results.json, what it printed."""
    out, printed = tmp_path_factory.mktemp("done"), io.StringIO()
    # so low a rate that the network still finds what it found
    arguments = ("--data", folder, "--weights", tiny, "--split", "random", "--lr", 1e-5, *RUN)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("DME_CACHE", str(out / "cache"))
        call_main(script, *arguments, "--out", out / "run")
    return out / "run", json.loads((out / "run" / "results.json").read_text()), printed.getvalue()


def truth_256(data: Path, name: str) -> np.ndarray:
    """A mask file at 256 x 256: fluid bicubic, the unknown nearest."""
    mask = np.asarray(Image.open(data / "fluid" / f"{name}.png"))
    truth = Image.fromarray((mask == 1).astype(np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    unknown = Image.fromarray((mask == 255).astype(np.uint8)).resize(
        (256, 256), Image.Resampling.NEAREST
    )
    return np.where(unknown, 255, truth)


def image_256(data: Path, name: str) -> np.ndarray:
    return np.array(
        Image.open(data / "images" / f"{name}.png").resize((256, 256), Image.Resampling.BICUBIC)
    )


def predicted(model, data: Path, name: str) -> dict[str, np.ndarray]:
    """Label maps of an image file: "study" at 256 x 256, "native" at its own pixels."""
    image = np.array(Image.open(data / "images" / f"{name}.png"))
    if model.preprocess["size"] == "512":
        logits = run_protocol(model, torch.tensor(image_256(data, name))[None], "light")
    else:
        with torch.inference_mode():
            logits = whole(model, normalise(torch.tensor(image)[None], model.preprocess))
    fluid, found = Image.fromarray(logits.softmax(1)[0, 1].numpy()), {}
    for kind, (height, width) in (("study", (256, 256)), ("native", image.shape)):
        found[kind] = np.asarray(fluid.resize((width, height), Image.Resampling.BILINEAR)) > 0.5
    return found


def assert_counted(out: Path, data: Path) -> None:
    """The reported counts are those of the reported scans and the saved network, pixel by pixel."""
    model = load_model(out / "model.pt").to(memory_format=torch.channels_last)
    results = json.loads((out / "results.json").read_text())
    reported = {kind: np.array(counts) for kind, counts in results["counts_per_scan"].items()}
    assert {counts.shape for counts in reported.values()} == {(len(results["scans"]), 2, 2)}
    for i, name in enumerate(results["scans"]):
        native = np.asarray(Image.open(data / "fluid" / f"{name}.png"))
        for kind, guess in predicted(model, data, name).items():
            truth = truth_256(data, name) if kind == "study" else native
            expected = [[((truth == t) & (guess == p)).sum() for p in (0, 1)] for t in (0, 1)]
            # ties, and the rounding of those probabilities that are resized
            assert reported[kind][i].sum() == np.sum(expected)
            assert np.abs(reported[kind][i] - expected).max() <= 2, (name, kind)


# From a folder to scores


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
    wet = [
        (2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn))
        for _, fp, fn, tp in scans
        if tp + fp + fn
    ]
    left_out, counting = np.mean(wet, 0), np.mean(wet + [(1, 1)] * (2 - len(wet)), 0)
    assert results["per_scan"] == {
        "empty_left_out": pytest.approx({"mean_dice": left_out[0], "mean_iou": left_out[1]}),
        "empty_counts_1": pytest.approx({"mean_dice": counting[0], "mean_iou": counting[1]}),
        "empty": 2 - len(wet),
    }

    assert "2 validation scans, split random, after 3 steps" in printed
    table = [line.rsplit(maxsplit=2) for line in printed.splitlines()[-14:]]
    for name, *of in (
        ("fluid at 256 x 256, pooled", dice[1], iou[1]),
        (f"  per scan, {2 - len(wet)} empty left out", *left_out),
        ("  per scan, empty counting 1", *counting),
        ("  mean with background", np.mean(dice), np.mean(iou)),
        ("  the same, published best row", 0.8430, 0.7600),
        ("fluid at native size, pooled", native_dice[1], native_iou[1]),
    ):
        assert [name, *(f"{value:.4f}" for value in of)] in table


def test_scans_without_fluid_are_counted_apart(finetune, tmp_path, capsys):
    """Of a network that never finds fluid: nothing in the wet scan is right, everything in the dry one."""
    model = load_model(make_checkpoint(tmp_path / "dry.pth"))
    with torch.no_grad():
        model.head.classifier.bias.copy_(torch.tensor([500.0, -500.0]))
    save_model(model, tmp_path / "dry.pth")
    results = finetune("--weights", tmp_path / "dry.pth")
    counts = np.array(results["counts_per_scan"]["study"])
    assert counts[:, :, 1].sum() == 0 and sorted(counts[:, 1, 0] > 0) == [False, True]
    assert results["per_scan"] == {
        "empty_left_out": {"mean_dice": 0.0, "mean_iou": 0.0},
        "empty_counts_1": {"mean_dice": 0.5, "mean_iou": 0.5},
        "empty": 1,
    }
    assert "  per scan, 1 empty left out        0.0000  0.0000" in capsys.readouterr().out


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
    assert (asked["iters"], asked["crop"], asked["aux_weight"], asked["size"]) == (
        3,
        64,
        0.4,
        "512",
    )
    assert not {"data", "out", "resume"} & asked.keys()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    phases = [
        sum(row[f"seconds/{p}"] for p in ("data", "forward", "backward", "optimiser"))
        for row in rows
    ]
    assert (
        results["seconds_per_iteration"] == pytest.approx(float(np.median(phases)))
        and phases[0] > 0
    )

    assert printed.splitlines()[:2] == [f"data: {results['data']}", f"start: {start}"]
    neighbours = f"{leaking} of the latter have a neighbour in training"
    assert f"split: random, 8 train, 2 validation scans; {neighbours}" in printed.splitlines()
    assert "data note: masks: binary 0/1, 1 is fluid, 255 is ignore" in printed.splitlines()
    assert "replaced" not in printed


def test_the_network_is_left_ready_for_use(done, tiny):
    out, results, _ = done
    model, start = load_model(out / "model.pt"), load_model(tiny)
    assert model.classes == ["background", "fluid"] and model.preprocess["size"] == "512"
    assert {k: model.preprocess[k] for k in ("mean", "std")} == start.preprocess
    extra = {
        k: results[k]
        for k in ("start", "data", "data_sha256", "data_kind", "split", "leak", "command")
    }
    assert extra.items() <= model.weights_extra.items()
    moved = [
        not torch.equal(ours, theirs)
        for ours, theirs in zip(model.parameters(), start.parameters(), strict=True)
    ]
    assert np.mean(moved) > 0.9
    expected = {"config.json", "metrics.jsonl", "last.pt", "best-model.pt", "loss.png"}
    expected |= {"model.pt", "results.json", "figure6.png"}
    assert {f.name for f in out.iterdir() if not f.name.startswith("events.")} == expected


def test_the_picture_shows_scan_before_after_and_truth(done, folder, tiny):
    out, results, _ = done
    picture = np.asarray(Image.open(out / "figure6.png"))
    before, after = (
        load_model(path).to(memory_format=torch.channels_last) for path in (tiny, out / "model.pt")
    )
    before.preprocess["size"] = "512"
    most = max(results["scans"], key=lambda name: (truth_256(folder, name) == 1).sum())
    image = image_256(folder, most)
    cells = [
        np.repeat(image[..., None], 3, axis=2),
        overlay(image, predicted(before, folder, most)["study"], RED),
        overlay(image, predicted(after, folder, most)["study"], CYAN),
        overlay(image, truth_256(folder, most), GREEN),
    ]
    assert picture.shape[1] == 6 + 4 * (256 + 6)
    for column, cell in enumerate(cells):
        left = 6 + column * (256 + 6)
        assert np.array_equal(picture[26 : 26 + 256, left : left + 256], cell), column
    assert not np.array_equal(cells[1] == RED, cells[2] == CYAN)


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
    assert (
        "split: subject:1/2, 3 train, 6 validation scans; 0 of the latter"
        in capsys.readouterr().out
    )
    assert (
        results["start"] == "fresh weights (seed 5), unet, fcn head, width 2"
        and results["seed"] == 5
    )
    assert_counted(tmp_path / "out", data)
    assert [step for step, _, _ in results["history"]] == [1, 2]
    assert results["history"][1][1:] == [results["pooled"]["dice"][1], results["pooled"]["iou"][1]]


# What is trained on


def test_training_scans_are_enlarged_as_in_the_study(prepared, folder):
    """Image bilinear and rounded, mask nearest; the bilinear weights at a factor 2 are 1/4 and 3/4."""

    def doubled(x: np.ndarray, axis: int) -> np.ndarray:
        x = np.moveaxis(x, axis, 0)
        low, high = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        both = np.stack([0.25 * low + 0.75 * x, 0.75 * x + 0.25 * high], axis=1)
        return np.moveaxis(both.reshape(-1, *x.shape[1:]), 0, axis)

    data = prepared("--size", "512")["data"]
    assert len(data.names) == 8 and "scan00" in data.names
    for image, mask, name in zip(data.images, data.masks, data.names, strict=True):
        enlarged = doubled(doubled(image_256(folder, name).astype(float), 0), 1)
        assert image.dtype == mask.dtype == torch.uint8 and image.shape == (512, 512)
        assert np.array_equal(image.numpy(), enlarged.round())
        assert np.array_equal(
            mask.numpy(), truth_256(folder, name).repeat(2, axis=0).repeat(2, axis=1)
        )
        nearest = image_256(folder, name).repeat(2, axis=0).repeat(2, axis=1)
        assert not np.array_equal(image.numpy(), nearest)


def test_native_training_scans_are_the_files_pixels(prepared, tmp_path):
    data = make_folder(tmp_path / "mixed", sides=((90, 131), (75, 140)))
    training = prepared("--data", data)["data"]
    assert len(training.names) == 8
    for image, mask, name in zip(training.images, training.masks, training.names, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(data / "images" / f"{name}.png")))
        assert np.array_equal(mask, np.asarray(Image.open(data / "fluid" / f"{name}.png")))


@pytest.mark.parametrize("seed", [0, 1])
def test_validation_scans_are_not_trained_on(prepared, folder, seed):
    training, validation = split_indices(open_cache(open_source(folder), 256), "random", seed)
    names = prepared("--seed", seed)["data"].names
    assert names == [f"scan{i:02}" for i in training]
    assert not {f"scan{i:02}" for i in validation} & set(names) and len(names) == 8


# Settings


def test_the_defaults_are_the_best_row_of_the_study(settings):
    augment, recipe = settings()
    assert augment == Augment(crop=320, max_class_share=0.75, flip=False)
    study = {"iters": 400, "batch": 2, "accumulate": 1, "loss": "ce", "aux_weight": 0.4, "seed": 0}
    study |= {"optimizer": "sgd", "lr": 0.01, "l2": 1e-4}
    study |= {
        "schedule": "poly",
        "horizon": 40_000,
        "lr_min": 1e-4,
        "warmup": 0,
        "clip": 0.0,
        "ema": 0.0,
    }
    study |= {"freeze_bn": False, "amp": "auto", "compile": False}
    assert {name: getattr(recipe, name) for name in study} == study
    optimizer = OPTIMIZERS[recipe.optimizer]([torch.zeros(1)], recipe.lr, recipe.l2)
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, False)


@pytest.mark.parametrize(
    ("loss", "asked", "weight"),
    [
        ("dice", (), 1.0),
        ("focal", (), 1.0),
        ("ce", (), 0.4),
        ("ce+dice:1,1", (), 0.4),
        ("dice", ("--aux-weight", 0.2), 0.2),
        ("ce", ("--aux-weight", 0), 0.0),
    ],
)
def test_weight_of_the_auxiliary_loss(settings, loss, asked, weight):
    _, recipe = settings("--loss", loss, *asked)
    assert (recipe.loss, recipe.aux_weight) == (loss, weight)


def test_every_setting_arrives(settings):
    augment, recipe = settings(
        *("--iters", 7, "--batch", 4, "--accumulate", 3, "--crop", 96, "--flip", "--rotate", 10),
        *(
            "--shift",
            0.1,
            "--brightness",
            0.2,
            "--contrast",
            0.3,
            "--noise",
            0.05,
            "--loss",
            "iou",
        ),
        *(
            "--optimizer",
            "adamw",
            "--lr",
            1e-5,
            "--l2",
            0.03,
            "--schedule",
            "cosine",
            "--ema",
            0.9,
        ),
        *("--amp", "bf16", "--compile", "--seed", 11, "--eval-every", 2),
    )
    assert augment == Augment(
        crop=96, flip=True, rotate=10, shift=0.1, brightness=0.2, contrast=0.3, noise=0.05
    )
    assert recipe == Recipe(
        **dict(
            iters=7,
            batch=4,
            accumulate=3,
            loss="iou",
            optimizer="adamw",
            lr=1e-5,
            l2=0.03,
        ),
        **dict(
            schedule="cosine",
            lr_min=1e-5,
            ema=0.9,
            amp="bf16",
            compile=True,
            seed=11,
            eval_every=2,
        ),
    )


# Where training starts


def test_weights_for_two_classes_are_kept_bit_for_bit(prepared, tiny, capsys):
    (model,) = prepared()["models"].values()
    start = load_model(tiny).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert model.classes == ["background", "fluid"] and "replaced" not in capsys.readouterr().out


def test_classifiers_for_other_classes_are_replaced(prepared, tmp_path, capsys):
    three = make_checkpoint(tmp_path / "three.pth", num_classes=3)
    (model,) = prepared("--weights", three)["models"].values()
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("replaced")] == [
        "replaced: head.classifier, for 2 classes",
        "replaced: aux_head.classifier, for 2 classes",
    ]
    start, ours = load_model(three).state_dict(), model.state_dict()
    assert ours["head.classifier.weight"].shape == (2, 16, 1, 1)
    kept = [name for name in start if "classifier" not in name]
    assert len(kept) == len(start) - 4 and all(
        torch.equal(ours[name], start[name]) for name in kept
    )


def test_fresh_weights_come_from_the_seed(prepared):
    def fresh(seed: int) -> torch.Tensor:
        (model,) = prepared("--weights", "none", "--width", 2, "--seed", seed)["models"].values()
        assert (model.arch["head"], model.arch["backbone"]) == ("psp", "unet")
        return torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim == 4])

    one = fresh(1)
    torch.manual_seed(7)
    assert torch.equal(one, fresh(1)) and not torch.equal(one, fresh(2))


@pytest.mark.parametrize("start", ["fresh", "replaced", "kept"])
def test_new_classifiers_start_at_the_shares_of_the_training_pixels(
    prepared, tmp_path, tiny, start
):
    weights = {"fresh": "none", "replaced": make_checkpoint(tmp_path / "three.pth", num_classes=3)}
    caught = prepared("--weights", weights.get(start, tiny), "--size", "512")
    (model,) = caught["models"].values()
    labels = np.concatenate([mask.numpy().ravel() for mask in caught["data"].masks])
    assert (labels == 255).any()
    shares = np.array([(labels == k).sum() / (labels < 2).sum() for k in (0, 1)])
    for head in (model.head, model.aux_head):
        at_zero = head.classifier.bias.detach().softmax(0).numpy()
        assert np.allclose(at_zero, shares, rtol=1e-3) == (start != "kept"), at_zero


def test_the_head_names_the_weights():
    """Without --weights, the shipped network with that head."""
    for head in ("psp", "fcn", "deeplabv3"):
        model, start = fine_tuning.starting_network(Finetune(head=head), seed=0)
        assert model.arch["head"] == head and start.startswith(f"hrf-{head} (sha256 ")
    assert fine_tuning.starting_network(Finetune(), seed=0)[0].arch["head"] == "psp"


# Interruptions


def scored(results: dict) -> dict:
    keys = (
        "pooled",
        "per_scan",
        "history",
        "scans",
        "counts_per_scan",
        "split",
        "start",
        "settings",
    )
    return {k: results[k] for k in keys}


def test_an_interrupted_run_ends_as_if_it_had_not_been(
    script, call, finetune, monkeypatch, tmp_path
):
    train = fine_tuning.train

    def saving_often(models, data, augment, recipe, *rest):
        return train(models, data, augment, replace(recipe, save_every=2), *rest)

    monkeypatch.setattr(fine_tuning, "train", saving_often)
    arguments = ("--iters", 4, "--flip", "--ema", 0.5)
    whole = finetune(*arguments)
    weights = load_model(tmp_path / "out" / "model.pt").state_dict()
    shutil.rmtree(tmp_path / "out")

    def interrupt(validate, models):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Validation, "__call__", interrupt)
        finetune(*arguments, code=130)
    assert torch.load(tmp_path / "out" / "last.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "out" / "results.json").exists()
    assert scored(finetune(*arguments, "--resume")) == scored(whole)
    again = load_model(tmp_path / "out" / "model.pt").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.items())


def test_resuming_a_complete_run_reports_it_again(done, finetune, tmp_path):
    out, results, _ = done
    shutil.copytree(out, tmp_path / "out")
    for name in ("results.json", "model.pt", "figure6.png"):
        (tmp_path / "out" / name).unlink()
    again = finetune("--split", "random", "--lr", 1e-5, *RUN, "--size", "512", "--resume")
    assert scored(again) == scored(results)
    assert again["seconds_per_iteration"] == results["seconds_per_iteration"]
    assert (tmp_path / "out" / "figure6.png").read_bytes() == (out / "figure6.png").read_bytes()
    ours, theirs = (
        load_model(folder / "model.pt").state_dict() for folder in (tmp_path / "out", out)
    )
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    "other", [("--seed", 1), ("--size", "native"), ("--l2", 0.1), ("--crop", 80)]
)
def test_a_run_is_not_continued_with_other_settings(
    done, call, folder, tiny, tmp_path, capsys, other
):
    out, _, _ = done
    shutil.copytree(out, tmp_path / "out")
    arguments = ("--data", folder, "--weights", tiny, "--split", "random", "--lr", 1e-5, *RUN)
    assert call(*arguments, "--out", tmp_path / "out", *other, "--resume") == 2
    assert "was made with other settings" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out" / "results.json").read_bytes() == (out / "results.json").read_bytes()


def test_a_run_is_not_continued_with_another_start(done, call, folder, tmp_path, capsys):
    """Else its scores would be reported as those of weights it never saw."""
    out, _, _ = done
    shutil.copytree(out, tmp_path / "out")
    other = make_checkpoint(tmp_path / "other.pth", seed=3)
    arguments = ("--data", folder, "--weights", other, "--split", "random", "--lr", 1e-5, *RUN)
    assert call(*arguments, "--out", tmp_path / "out", "--resume") == 2
    assert "other settings" in capsys.readouterr().err.splitlines()[-1]


# What a user can get wrong


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--crop", 800, "--size", "512"),
            "crop 800 is larger than a scan of 512 x 512 pixels: choose a smaller crop",
        ),
        (("--crop", 112), "crop 112 is larger than a scan of 96 x 128 pixels"),
        (("--crop", -64), "crop is -64"),
        (("--weights", "hrf-pspp"), "unknown weights 'hrf-pspp'; give a file (.pth) or one of"),
        (("--weights", "nowhere.pth"), "nowhere.pth is not there; give a checkpoint file"),
        (("--weights", "none", "--width", 0), "width is 0; it must be at least 1"),
        (("--lr", 0), "lr is 0.0; expected a finite number above 0"),
        (("--lr", -1), "lr is -1.0; expected a finite number above 0"),
        (("--lr", "nan"), "lr is nan; expected a finite number above 0"),
        (("--l2", -1), "l2 is -1.0; expected a finite number at least 0"),
        (("--split", "paper"), "split paper: 0 of"),
        (("--split", "nonsense"), "unknown split 'nonsense': expected paper, random"),
        (("--split", "subject:1/2"), "split subject:1/2: 2 folds need 2 subjects, found 1"),
        (("--head", "fcn"), "--head fcn does not fit the weights"),
        (("--width", 4), "--width 4 does not fit the weights"),
        (("--batch", 1), "batch 1 gives a rank one image, which the psp head pools"),
        (("--batch", 0), "batch is 0; expected a finite number at least 1"),
        (("--iters", 0), "iters is 0; expected a finite number at least 1"),
        (("--data", "nowhere"), "no such file or folder: nowhere"),
        (("--grader", 2), "no grader 2 in"),
        (("--loss", "nonsense"), "loss 'nonsense': expected ce, dice, focal, iou, ce+dice or"),
        (("--loss", "ce+dice:1"), "loss 'ce+dice:1': expected"),
        (("--aux-weight", "nan"), "aux_weight is nan; expected a finite number at least 0"),
        (("--noise", -1), "noise is -1.0; expected a number from 0 to 10"),
        (("--shift", "nan"), "shift is nan"),
        (("--optimizer", "lion"), "optimizer is lion; expected one of sgd, adam, adamw"),
        (("--schedule", "step"), "schedule is step; expected one of poly, cosine, constant"),
        (("--ema", 1), "ema is 1.0; expected a number from 0 to 1"),
        (("--amp", "fp8"), "amp is fp8; expected one of auto, off, bf16, fp16"),
        (("--seed", -1), "seed is -1; expected a number from 0 to"),
        (("--eval-every", -1), "eval_every is -1; expected a finite number at least 0"),
        (("--resume",), "nothing to resume"),
    ],
)
def test_wrong_arguments(fails, monkeypatch, tmp_path, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert fails(*arguments).startswith(told)


def _no_masks(root: Path) -> Path:
    shutil.rmtree(make_folder(root) / "fluid")
    return root


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_no_masks, "have no fluid masks; training needs the truth"),
        (
            lambda root: make_folder(root, wet=(1,)),
            "split random leaves no validation scans out of 1",
        ),
        (
            lambda root: make_folder(root, wet=(0,) * 6),
            "none of the 5 training scans of split random holds",
        ),
        # of five scans, seed 0 draws scan02 for validation
        (
            lambda root: make_folder(root, wet=(0, 0, 1, 0, 0)),
            "none of the 4 training scans of split random",
        ),
        (
            lambda root: make_folder(root, wet=(1, 1, 0, 1, 1)),
            "none of the 1 validation scans of split rand",
        ),
        (lambda root: root, "no such file or folder"),
    ],
)
def test_data_that_teaches_or_tests_nothing(fails, tmp_path, make, told):
    assert told in fails("--data", make(tmp_path / "own"))


def test_native_scans_of_several_shapes_need_a_crop_that_fits_all(fails, tmp_path):
    data = make_folder(tmp_path / "mixed", sides=((96, 128), (64, 144)))
    assert fails("--data", data, "--crop", 0).endswith(
        "pixels cannot share a batch: choose a crop"
    )
    assert fails("--data", data, "--crop", 80).startswith(
        "crop 80 is larger than a scan of 64 x 144 pixels"
    )


@pytest.mark.parametrize(
    "spoil", [lambda content: content[:3000], lambda content: b"no checkpoint"]
)
def test_damaged_checkpoints(fails, tiny, tmp_path, spoil):
    (tmp_path / "damaged.pth").write_bytes(spoil(tiny.read_bytes()))
    told = fails("--weights", tmp_path / "damaged.pth")
    assert told.startswith(
        f"{tmp_path / 'damaged.pth'} is no torch checkpoint, or damaged or cut short"
    )


def test_what_is_refused_leaves_an_older_run_alone(done, call, folder, tiny, tmp_path):
    out, _, _ = done
    shutil.copytree(out, tmp_path / "out")
    arguments = ("--data", folder, "--weights", tiny, "--iters", 2, "--out", tmp_path / "out")
    assert call(*arguments, "--crop", 800) == 2
    for file in out.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


# Layers


@pytest.fixture(scope="module")
def two_graders(tmp_path_factory) -> Path:
    """Phantom scans of two subjects as .mat files; grader 2 draws every boundary 2 px lower."""
    root = tmp_path_factory.mktemp("mat")
    for subject in (1, 2):
        scans = [
            phantom_bscan(seed, 124, 192, fluid=True) for seed in (10 * subject, 10 * subject + 1)
        ]
        images, fluid = (
            np.stack([getattr(s, key) for s in scans], 2) for key in ("image", "fluid")
        )
        layers = np.stack([scan.layers for scan in scans], 2)
        layers[:, :30], layers[4, 60:70] = np.nan, np.nan
        write_subject_mat(
            root / f"Subject_0{subject}.mat",
            images,
            fluid,
            layers,
            fluid2=fluid,
            layers2=layers + 2,
        )
    return root


@pytest.mark.parametrize("task", ["layers", "layers+fluid"])
def test_layers_of_mat_files_and_of_both_graders(call, two_graders, tiny, tmp_path, capsys, task):
    arguments = (
        "--task",
        task,
        "--data",
        two_graders,
        "--weights",
        tiny,
        "--split",
        "subject:1/2",
    )
    settings = ("--iters", 2, "--size", "half", "--max-class-share", 1, "--crop", 48)
    assert call(*arguments, *settings, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    classes = len(results["classes"])
    assert classes == 9 + (task == "layers+fluid")
    assert printed.count(f", for {classes} classes") == 2  # both classifiers were replaced
    assert load_model(tmp_path / "out" / "model.pt").classes == results["classes"]
    assert results["subjects"] == [1, 1]

    # of every column all of whose boundaries are known, each pixel is counted once
    counts = np.array(results["counts_per_scan"]["native"])
    assert (
        counts.shape == (2, classes, classes)
        and (counts.sum((1, 2)) == 124 * (192 - 30 - 10)).all()
    )
    model = load_model(tmp_path / "out" / "model.pt").to(memory_format=torch.channels_last)
    cache = open_cache(open_source(two_graders))
    errors = [
        boundary_errors_px(
            boundaries_from_probabilities(probabilities(model, torch.tensor(image))), rows
        )
        for image, rows in zip(cache.images[:2], cache.layers[:2], strict=True)
    ]
    np.testing.assert_allclose(results["boundary_errors_px_per_scan"], errors, atol=1e-4)
    assert results["boundaries_px"][-1]["mean"] == pytest.approx(np.mean(errors, 0)[-1])
    assert f"{results['boundaries_px'][0]['mean']:.3f}" in printed

    assert results["other_grader"]["mean boundary error, px"]["grader"] == pytest.approx(2)
    assert ("fluid Dice" in results["other_grader"]) == (task == "layers+fluid")
    if task == "layers+fluid":
        assert results["other_grader"]["fluid Dice"]["grader"] == 1.0  # they agree on it
    assert (tmp_path / "out" / "layers.png").exists()


def test_a_missing_second_grader_is_said(call, tiny, tmp_path, capsys):
    scans = [phantom_bscan(seed, 124, 192, fluid=True) for seed in (1, 2, 3)]
    images, fluid = (np.stack([getattr(s, key) for s in scans], 2) for key in ("image", "fluid"))
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid)
    arguments = (
        "--data",
        tmp_path / "Subject_01.mat",
        "--weights",
        tiny,
        "--split",
        "random",
        "--iters",
        2,
    )
    settings = ("--size", "half", "--max-class-share", 1, "--crop", 48)
    assert call(*arguments, *settings, "--out", tmp_path / "out") == 0
    assert "no comparison with grader 2: " in capsys.readouterr().out
    assert "other_grader" not in json.loads((tmp_path / "out" / "results.json").read_text())


def test_a_second_grader_who_left_scans_out_is_said(call, tiny, tmp_path, capsys):
    scans = [phantom_bscan(seed, 124, 192, fluid=True) for seed in (1, 2, 3, 4, 5)]
    images, fluid = (np.stack([getattr(s, key) for s in scans], 2) for key in ("image", "fluid"))
    other = np.where(np.arange(5) == 0, fluid, np.nan)  # the first scan alone
    write_subject_mat(tmp_path / "Subject_01.mat", images, fluid, fluid2=other)
    arguments = (
        "--data",
        tmp_path / "Subject_01.mat",
        "--weights",
        tiny,
        "--split",
        "random",
        "--iters",
        2,
    )
    settings = ("--size", "half", "--max-class-share", 1, "--crop", 48)
    assert call(*arguments, *settings, "--out", tmp_path / "out") == 0
    assert "no comparison with grader 2, who left out subject01_bscan" in capsys.readouterr().out


def test_a_backbone_without_shipped_weights_is_said(call, folder, tmp_path, capsys):
    out = ("--data", folder, "--out", tmp_path / "out")
    assert call(*out, "--recipe", "best", "--backbone", "mobilenet_v2") == 2
    told = "no weights for a mobilenet_v2 ship with dme; give --weights FILE, from ./run.sh pretrain, or"
    assert told in capsys.readouterr().err


def test_a_recipe_leaves_the_head_to_a_backbone_that_does_not_take_its_own(script, monkeypatch):
    words = ["finetune.py", "--recipe", "layers", "--backbone"]
    for backbone, head in (("mobilenet_v3_small", None), ("mobilenet_v2", "fcn"), ("unet", "fcn")):
        monkeypatch.setattr(sys, "argv", [*words, backbone])
        assert script.parse_args().finetune.head == head


def test_crops_cannot_go_onto_fluid_that_is_no_class(fails, two_graders):
    arguments = (
        "--data",
        two_graders,
        "--task",
        "layers",
        "--split",
        "subject:1/2",
        "--on-fluid",
        0.5,
    )
    assert fails(*arguments).startswith("crops can be placed on fluid only where fluid is a class")


def test_a_set_without_boundaries_teaches_no_layers(fails):
    told = fails("--task", "layers")
    assert "have no layer boundaries; --task layers needs them" in told


# Larger machines, real scans


@pytest.mark.slow
def test_two_ranks_report_every_scan_once(folder, tiny, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    arguments = (
        "--data",
        folder,
        "--weights",
        tiny,
        "--iters",
        1,
        "--crop",
        64,
        "--out",
        tmp_path,
    )
    command = [*launch, EXPERIMENTS / "finetune.py", *arguments, "--batch", "4", "--seed", "1"]
    finished = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    _, validation = split_indices(open_cache(open_source(folder), 256), "random", 1)
    assert results["scans"] == [f"scan{i:02}" for i in validation]
    assert_counted(tmp_path, folder)
    assert finished.stdout.count("validation scans, split random") == 1


@pytest.mark.parametrize(
    ("asked", "start"),
    [
        ((), "hrf-psp"),
        (("--head", "fcn"), "hrf-fcn"),
        (("--backbone", "mobilenet_v3_small"), "hrf-mobilenet_v3_small"),
        (("--backbone", "unet", "--head", "deeplabv3"), "hrf-deeplabv3"),
    ],
)
def test_the_start_follows_the_network_asked_for(script, monkeypatch, asked, start):
    monkeypatch.setattr("sys.argv", ["finetune.py", *asked])
    options = script.parse_args().finetune
    assert fine_tuning.starting_network(options, seed=0)[0].weights_name == start


@pytest.mark.slow
def test_real_scans(call, real_data, tmp_path, capsys):
    data = real_data / "chiu2015"
    assert call("--data", data, "--iters", 2, "--crop", 64, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out.splitlines()
    line = "split: paper, 88 train, 22 validation scans; 21 of the latter have a neighbour in training"
    assert line in printed and any(text.startswith("start: hrf-psp (sha256 ") for text in printed)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["split"], results["leak"], len(results["scans"])) == ("paper", 21, 22)
    counts = np.array(results["counts_per_scan"]["study"])
    assert counts.shape == (22, 2, 2) and (counts.sum((1, 2)) == 256**2).all()
    assert (counts[:, 1].sum(1) == 0).sum() == 11  # scans without fluid in the truth
    model = load_model(tmp_path / "out" / "model.pt").to(memory_format=torch.channels_last)
    for i in (0, 21):
        name = results["scans"][i]
        image = np.asarray(Image.open(data / "images" / f"{name}.png"))
        mask = np.asarray(Image.open(data / "fluid" / f"{name}.png"))
        small = Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC)
        truth = Image.fromarray((mask > 0).astype(np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        guess = (
            run_protocol(model, torch.tensor(np.array(small))[None], "light").argmax(1)[0].numpy()
        )
        expected = [
            [int(((np.array(truth) == t) & (guess == p)).sum()) for p in (0, 1)] for t in (0, 1)
        ]
        assert np.array_equal(counts[i], expected)
