"""What command lines ask for."""

import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import EXPERIMENTS, ROOT

from dme.training import fine_tuning
from dme.training.presets import PLANS, PRETRAININGS
from dme.training.recipe import OPTIMIZERS
from dme.training.settings import Augment, Finetune, Pretrain, Recipe
from dme.training.validation import Validation


def test_the_defaults_are_the_best_row_of_the_study(settings):
    augment, recipe = settings()
    assert augment == Augment(crop=320, max_class_share=0.75, flip=False)
    study = {
        "iters": 400,
        "batch": 2,
        "accumulate": 1,
        "loss": "ce",
        "aux_weight": 0.4,
        "seed": 0,
        "optimizer": "sgd",
        "lr": 0.01,
        "l2": 1e-4,
        "schedule": "poly",
        "horizon": 40_000,
        "lr_min": 1e-4,
        "warmup": 0,
        "clip": 0.0,
        "ema": 0.0,
        "freeze_bn": False,
        "amp": "auto",
        "compile": False,
    }
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


@pytest.mark.parametrize(
    ("arguments", "flip"),
    [((), False), (("--tta",), True), (("--recipe", "best", "--crop", 0), True)],
)
def test_flip_averaging_arrives_at_the_validation(prepared, arguments, flip):
    assert prepared(*arguments)["validate"].flip is flip


def test_flip_averaging_arrives_at_the_second_grader(monkeypatch):
    options = Finetune(grader=2)
    asked = []
    cache = SimpleNamespace(names=["a", "b"])
    monkeypatch.setattr(fine_tuning, "open_source", lambda data, grader, _: asked.append(grader))
    monkeypatch.setattr(fine_tuning, "open_cache", lambda *_: cache)
    monkeypatch.setattr(fine_tuning, "check_annotated", lambda *_: None)
    for flip in (False, True):
        first = Validation(cache, cache, np.array([1]), torch.device("cpu"), flip=flip)
        other = fine_tuning.second_opinion(options, first)
        assert other.flip is flip
        assert other.names == ["b"]
    assert asked == [1, 1]


# What every preset says, as far as it differs from what a setting is by itself
PRESETS = {
    "study": (
        {},
        {"crop": 320},
        {"l2": 1e-4},
    ),
    "best": (
        {"recipe": "best", "size": "half", "tta": True},
        {
            "max_class_share": 1.0,
            "flip": True,
            "rotate": 8.0,
            "zoom": 0.2,
            "brightness": 0.1,
            "contrast": 0.25,
            "gamma": 0.2,
            "noise": 0.1,
        },
        {
            "iters": 800,
            "batch": 4,
            "loss": "ce+dice",
            "optimizer": "adamw",
            "lr": 2e-3,
            "lr_min": 0.0,
            "l2": 1e-2,
            "schedule": "cosine",
            "warmup": 50,
            "clip": 1.0,
            "ema": 0.99,
            "amp": "fast",
        },
    ),
}
FINETUNE, AUGMENT, RECIPE = PRESETS["best"]
PRESETS["fluid"] = (
    FINETUNE | {"recipe": "fluid", "size": "um", "match_brightness": True, "synthetic": 20},
    AUGMENT,
    RECIPE,
)
PRESETS["layers"] = (
    FINETUNE | {"recipe": "layers", "task": "layers", "head": "fcn"},
    AUGMENT | {"crop": 240, "border": 0.25},
    RECIPE | {"batch": 6},
)
PRETRAINING_PRESETS = {
    "openmmlab": (
        1.0,
        {"crop": 256, "zoom_range": (0.5, 2.0), "flip": True, "colour": True},
        {"iters": 40_000, "batch": 16},
    ),
    "small": (
        0.5,
        {
            "crop": 256,
            "max_class_share": 1.0,
            "zoom_range": (0.85, 1.2),
            "flip": True,
            "brightness": 0.05,
            "contrast": 0.2,
        },
        RECIPE | {"iters": 1500, "ema": 0.995},
    ),
}


del PRETRAINING_PRESETS["small"][-1]["amp"]  # on a CPU in float32


def differences(settings) -> dict:
    """What differs from the class's own defaults, by name."""
    plain = asdict(type(settings)())
    return {name: value for name, value in asdict(settings).items() if value != plain[name]}


