"""Losses against the study's library (golden values), values by hand, edge cases of training."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dme import losses
from dme.common.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "losses_metrics_s0.npz"
ALL = [losses.ce, losses.dice, losses.focal, losses.iou_balanced, losses.ce_dice]


def _value_and_gradient(loss, logits, target):
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


def _logits_of(probabilities):
    """Two-class logits (1, 2, 1, W) whose softmax gives class 1 these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([(1 - p).log(), p.log()])[None, :, None, :]


@pytest.mark.parametrize("classes", [2, 9])
@pytest.mark.parametrize("name", ["ce", "dice", "focal"])
def test_the_studys_losses_equal_its_library(name, classes):
    with np.load(GOLDEN) as golden:
        logits = torch.from_numpy(golden[f"logits_c{classes}"])
        target = torch.from_numpy(golden[f"target_c{classes}"]).long()
        expected = float(golden[f"{name}_c{classes}"])
        expected_gradient = golden[f"{name}_grad_c{classes}"]
    assert (target == 255).any()
    value, gradient = _value_and_gradient(losses.get_loss(name), logits, target)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    error = np.abs(gradient.numpy() - expected_gradient).max()
    assert error < 1e-4 * np.abs(expected_gradient).max()


@pytest.mark.parametrize("classes", [2, 9])
def test_the_cross_entropy_of_ce_dice_is_the_mean_over_valid_pixels(classes):
    with np.load(GOLDEN) as golden:
        logits = torch.from_numpy(golden[f"logits_c{classes}"])
        target = torch.from_numpy(golden[f"target_c{classes}"]).long()
        expected = float(golden[f"ce_avg_non_ignore_c{classes}"])
        expected_gradient = golden[f"ce_avg_non_ignore_grad_c{classes}"]
    value, gradient = _value_and_gradient(losses.get_loss("ce+dice:1,0"), logits, target)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    error = np.abs(gradient.numpy() - expected_gradient).max()
    assert error < 1e-4 * np.abs(expected_gradient).max()


def test_dice_by_hand():
    one_pixel = torch.zeros(2, 2, 1, 1), torch.tensor([[[1]], [[255]]])
    # first image: sum(p t) 0.5, sum(p^2) 0.5, sum(t^2) 1, eps twice; the second has nothing to
    # find: 1
    assert float(losses.dice(*one_pixel)) == pytest.approx(((1 - 1 / 1.502) + 1) / 2, rel=1e-6)


def test_iou_balanced_by_hand():
    logits = _logits_of([0.8, 0.4, 0.1, 0.5])
    target = torch.tensor([[[1, 1, 0, 255]]])
    # fluid:      overlap 0.8 + 0.4, union 0.8 + 0.4 + 0.1 + 2 - overlap
    # background: overlap 0.9,       union 0.2 + 0.6 + 0.9 + 1 - overlap
    expected = ((1 - 1.2 / 2.1) + (1 - 0.9 / 1.8)) / 2
    assert float(losses.iou_balanced(logits, target)) == pytest.approx(expected, rel=1e-6)


def test_iou_balanced_weighs_classes_not_pixels():
    wrong_on_fluid = _logits_of([0.001] * 100)
    target = torch.zeros(1, 1, 100, dtype=torch.long)
    target[..., 0] = 1
    # One pixel in a hundred missed costs half of the loss: IoU of fluid 0, of background 0.99.
    loss = float(losses.iou_balanced(wrong_on_fluid, target))
    assert loss == pytest.approx((1 + 0.01) / 2, abs=2e-3)


def test_ce_dice_by_hand():
    logits = _logits_of([0.8, 0.4, 0.1, 0.5])
    target = torch.tensor([[[1, 1, 0, 255]]])
    entropy = -(math.log(0.8) + math.log(0.4) + math.log(0.9)) / 3
    dice = ((1 - 2 * 1.2 / (1.3 + 2)) + (1 - 2 * 0.9 / (1.7 + 1))) / 2
    assert float(losses.ce_dice(logits, target)) == pytest.approx(entropy + dice, rel=1e-6)
    weighted = losses.get_loss("ce+dice:0.25,2")(logits, target)
    assert float(weighted) == pytest.approx(0.25 * entropy + 2 * dice, rel=1e-6)


