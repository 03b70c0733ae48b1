"""Scans without labels beside those with: the network is to agree with a mean teacher.

The teacher is the moving average of the network's weights (mean teacher: Tarvainen & Valpola 2017,
arXiv 1703.01780). It sees a scan whose grey values are as they are, the network the same scan with
its grey values changed; their probabilities are to agree.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.tasks import Task
from dme.data.source import Source
from dme.inference.entry import enter
from dme.inference.scan import scale_lines
from dme.training.augment import TrainingSet
from dme.training.settings import Recipe


def unlabelled_scans(
    source: Source,
    taken: Iterable[np.ndarray],
    preprocess: dict,
    task: Task,
    device: torch.device,
    scale_um: Sequence[float] | None = None,
) -> tuple[TrainingSet, list[str]]:
    """The scans of a source as a network with this `preprocess` sees them, and what is to be said.

    Their masks are 0, whatever the source knows. taken: images, at their own pixels, that are
    trained on already or will be scored; scans that equal one are left out. scale_um: axial and
    lateral um per pixel, None for what the source says. Raises InputError where no scan is left.
    """
    known = {_pixels(image) for image in taken}
    images, masks, names = [], [], []
    scale_notes = []
    left_out = 0
    for scan in source.scans(labelled_only=False):
        if _pixels(scan.image) in known:
            left_out += 1
            continue
        scale = scale_um or scan.scale_um
        entered = enter(torch.tensor(scan.image), preprocess, task.classes, scale)
        scale_notes.append(entered.size.note)
        images.append(entered.image.to(device))
        masks.append(torch.zeros_like(images[-1]))
        names.append(scan.name)
    if not images:
        raise InputError(
            f"every scan of {source.description} is trained on or scored already: give "
            "`unlabelled` scans beside those, or leave it out"
        )
    notes = scale_lines(scale_notes)
    if left_out:
        notes.append(f"{left_out} scans: trained on or scored already, left out")
    return TrainingSet(images, masks, names, task.fluid_label), notes


def _pixels(image: np.ndarray) -> tuple:
    """Equal for equal images alone."""
    return image.shape, image.tobytes()


def check_teacher(data: TrainingSet, recipe: Recipe) -> None:
    """Raise InputError for unlabelled scans without a teacher, and for a weight without scans."""
    if data.unlabelled is None and recipe.unlabelled_weight != Recipe.unlabelled_weight:
        raise InputError(
            f"`unlabelled_weight` is {recipe.unlabelled_weight}, and there are no such scans: "
            "give `unlabelled` too, or leave it out"
        )
    if data.unlabelled is not None and not recipe.ema:
        raise InputError(
            "on `unlabelled` scans the network follows the moving average of its weights, and "
            "there is none: give `ema`, 0.99 say"
        )


def consistency(probability: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """How far two networks are apart in the same pixels, 0 to 1, however little a class covers.

    probability, teacher: (B, classes, h, w). known: bool (B, h, w), the pixels that count: those
    of the scans. The squared difference over the sum of squares, which is 1 minus the soft Dice;
    mean over the classes but the first.
    """
    p = (probability * known[:, None])[:, 1:]
    q = (teacher * known[:, None])[:, 1:]
    over = (0, 2, 3)
    apart = (p - q).square().sum(over)
    return (apart / (p.square().sum(over) + q.square().sum(over) + 1)).mean()


def ramp(share: float) -> float:
    """Weight after a share of the run; it rises over the first half (Laine & Aila 2017)."""
    left = max(0.0, 1 - share / 0.5)
    return math.exp(-5 * left**2)