def test_presets_are_what_results_were_made_with():
    presets = {}
    for name, plan in PLANS.items():
        parts = (plan.finetune, plan.augment, plan.recipe)
        presets[name] = tuple(differences(part) for part in parts)
    assert presets == PRESETS
    pretraining = {}
    for name, preset in PRETRAININGS.items():
        parts = (differences(preset.augment), differences(preset.recipe))
        pretraining[name] = (preset.scale, *parts)
    assert pretraining == PRETRAINING_PRESETS


def test_settings_by_themselves_are_what_presets_are_counted_from():
    own = {
        "iters": 400,
        "batch": 2,
        "loss": "ce",
        "aux_weight": 0.4,
        "optimizer": "sgd",
        "lr": 0.01,
        "lr_min": 1e-4,
        "l2": 5e-4,
        "schedule": "poly",
        "warmup": 0,
        "clip": 0.0,
        "ema": 0.0,
        "save_every": 100,
    }
    assert {name: getattr(Recipe(), name) for name in own} == own
    assert {value for value in asdict(Augment(max_class_share=0)).values() if value} == set()
    assert Augment().max_class_share == 0.75
    assert (Finetune().size, Finetune().task, Finetune().grader) == ("512", "fluid", 1)


def test_every_setting_arrives(settings):
    line = "--iters 7 --batch 4 --accumulate 3 --crop 96 --flip --rotate 10 --shift 0.1 "
    line += "--brightness 0.2 --contrast 0.3 --noise 0.05 --loss iou --optimizer adamw --lr 1e-5 "
    line += "--l2 0.03 --schedule cosine --ema 0.9 --amp bf16 --compile --seed 11 --eval-every 2"
    augment, recipe = settings(*line.split())
    assert augment == Augment(
        crop=96, flip=True, rotate=10, shift=0.1, brightness=0.2, contrast=0.3, noise=0.05
    )
    assert recipe == Recipe(
        iters=7,
        batch=4,
        accumulate=3,
        loss="iou",
        optimizer="adamw",
        lr=1e-5,
        l2=0.03,
        schedule="cosine",
        lr_min=1e-5,
        ema=0.9,
        amp="bf16",
        compile=True,
        seed=11,
        eval_every=2,
    )


def test_every_preset_is_on_offer():
    for settings_of, presets in ((Finetune, PLANS), (Pretrain, PRETRAININGS)):
        offered = settings_of.__dataclass_fields__["recipe"].metadata["choices"]
        assert set(offered) == set(presets)
    assert all(plan.finetune.recipe == name for name, plan in PLANS.items())


def test_old_names_of_options_are_understood(settings):
    old = "--steps 7 --weight-decay 0.03 --speckle 0.05 --rotate-deg 10"
    new = "--iters 7 --l2 0.03 --noise 0.05 --rotate 10"
    assert settings(*old.split()) == settings(*new.split())


def test_a_recipe_leaves_the_head_to_a_backbone_that_does_not_take_its_own(script, monkeypatch):
    words = ["finetune.py", "--recipe", "layers", "--backbone"]
    for backbone, head in (("mobilenet_v3_small", None), ("mobilenet_v2", "fcn"), ("unet", "fcn")):
        monkeypatch.setattr(sys, "argv", [*words, backbone])
        assert script.parse_args().finetune.head == head


def test_help_needs_no_package_at_all():
    command = [sys.executable, "-S", EXPERIMENTS / "finetune.py", "--help"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--max-class-share" in done.stdout and "--amp {auto,fast,off,bf16,fp16}" in done.stdout


@pytest.mark.parametrize(
    ("recipe", "asked", "start"),
    [
        ("study", {}, "hrf-psp"),
        ("best", {"head": "fcn"}, "hrf-fcn"),
        ("fluid", {}, "devices-psp"),
        ("fluid", {"backbone": "unet"}, "devices-psp"),
        ("fluid", {"head": "deeplabv3"}, "hrf-deeplabv3"),
        ("fluid", {"backbone": "mobilenet_v3_small"}, "devices-mobilenet_v3_small"),
    ],
)
def test_recipe_and_network_say_where_the_start_comes_from(recipe, asked, start):
    options = Finetune(recipe=recipe, **asked)
    _, line = fine_tuning.starting_network(options, seed=0)
    assert line.startswith(f"{start} (sha256 ")
