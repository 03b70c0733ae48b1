"""Pieces of work that the benchmarks time: each by dme and by its peers, on the same inputs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import peers
import torch
from torch import Tensor
from torch.nn import functional as F
from turns import DEVICE, Ways, stopwatch

from dme.common.labels import IGNORE
from dme.data.phantom import phantom_bscan
from dme.inference.windows import pad, resize
from dme.losses import Loss, get_loss
from dme.nets.segmenter import Segmenter, normalise
from dme.ops.confusion import confusion_matrix
from dme.ops.crops import crops_by_pytorch, sample_crops
from dme.ops.depthwise import depthwise_conv
from dme.training.augment import TrainingSet, batch_indices, sample_batch
from dme.training.recipe import OPTIMIZERS
from dme.training.run_folder import Stopwatch
from dme.training.settings import Augment, Recipe

Shape = tuple[int, int, int, int]
IGNORED_SHARE = 0.05  # of the labels
# of a crop, as sample_crops explains it
GEOMETRY = (40.0, 60.0, 1.1, 0.9, 0.1, 1.0)


def largest_difference(ways: Ways) -> float:
    """Of the others' results from the first way's."""
    first, *others = (way() for way in ways.values())
    return max((first - other).abs().max().item() for other in others)


def synthetic_set(count: int) -> TrainingSet:
    """Scans and fluid masks of the phantom, on the device."""
    images = []
    masks = []
    for seed in range(count):
        scan = phantom_bscan(seed, fluid=True)
        images.append(torch.tensor(scan.image).to(DEVICE))
        masks.append(torch.tensor(scan.fluid).to(DEVICE))
    return TrainingSet(images, masks, [f"phantom {seed}" for seed in range(count)])


# ---- counting


def confusion_ways(classes: int, shape: tuple[int, int, int], torchmetrics: bool) -> Ways:
    """Confusion matrices of the same logits. shape: (N, H, W) of the labels, int64."""
    logits, target = confusion_inputs(classes, shape)
    ways = {
        "dme.confusion_matrix": lambda: confusion_matrix(logits, target, classes),
        "argmax and bincount": lambda: peers.argmax_bincount(logits, target, classes),
    }
    if torchmetrics:
        count = peers.torchmetrics_counter(classes, DEVICE)
        ways["torchmetrics"] = lambda: count(logits, target)
    return ways


def confusion_inputs(classes: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Logits float32 (N, C, H, W) and labels int64 (N, H, W), one in twenty of them ignored."""
    generator = torch.Generator().manual_seed(0)
    scans, *pixels = shape
    logits = torch.randn((scans, classes, *pixels), generator=generator).to(DEVICE)
    target = torch.randint(classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < IGNORED_SHARE] = IGNORE
    return logits, target.to(DEVICE)


def require_equal_counts(ways: Ways) -> None:
    first, *others = (way() for way in ways.values())
    if any((first != other).any() for other in others):
        raise RuntimeError(f"the confusion matrices of {', '.join(ways)} differ")


# ---- losses


