"""Settings, learning rates in closed form, precision, and the moving average by hand."""

import math

import pytest
import torch
from torch import nn

from dme.common.errors import InputError
from dme.losses import get_loss
from dme.training.recipe import (
    OPTIMIZERS,
    amp_dtype,
    freeze_bn,
    learning_rate,
    update_average,
    warmup_note,
)
from dme.training.settings import Recipe, default_aux_weight, default_lr_min


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"iters": 0}, "iters is 0; expected a finite number at least 1"),
        ({"batch": 0}, "batch is 0; expected a finite number at least 1"),
        ({"accumulate": -1}, "accumulate is -1; expected a finite number at least 1"),
        ({"save_every": 0}, "save_every is 0; expected a finite number at least 1"),
        ({"horizon": 0}, "horizon is 0; expected a finite number at least 1"),
        ({"aux_weight": -0.1}, "aux_weight is -0.1; expected a finite number at least 0"),
        ({"l2": float("nan")}, "l2 is nan; expected a finite number at least 0"),
        ({"warmup": -1}, "warmup is -1; expected a finite number at least 0"),
        ({"clip": -1.0}, "clip is -1.0; expected a finite number at least 0"),
        ({"eval_every": -1}, "eval_every is -1; expected a finite number at least 0"),
        ({"lr": 0.0}, "lr is 0.0; expected a finite number above 0"),
        ({"lr": math.inf}, "lr is inf; expected a finite number above 0"),
        ({"lr": 1e-5}, "lr_min is 0.0001; expected at most lr"),
        ({"ema": 1.0}, "ema is 1.0; expected a number from 0 to 1"),
        ({"seed": -1}, "seed is -1; expected a number from 0 to 2147483647"),
        ({"seed": 2**31}, "seed is 2147483648; expected a number from 0 to 2147483647"),
        ({"optimizer": "lion"}, "optimizer is lion; expected one of sgd, adam, adamw"),
        ({"schedule": "step"}, "schedule is step; expected one of poly, cosine, constant"),
        ({"amp": "fp8"}, "amp is fp8; expected one of auto, fast, off, bf16, fp16"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Recipe(**{"iters": 10} | wrong)


def test_every_optimizer_on_offer_is_there():
    choices = Recipe.__dataclass_fields__["optimizer"].metadata["choices"]
    assert choices == tuple(OPTIMIZERS)


def test_an_unknown_loss_is_refused():
    with pytest.raises(InputError, match="loss 'hinge': expected ce, dice"):
        get_loss(Recipe(loss="hinge").loss)


def test_what_is_not_given_follows_the_study():
    assert [default_aux_weight(loss) for loss in ("ce", "dice", "focal")] == [0.4, 1.0, 1.0]
    assert [default_lr_min(lr) for lr in (0.01, 1e-5)] == [1e-4, 1e-5]


def test_poly_equals_the_recursion_of_mmengine():
    recipe = Recipe(iters=400, lr=0.01, lr_min=1e-4, horizon=400)
    lr = 0.01
    for step in range(401):
        if step:
            lr = (lr - 1e-4) * (1 - 1 / (400 - step + 1)) ** 0.9 + 1e-4
        assert learning_rate(recipe, step) == pytest.approx(lr, rel=1e-9)
    assert learning_rate(recipe, 1000) == 1e-4  # beyond the horizon


def test_cosine_with_warmup():
    recipe = Recipe(iters=110, schedule="cosine", lr=1.0, lr_min=0.2, warmup=10)
    expected = {
        0: 0.1,
        4: 0.5,
        9: 1.0,
        10: 1.0,
        35: 0.2 + 0.4 * (1 + math.sqrt(0.5)),
        60: 0.6,
        110: 0.2,
    }
    for step, lr in expected.items():
        assert learning_rate(recipe, step) == pytest.approx(lr)


def test_warmup_of_poly_and_constant():
    poly = Recipe(iters=100, lr=1.0, lr_min=0.0, horizon=100, warmup=4)
    assert [learning_rate(poly, s) for s in (0, 3, 4)] == pytest.approx([0.25, 1.0, 0.96**0.9])
    constant = Recipe(iters=100, lr=1e-5, schedule="constant", warmup=2)
    assert [learning_rate(constant, s) for s in (0, 1, 99)] == pytest.approx([5e-6, 1e-5, 1e-5])


def test_a_run_within_its_warmup_is_said():
    assert warmup_note(Recipe(iters=5, warmup=4)) == warmup_note(Recipe(iters=1)) == ""
    note = warmup_note(Recipe(iters=10, warmup=50, lr=2e-3))
    assert "`iters` 10 of a `warmup` of 50 steps" in note and "at 0.0004 of 0.002" in note
    assert warmup_note(Recipe(iters=4, warmup=4))


@pytest.mark.parametrize(
    ("name", "after"),
    [
        # two steps from w = 1 with gradient 1, lr 0.1, decay 0.5, by hand
        # momentum 0.9, L2 in the gradient
        ("sgd", 1 - 0.1 * 1.5 - 0.1 * (0.9 * 1.5 + 1 + 0.5 * 0.85)),
        ("adam", 1 - 0.1 - 0.1 * 0.99897),  # L2 in the gradient, so normalised with it
        ("adamw", (0.95 - 0.1) * 0.95 - 0.1),  # decoupled
    ],
)
def test_optimizers_by_hand(name, after):
    weight = nn.Parameter(torch.ones(1))
    optimizer = OPTIMIZERS[name]([weight], 0.1, 0.5)
    for _ in range(2):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert weight.item() == pytest.approx(after, abs=1e-5)


@pytest.mark.parametrize(
    ("amp", "kind", "bf16", "expected"),
    [
        ("auto", "cpu", True, None),
        ("auto", "cuda", True, torch.bfloat16),
        ("auto", "cuda", False, torch.float16),
        ("fast", "cpu", True, torch.bfloat16),
        ("fast", "cpu", False, None),
        ("fast", "cuda", False, torch.float16),
        ("off", "cuda", True, None),
        ("bf16", "cpu", False, torch.bfloat16),
        ("fp16", "cuda", True, torch.float16),
    ],
)
def test_precision(monkeypatch, amp, kind, bf16, expected):
    # as a processor without its instructions says
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    # without emulation: a GPU that only emulates bf16 is faster with fp16
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation
    )
    assert amp_dtype(amp, torch.device(kind)) is expected


def test_moving_average_by_hand():
    average = nn.BatchNorm1d(1)
    net = nn.BatchNorm1d(1)
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.running_mean.fill_(8.0)
        net.num_batches_tracked.fill_(5)
    update_average(average, net, 0.75)
    assert (average.weight.item(), average.running_mean.item()) == (1.5, 2.0)
    assert average.bias.item() == 0.0
    assert average.num_batches_tracked.item() == 5
    update_average(average, net, 0.5)
    assert (average.weight.item(), average.running_mean.item()) == (2.25, 5.0)
    assert net.weight.item() == 3.0


def test_frozen_bn_keeps_its_statistics():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    freeze_bn(net)
    net(torch.randn(4, 1, 3, 3))
    assert net[1].running_mean.tolist() == [0, 0] and net[1].num_batches_tracked == 0
    assert net[2].training  # only batch norm
