"""From images to logits: whole image, sliding window, flips."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.nets.unet import STRIDE

WINDOW = 256
SLIDE_STRIDE = 170


def whole(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of a whole image of any size.

    x: normalised (N, C, H, W), padded as the network needs.
    Returns (N, classes, H, W), cropped back.
    """
    height, width = x.shape[-2:]
    padded = pad(x)
    return resize(model(padded), padded.shape[-2:])[..., :height, :width]


def pad(x: Tensor) -> Tensor:
    """(N, C, H, W) with right and bottom padded to multiples of 16 by repeating the last pixel."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def sliding_window(
    model: nn.Module,
    x: Tensor,
    window: int = WINDOW,
    stride: int = SLIDE_STRIDE,
    batch: int | None = None,
) -> Tensor:
    """Logits averaged over overlapping windows, as OpenMMLab's `slide_inference`.

    x: normalised (N, C, H, W) -> (N, classes, H, W). The last window of a row or column is moved
        back inside the image; an image smaller than the window is one window.
    batch: windows per forward pass (default 1 on a CPU, where more only overflow its caches, 32 on
        a GPU).
    Raises ValueError for a stride that skips pixels.
    """
    if not 0 < stride <= window:
        raise ValueError(
            f"stride {stride} must be between 1 and the window's {window} pixels, "
            "else pixels are skipped"
        )
    count, _, height, width = x.shape
    tall = min(window, height)
    wide = min(window, width)

    # where each window lies: image, rows, columns
    tops = _starts(height, window, stride)
    lefts = _starts(width, window, stride)
    places = []
    for i, top, left in itertools.product(range(count), tops, lefts):
        places.append((i, slice(None), slice(top, top + tall), slice(left, left + wide)))

    batch = batch or (32 if x.is_cuda else 1)
    total = coverage = None
    for start in range(0, len(places), batch):
        chunk = places[start : start + batch]
        logits = whole(model, torch.stack([x[place] for place in chunk]))
        if total is None:
            total = logits.new_zeros(count, logits.shape[1], height, width)
            coverage = logits.new_zeros(count, 1, height, width)
        for place, piece in zip(chunk, logits, strict=True):
            total[place] += piece
            coverage[place] += 1
    return total / coverage


def _starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along a side; the last one is moved back inside."""
    steps = max(side - window + stride - 1, 0) // stride + 1
    last = max(side - window, 0)
    return [min(i * stride, last) for i in range(steps)]


def require_finite(output: Tensor, network: nn.Module, scan: str | None = None) -> None:
    """Raises InputError, naming the network and the scan, for an output with NaN or infinity.

    Comparisons and arg-max take NaN for some class or other.
    """
    ends = torch.stack(output.aminmax())  # which NaN would be
    if not ends.isfinite().all():
        name = getattr(network, "weights_name", "the network")
        of_scan = "" if scan is None else f" of scan {scan}"
        raise InputError(
            f"{name} makes NaN or infinity{of_scan}: its weights are damaged or its training "
            "diverged; choose other weights"
        )


def flip_average(predict: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean of the softmax probabilities over an image and its mirror image, (N, classes, H, W).

    predict: normalised (N, C, H, W) -> logits (N, classes, H, W).
    """
    straight = predict(x).softmax(1)
    mirrored = predict(x.flip(-1)).softmax(1).flip(-1)
    return (straight + mirrored) / 2


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) at another size as OpenMMLab resizes logits.

    Bilinear, half-pixel centres, no antialiasing.
    """
    if x.shape[-2:] == tuple(size):
        return x
    # of two channels, channels last takes three times as long
    return F.interpolate(x.contiguous(), size, mode="bilinear", align_corners=False)