def loss_ways(shape: Shape, monai: bool) -> dict[str, Ways]:
    """By loss. Each way returns the gradient. No label is ignored, which MONAI's could not do."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).to(DEVICE).requires_grad_()
    scans, classes, *pixels = shape
    target = torch.randint(classes, (scans, *pixels), generator=generator).to(DEVICE)

    def gradient(loss: Loss) -> Tensor:
        return torch.autograd.grad(loss(logits, target), logits)[0]

    ce_dice = {
        "dme.losses.ce_dice": partial(gradient, get_loss("ce+dice")),
        "PyTorch operations": partial(gradient, peers.plain_ce_dice),
    }
    if monai:
        ce_dice["MONAI DiceCELoss"] = partial(gradient, peers.monai_ce_dice())
    focal = {
        "dme.losses.focal": partial(gradient, get_loss("focal")),
        "PyTorch operations": partial(gradient, peers.plain_focal),
    }
    return {"CE + Dice": ce_dice, "focal loss": focal}


def gradients_apart(ways: Ways, shape: Shape) -> float:
    """The largest difference of a pixel's gradient, as if the loss were that pixel's alone."""
    pixels = shape[0] * shape[2] * shape[3]
    return largest_difference(ways) * pixels


# ---- convolutions and crops


def depthwise_ways(kernel: int, dilation: int, shape: Shape) -> Ways:
    """Forward and back, channels last as in training; PyTorch's in bfloat16 can be wrong."""
    generator = torch.Generator().manual_seed(0)
    reach = dilation * (kernel // 2)
    ours = partial(depthwise_conv, dilation=dilation)
    peer = partial(F.conv2d, padding=reach, dilation=dilation, groups=shape[1])
    ways: Ways = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(shape, generator=generator).to(dtype, memory_format=torch.channels_last)
        weight = torch.randn(shape[1], 1, kernel, kernel, generator=generator).to(dtype)
        x.requires_grad_()
        weight.requires_grad_()
        name = str(dtype).removeprefix("torch.")
        ways[f"dme.depthwise_conv, {name}"] = partial(_there_and_back, ours, x, weight)
        ways[f"F.conv2d, {name}"] = partial(_there_and_back, peer, x, weight)
    return ways


def _there_and_back(convolution: Callable, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient in the weight."""
    y = convolution(x, weight)
    return torch.autograd.grad(y, (x, weight), y.detach())[1]


def crop_ways(batch: int, side: int) -> Ways:
    data = synthetic_set(batch)
    geometry = torch.tensor([GEOMETRY] * batch, dtype=torch.float64)
    images = [image[None] for image in data.images]  # (1, H, W) each
    arguments = (images, data.masks, geometry, side, side)
    return {
        "dme.sample_crops": lambda: sample_crops(*arguments),
        "PyTorch operations": lambda: crops_by_pytorch(*arguments),
    }


# ---- training


@dataclass(frozen=True)
class Lesson:
    """What a network is trained on, and how."""

    data: TrainingSet
    augment: Augment
    recipe: Recipe


class Step:
    """One optimiser step of a copy of the model at every call, which returns its Stopwatch."""

    def __init__(
        self,
        model: Segmenter,
        lesson: Lesson,
        layout: torch.memory_format,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.model = copy.deepcopy(model).to(DEVICE, memory_format=layout).train()
        forward = self.model.forward_with_aux
        self.forward = torch.compile(forward) if compiled else forward
        self.lesson = lesson
        self.layout = layout
        self.dtype = dtype
        recipe = lesson.recipe
        make = OPTIMIZERS[recipe.optimizer]
        self.optimizer = make(list(self.model.parameters()), recipe.lr, recipe.l2)
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype is torch.float16)
        self.done = 0

    def __call__(self) -> Stopwatch:
        recipe = self.lesson.recipe
        watch = stopwatch()
        torch.manual_seed((recipe.seed << 32) + (self.done << 8))  # dropout
        self.optimizer.zero_grad(set_to_none=True)

        # drawn, augmented, normalised, padded
        x, target = self._batch()
        watch.lap("batch")

        with torch.autocast(DEVICE.type, self.dtype, enabled=self.dtype is not None):
            outputs = self.forward(x)  # of the head, and of the auxiliary one
        watch.lap("forward")

        # the loss on leaves, so that its own backward pass is timed apart from the network's
        leaves = [output.detach().requires_grad_() for output in outputs]
        height, width = target.shape[-2:]
        logits = []  # (N, C, H, W) each, without the padding
        for leaf in leaves:
            enlarged = resize(leaf.float(), x.shape[-2:])
            logits.append(enlarged[..., :height, :width])
        loss_of = get_loss(recipe.loss)
        loss = loss_of(logits[0], target) + recipe.aux_weight * loss_of(logits[1], target)
        self.scaler.scale(loss).backward()
        watch.lap("loss")

        # what training reports of a batch
        confusion_matrix(logits[0].detach(), target, self.model.arch["num_classes"])
        watch.lap("counts")

        # the network's own backward pass
        torch.autograd.backward(outputs, [leaf.grad for leaf in leaves])
        watch.lap("backward")

        self.scaler.step(self.optimizer)
        self.scaler.update()
        watch.lap("optimiser")
        self.done += 1
        return watch

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H', W') as the network takes them, and labels (N, H, W)."""
        data, recipe = self.lesson.data, self.lesson.recipe
        chosen = batch_indices(len(data.images), recipe.batch, self.done, recipe.seed)
        images, target = sample_batch(data, chosen, self.lesson.augment, recipe.seed, self.done)
        x = pad(normalise(images, self.model.preprocess))
        return x.to(DEVICE, memory_format=self.layout), target
