"""What command lines ask for."""

import subprocess
import sys

import pytest
import torch
from helpers.scripts import EXPERIMENTS, ROOT

from dme.training.presets import PLANS, PRETRAININGS
from dme.training.recipe import OPTIMIZERS
from dme.training.settings import Augment, Finetune, Pretrain, Recipe


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
    assert "--max-class-share" in done.stdout and "--amp {auto,off,bf16,fp16}" in done.stdout
