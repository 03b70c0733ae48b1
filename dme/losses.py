"""Segmentation losses: `loss(logits (N, C, H, W), target (N, H, W) int64) -> scalar float32`.

Every loss computes in float32 whatever the dtype of the logits, so float16 and bfloat16 logits are
safe. Pixels whose target is `ignore_index` give no gradient, except in the study's `dice` (see
there). Labels are not range-checked here but once, when the cache is built: what another label
outside 0..C-1 does is undefined.
"""

import functools
import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.ops.focal import focal_sums
from dme.ops.region_sums import region_sums

Loss = Callable[[Tensor, Tensor], Tensor]


def ce(logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Softmax cross-entropy, averaged over all pixels.

    Ignored ones add nothing but count in the denominator: OpenMMLab's default
    (`avg_non_ignore=False`). 0 when every pixel is ignored.
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore_index, reduction="sum")
    return total / target.numel()


def dice(logits: Tensor, target: Tensor, ignore_index: int = IGNORE, eps: float = 1e-3) -> Tensor:
    """Soft Dice as in the study: all classes lumped, squared denominator, mean over the images.

    1 - 2 sum(p t) / (sum(p^2) + eps + sum(t^2) + eps): Milletari et al. 2016 as OpenMMLab's
    `DiceLoss(use_sigmoid=False)` writes it. Ignored pixels have t = 0 but their p^2 stays in the
    denominator, so they do get a gradient; an image of nothing but ignored pixels costs 1 and
    gives no gradient. Use `ce_dice` where masks hold ignored pixels.
    """
    _, sums = region_sums(logits, target, ignore_index)
    overlap, _, true, squared = sums.sum(1).unbind(1)  # each (N,)
    return (1 - 2 * overlap / (squared + true + 2 * eps)).mean()


def focal(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = IGNORE,
    gamma: float = 2.0,
    alpha: float = 0.5,
) -> Tensor:
    """Sigmoid focal loss on one-hot targets (Lin et al. 2017), mean over all N*C*H*W entries.

    As OpenMMLab computes it: ignored pixels add nothing but count in the denominator. 0 when every
    pixel is ignored.
    """
    return focal_sums(logits, target, ignore_index, gamma, alpha).sum() / logits.numel()


def iou_balanced(logits: Tensor, target: Tensor, ignore_index: int = IGNORE) -> Tensor:
    """Class-balanced soft IoU loss: mean over the classes of 1 - sum(p t) / sum(p + t - p t).

    The study's proposal names an "IoU-balanced" loss. The one published under that name (Wu et al.
    2019, arXiv 1908.05641) weights the classification loss of each positive detection by its box's
    IoU and then normalises the weights. Pixels have no box, and with one IoU per class those
    weights are all 1 when there is one foreground class. This is the counterpart for segmentation:
    the soft IoU of Rahman & Wang 2016 ("Optimizing Intersection-Over-Union in Deep Neural Networks
    for Image Segmentation"), each class weighing the same however few its pixels. Sums run over
    the valid pixels of the whole batch. Classes absent from the batch are left out (the "present"
    rule of Berman et al. 2018); their false positives still cost the classes that are there. 0
    when every pixel is ignored.
    """
    _, sums = region_sums(logits, target, ignore_index)
    overlap, predicted, true, _ = sums.sum(0).unbind(1)  # each (C,)
    iou = overlap / (predicted + true - overlap).clamp_min(1)
    return _mean_of_present(1 - iou, true)


def ce_dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = IGNORE,
    ce_weight: float = 1.0,
    dice_weight: float = 1.0,
) -> Tensor:
    """ce_weight * cross-entropy + dice_weight * soft Dice loss, both without ignored pixels.

    Cross-entropy is the mean over valid pixels. Dice is 1 - 2 sum(p t) / sum(p + t) per class,
    background too, over the valid pixels of the whole batch, averaged over the classes present in
    the batch: an empty mask neither divides by zero nor asks for anything but background. 0 when
    every pixel is ignored.
    """
    entropy, sums = region_sums(logits, target, ignore_index)
    overlap, predicted, true, _ = sums.sum(0).unbind(1)  # each (C,)
    ce_loss = entropy.sum() / true.sum().clamp_min(1)
    dice_loss = _mean_of_present(1 - 2 * overlap / (predicted + true).clamp_min(1), true)
    return ce_weight * ce_loss + dice_weight * dice_loss


def get_loss(spec: str) -> Loss:
    """The loss of a name: `ce`, `dice`, `focal`, `iou`, `ce+dice` or `ce+dice:W_CE,W_DICE`.

    Raises InputError for any other text.
    """
    named: dict[str, Loss] = {
        "ce": ce,
        "dice": dice,
        "focal": focal,
        "iou": iou_balanced,
        "ce+dice": ce_dice,
    }
    if spec in named:
        return named[spec]

    # ce+dice with weights
    unknown = InputError(
        f"loss {spec!r}: expected {', '.join(named)} or ce+dice:W_CE,W_DICE, such as ce+dice:1,0.5"
    )
    name, _, weights = spec.partition(":")
    if name != "ce+dice":
        raise unknown
    try:
        ce_weight, dice_weight = map(float, weights.split(","))
    except ValueError:
        raise unknown from None
    total = ce_weight + dice_weight
    if not (ce_weight >= 0 and dice_weight >= 0 and 0 < total < math.inf):
        raise InputError(f"loss {spec!r}: expected two finite weights >= 0 that are not both 0")
    return functools.partial(ce_dice, ce_weight=ce_weight, dice_weight=dice_weight)


def _mean_of_present(loss: Tensor, true: Tensor) -> Tensor:
    """Mean of the per-class losses (C,) over those with a true pixel; 0 when there is none."""
    present = true > 0
    return (loss * present).sum() / present.sum().clamp_min(1)
