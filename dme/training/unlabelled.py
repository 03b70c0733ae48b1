"""Scans without labels beside those with: their labels are what a mean teacher is sure of.

The teacher is the moving average of the network's weights (mean teacher: Tarvainen & Valpola 2017,
arXiv 1703.01780). It labels a scan whose grey values are as they are; pixels whose most probable
class has at least CONFIDENT are the truth for the network, which sees the same scan with its grey
values changed (FixMatch: Sohn et al. 2020, arXiv 2001.07685, pixel by pixel). All other pixels are
unknown.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.common.tasks import Task
from dme.data.cache import Cache
from dme.data.source import Source
from dme.inference.entry import enter
from dme.inference.windows import resize
from dme.training.augment import TrainingSet
from dme.training.joint import Joint
from dme.training.settings import Recipe

CONFIDENT = 0.95  # FixMatch's threshold


def unlabelled_scans(
    source: Source,
    labelled: Cache,
    preprocess: dict,
    task: Task,
    device: torch.device,
    scale_um: Sequence[float] | None = None,
) -> tuple[TrainingSet, list[str]]:
    """The scans of a source as a network with this `preprocess` sees them, and what is to be said.

    Their masks are 0, whatever the source knows. Scans that equal one of `labelled`, at its own
    pixels, are left out: those are trained on already, or will be scored. scale_um: axial and
    lateral um per pixel, None for what the source says. Raises InputError where no scan is left.
    """
    known = {_pixels(image) for image in labelled.images}
    images, masks, names = [], [], []
    notes: Counter[str] = Counter()
    for scan in source.scans(labelled_only=False):
        if _pixels(scan.image) in known:
            notes["among the labelled scans, left out"] += 1
            continue
        scale = scale_um or scan.scale_um
        entered = enter(torch.tensor(scan.image), preprocess, task.classes, scale)
        if entered.size.note:
            notes[entered.size.note] += 1
        images.append(entered.image.to(device))
        masks.append(torch.zeros_like(images[-1]))
        names.append(scan.name)
    if not images:
        raise InputError(
            f"every scan of {source.description} is among the labelled ones: give `unlabelled` "
            "scans beside those, or leave it out"
        )
    told = [f"{count} scans: {note}" for note, count in notes.items()]
    return TrainingSet(images, masks, names, task.fluid_label), told


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
            "`unlabelled` scans get their labels from the moving average of the weights, and "
            "there is none: give `ema`, 0.99 say"
        )


@torch.no_grad()
def sure_labels(
    teacher: Joint, x: Tensor, inside: Tensor, precision: torch.dtype | None
) -> Tensor:
    """Labels int64 (B, h, w) by the teacher's first head, 255 where it is not sure.

    x: network input (B, C, H, W), (h, w) padded. inside: (B, h, w), 255 outside the scans.
    precision: of autocast, None for float32.
    """
    with torch.autocast(x.device.type, precision, enabled=precision is not None):
        logits = teacher.eval()(x)[0]
    height, width = inside.shape[-2:]
    logits = resize(logits.float(), x.shape[-2:])[..., :height, :width]
    probability, label = logits.softmax(1).max(1)
    sure = (probability >= CONFIDENT) & (inside != IGNORE)
    return label.masked_fill(~sure, IGNORE)