def test_empty_masks_leave_only_the_background_term():
    logits = _logits_of([0.2, 0.3])
    target = torch.zeros(1, 1, 2, dtype=torch.long)
    assert float(losses.iou_balanced(logits, target)) == pytest.approx(1 - 1.5 / 2, rel=1e-6)
    dice = float(losses.get_loss("ce+dice:0,1")(logits, target))
    assert dice == pytest.approx(1 - 2 * 1.5 / 3.5, rel=1e-6)


@pytest.mark.parametrize("loss", ALL)
def test_ignored_pixels_give_no_gradient(loss):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 8, 8)
    target = torch.randint(0, 3, (2, 8, 8))
    target[:, :3] = 255
    value, gradient = _value_and_gradient(loss, logits, target)
    moved = logits.clone()
    moved[:, :, :3] += torch.randn(2, 3, 3, 8)
    if loss is losses.dice:  # the study's form keeps them in its denominator
        assert gradient[:, :, :3].abs().max() > 0
        assert loss(moved, target) != value
    else:
        assert gradient[:, :, :3].abs().max() == 0
        assert torch.equal(loss(moved, target), value)
    assert gradient[:, :, 3:].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", ALL)
def test_all_ignored_gives_no_gradient(loss, dtype):
    torch.manual_seed(0)
    target = torch.full((2, 8, 8), 255)
    value, gradient = _value_and_gradient(loss, torch.randn(2, 3, 8, 8).to(dtype), target)
    assert float(value) == (1.0 if loss is losses.dice else 0.0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", ALL)
def test_half_precision_logits_are_computed_in_float32(loss, dtype):
    torch.manual_seed(0)
    # 2^17 pixels and logits near the float16 maximum: sums and exponentials overflow in float16.
    logits = torch.randn(2, 2, 256, 256).to(dtype)
    target = torch.randint(0, 2, (2, 256, 256))
    value, gradient = _value_and_gradient(loss, logits, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(logits.float(), target))
    assert gradient.dtype == dtype
    value, gradient = _value_and_gradient(loss, (logits.float().sign() * 6e4).to(dtype), target)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", ALL)
def test_gradients_are_those_of_the_value(loss):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 2, 2)
    target = torch.randint(0, 3, (1, 2, 2))
    target[0, 0, 0] = 255
    _, gradient = _value_and_gradient(loss, logits, target)
    step = 1e-2
    for i in range(logits.numel()):
        shift = torch.zeros(logits.numel())
        shift[i] = step
        shift = shift.view_as(logits)
        slope = (loss(logits + shift, target) - loss(logits - shift, target)) / (2 * step)
        assert float(gradient.flatten()[i]) == pytest.approx(float(slope), abs=2e-4)


@pytest.mark.parametrize("loss", ALL[1:])  # the first is PyTorch's: three times
def test_hold_little_beside_the_gradient(loss):
    logits = torch.randn(16, 2, 256, 256, requires_grad=True)
    target = torch.randint(2, (16, 256, 256))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        _value_and_gradient(loss, logits, target)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    beside = max(held) - logits.nbytes  # a copy that _value_and_gradient makes
    assert logits.nbytes <= beside < 1.5 * logits.nbytes


@pytest.mark.parametrize("name", ["ce", "dice", "focal", "iou", "ce+dice"])
def test_perfect_logits_cost_nothing(name):
    target = torch.tensor([[[0, 1, 2, 1]]])
    logits = 40.0 * (torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2) - 0.5)
    # eps in the denominator leaves 2 eps / (2 * 4 + 2 eps) of the study's Dice loss
    assert float(losses.get_loss(name)(logits, target)) == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize(
    "spec",
    ["", "CE", "iou:1", "ce+dice:", "ce+dice:1", "ce+dice:1,2,3", "ce+dice:a,b", "dice:1,2"],
)
def test_unknown_names_are_refused(spec):
    with pytest.raises(InputError, match=r"expected ce, dice, focal, iou, ce\+dice"):
        losses.get_loss(spec)


@pytest.mark.parametrize("weights", ["0,0", "-1,1", "1,nan", "inf,1"])
def test_useless_weights_are_refused(weights):
    with pytest.raises(InputError, match="two finite weights"):
        losses.get_loss(f"ce+dice:{weights}")
