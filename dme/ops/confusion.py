"""`dme::confusion_matrix`: arg-max and counting in one pass, without a label map in between."""

import itertools

import numpy as np
import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.ops import MAX_CLASSES, needing_triton

LABEL_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Every cell of an image whose labels a CUDA kernel found out of range. It stays negative when
# matrices are added up, unless there are 2**15 such images or 2**48 pixels.
INVALID = -(1 << 48)
CPU_BLOCK = 1 << 16  # pixels at a time: few calls, and temporaries stay in the cache


def confusion_matrix(
    pred: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_index: int = 255,
    per_image: bool = False,
) -> Tensor:
    """Count pixels by (truth, prediction); rows are truth, columns are prediction.

    pred: logits (N, C, H, W), float32 / bfloat16 / float16 / float64, arg-maxed over C as
        `torch.argmax` does (first maximum wins, NaN counts as the maximum); or labels (N, H, W),
        uint8 / int16 / int32 / int64.
    target: labels (N, H, W), uint8 / int16 / int32 / int64. A pixel is skipped where `target`, or
    `pred` when given as labels, is `ignore_index` (C..255). Any strides; not differentiable;
    autocast changes nothing, the logits are compared as they come.

    Returns int64 (C, C), or (N, C, C) with `per_image`, on the device of `pred`. Raises InputError
    for shapes, types and devices that do not fit and, on the CPU, for labels outside 0..C-1. On
    CUDA that last check would wait for the device: instead every cell of such an image is
    `INVALID` (negative), which `dme.metrics` refuses when it reads the counts.
    """
    _check(pred, target, num_classes, ignore_index)
    # (N, C, C)
    counts = torch.ops.dme.confusion_matrix(pred, target, num_classes, ignore_index)
    return counts if per_image else counts.sum(0)


def _check(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> None:
    if not 2 <= num_classes <= MAX_CLASSES:
        raise InputError(f"num_classes={num_classes}; expected 2..{MAX_CLASSES}; merge classes")
    if not num_classes <= ignore_index <= 255:
        raise InputError(
            f"ignore_index={ignore_index}; expected {num_classes}..255, no class number; "
            "use 255 for unknown pixels"
        )
    if target.dtype not in LABEL_TYPES:
        raise InputError(
            f"target is {target.dtype}; expected uint8, int16, int32 or int64; use target.byte()"
        )
    if target.ndim != 3:
        raise InputError(
            f"target has shape {tuple(target.shape)}; expected (N, H, W); add or remove dimensions"
        )
    if pred.dtype in LOGIT_TYPES:
        expected = (len(target), num_classes, *target.shape[1:])
        fix = "resize the logits or set num_classes"
    elif pred.dtype in LABEL_TYPES:
        expected = tuple(target.shape)
        fix = "resize one of them"
    else:
        raise InputError(
            f"pred is {pred.dtype}; "
            "expected floating logits (N, C, H, W) or integer labels (N, H, W); convert it"
        )
    if tuple(pred.shape) != expected:
        raise InputError(
            f"pred has shape {tuple(pred.shape)}; expected {expected} to fit the target; {fix}"
        )
    if pred.device != target.device:
        raise InputError(
            f"pred is on {pred.device}, target on {target.device}; expected one device; move one"
        )


@torch.library.custom_op("dme::confusion_matrix", mutates_args=(), device_types="cpu")
def _count(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """CPU: block by block a running maximum, then a histogram.

    By NumPy, which compares and counts faster than PyTorch.
    """
    n_images, height, width = target.shape
    # one row for every byte: ignored and invalid labels have rows of their own
    counts = np.zeros((n_images, 256, num_classes), np.int64)
    if target.numel():
        rows = max(1, CPU_BLOCK // width)
        for n, top in itertools.product(range(n_images), range(0, height, rows)):
            block = slice(top, top + rows)
            guess = pred[n, ..., block, :]  # (C, rows, W) or (rows, W)
            counts[n] += _count_block(guess, target[n, block], num_classes, ignore_index)

    # (256 - C,) pixels per truth value that is no class
    outside = counts[:, num_classes:].sum((0, 2))
    outside[ignore_index - num_classes] = 0
    invalid = np.repeat(np.arange(num_classes, 256), outside)
    _reject(invalid, "target", num_classes, ignore_index)
    return torch.from_numpy(counts[:, :num_classes].copy())


def _count_block(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> np.ndarray:
    """Pixels by truth 0..255 and guess, int64 (256, C), of logits (C, h, w) or labels (h, w)."""
    truth = target.detach().numpy()
    if pred.is_floating_point():
        truth = _as_bytes(truth, num_classes, ignore_index)
        if pred.dtype in (torch.bfloat16, torch.float16):
            pred = pred.float()  # NumPy knows only one of them, and is slow with it
        guess = _first_maximum(pred.detach().numpy())
    else:
        labels = pred.detach().numpy()
        truth = np.where(labels == ignore_index, ignore_index, truth)
        truth = _as_bytes(truth, num_classes, ignore_index)
        outside = (labels < 0) | (labels >= num_classes)
        invalid = labels[outside & (truth != ignore_index)]
        _reject(invalid, "pred", num_classes, ignore_index)
        guess = np.where(outside, 0, labels).astype(np.uint8)
    return _histogram(truth, guess, num_classes, ignore_index)


def _as_bytes(truth: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """Labels as uint8. Raises InputError for those that are none."""
    if truth.dtype == np.uint8:
        return truth
    if truth.min() < 0 or truth.max() > 255:
        invalid = truth[(truth < 0) | (truth > 255)]
        _reject(invalid, "target", num_classes, ignore_index)
    return truth.astype(np.uint8)


def _first_maximum(logits: np.ndarray) -> np.ndarray:
    """Arg-max over C of (C, h, w), as uint8; NumPy's is slow over a far stride."""
    best = np.maximum(logits[0], logits[1])
    label = (logits[1] > logits[0]).view(np.uint8)
    for c in range(2, len(logits)):
        better = (logits[c] > best).view(np.uint8)
        np.maximum(label, better * np.uint8(c), out=label)  # c grows: the later wins
        np.maximum(best, logits[c], out=best)
    # `maximum` carries NaN along, `>` does not see it
    # A sum finds NaN fastest; infinities cost a detour
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isnan(best.sum()):
            return logits.argmax(0).astype(np.uint8)
    return label


def _histogram(
    truth: np.ndarray, guess: np.ndarray, num_classes: int, ignore_index: int
) -> np.ndarray:
    """Pixels by truth 0..255 and guess 0..C-1, both uint8: int64 (256, C)."""
    if num_classes == 2:
        counts = _histogram_of_two(truth, guess.view(bool))
        ignored = np.count_nonzero(truth == ignore_index)
        if counts.sum() + ignored == truth.size:  # there is no other label
            return counts
    code = truth.astype(np.int16) * num_classes + guess  # at most 255 * 32 + 31
    counts = torch.bincount(torch.from_numpy(code.ravel()), minlength=256 * num_classes)
    return counts.numpy().reshape(256, num_classes)


def _histogram_of_two(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Pixels by truth 0 or 1 and guess (bool), by counting bits: int64 (256, 2)."""
    counts = np.zeros((256, 2), np.int64)
    for label in (0, 1):
        there = truth == label
        counts[label, 1] = np.count_nonzero(there & guess)
        counts[label, 0] = np.count_nonzero(there) - counts[label, 1]
    return counts


def _reject(values: np.ndarray, name: str, num_classes: int, ignore_index: int) -> None:
    if values.size:
        some = ", ".join(map(str, np.unique(values)[:5].tolist()))
        raise InputError(
            f"{name} holds {some} in {values.size} pixels; "
            f"expected 0..{num_classes - 1} or {ignore_index} (ignored); "
            "relabel it or raise num_classes"
        )


@_count.register_kernel("cuda")
def _count_cuda(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    with needing_triton():
        from dme.ops.confusion_triton import count
    # (N, C * C + 1): the last cell counts pixels out of range
    counts = torch.zeros(len(target), num_classes**2 + 1, dtype=torch.int64, device=pred.device)
    with torch.cuda.device(pred.device):
        count(pred, target, num_classes, ignore_index, counts)
    outside = counts[:, -1:] > 0
    counts = counts[:, :-1].masked_fill(outside, INVALID)
    return counts.view(-1, num_classes, num_classes)


@_count.register_fake
def _count_fake(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return pred.new_empty((target.shape[0], num_classes, num_classes), dtype=torch.int64)
