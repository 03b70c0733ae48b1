"""`dme::confusion_matrix`: arg-max and counting in one pass, without a label map in between."""

import numpy as np
import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.ops import MAX_CLASSES, needing_triton

LABEL_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Every cell of an image whose labels a CUDA kernel found out of range. It stays negative when matrices are
# added up, unless there are 2**15 such images or 2**48 pixels.
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

    pred: logits (N, C, H, W), float32 / bfloat16 / float16 / float64, arg-maxed over C as `torch.argmax` does
        (first maximum wins, NaN counts as the maximum); or labels (N, H, W), uint8 / int16 / int32 / int64.
    target: labels (N, H, W), uint8 / int16 / int32 / int64.
    A pixel is skipped where `target`, or `pred` when given as labels, is `ignore_index` (C..255).
    Any strides; not differentiable; autocast changes nothing, the logits are compared as they come.

    Returns int64 (C, C), or (N, C, C) with `per_image`, on the device of `pred`.
    Raises InputError for shapes, types and devices that do not fit and, on the CPU, for labels outside
    0..C-1. On CUDA that last check would wait for the device: instead every cell of such an image is
    `INVALID` (negative), which `dme.metrics` refuses when it reads the counts.
    """
    _check(pred, target, num_classes, ignore_index)
    counts = torch.ops.dme.confusion_matrix(pred, target, num_classes, ignore_index)  # (N, C, C)
    return counts if per_image else counts.sum(0)


def _check(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> None:
    if not 2 <= num_classes <= MAX_CLASSES:
        raise InputError(f"num_classes={num_classes}; wanted 2..{MAX_CLASSES}; merge classes")
    if not num_classes <= ignore_index <= 255:
        wanted = f"{num_classes}..255, no class number"
        raise InputError(
            f"ignore_index={ignore_index}; wanted {wanted}; use 255 for unknown pixels"
        )
    if target.dtype not in LABEL_TYPES:
        raise InputError(
            f"target is {target.dtype}; wanted uint8, int16, int32 or int64; use target.byte()"
        )
    if target.ndim != 3:
        raise InputError(
            f"target has shape {tuple(target.shape)}; wanted (N, H, W); add or remove dimensions"
        )
    if pred.dtype in LOGIT_TYPES:
        wanted, fix = (
            (len(target), num_classes, *target.shape[1:]),
            "resize the logits or set num_classes",
        )
    elif pred.dtype in LABEL_TYPES:
        wanted, fix = tuple(target.shape), "resize one of them"
    else:
        wanted = "floating logits (N, C, H, W) or integer labels (N, H, W)"
        raise InputError(f"pred is {pred.dtype}; wanted {wanted}; convert it")
    if tuple(pred.shape) != wanted:
        raise InputError(
            f"pred has shape {tuple(pred.shape)}; wanted {wanted} to fit the target; {fix}"
        )
    if pred.device != target.device:
        raise InputError(
            f"pred is on {pred.device}, target on {target.device}; wanted one device; move one"
        )


@torch.library.custom_op("dme::confusion_matrix", mutates_args=(), device_types="cpu")
def _count(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """CPU: block by block a running maximum, then a histogram; by NumPy, which compares and counts faster."""
    n_images, height, width = target.shape
    counts = np.zeros(
        (n_images, 256, num_classes), np.int64
    )  # ignored and invalid labels have rows of their own
    truths, widened = target.detach().numpy(), pred.dtype in (torch.bfloat16, torch.float16)
    rows = max(1, CPU_BLOCK // max(1, width))
    for n in range(n_images):
        for top in range(0, height if width else 0, rows):
            truth, guess = truths[n, top : top + rows], pred[n, ..., top : top + rows, :].detach()
            guess = guess.float().numpy() if widened else guess.numpy()
            if not pred.is_floating_point():
                truth = np.where(guess == ignore_index, ignore_index, truth)
            if truth.dtype != np.uint8:
                if truth.min() < 0 or truth.max() > 255:
                    _reject(
                        truth[(truth < 0) | (truth > 255)], "target", num_classes, ignore_index
                    )
                truth = truth.astype(np.uint8)
            if pred.is_floating_point():
                guess = _first_maximum(guess)
            else:
                outside = (guess < 0) | (guess >= num_classes)
                _reject(
                    guess[outside & (truth != ignore_index)], "pred", num_classes, ignore_index
                )
                guess = np.where(outside, 0, guess).astype(np.uint8)
            counts[n] += _histogram(truth, guess, num_classes, ignore_index)
    outside = counts[:, num_classes:].sum(
        (0, 2)
    )  # (256 - C,) pixels per truth value that is no class
    outside[ignore_index - num_classes] = 0
    _reject(np.repeat(np.arange(num_classes, 256), outside), "target", num_classes, ignore_index)
    return torch.from_numpy(counts[:, :num_classes].copy())


def _first_maximum(logits: np.ndarray) -> np.ndarray:
    """Arg-max over the first dimension of (C, h, w), as uint8; `argmax` is slow over a far stride."""
    best, label = np.maximum(logits[0], logits[1]), (logits[1] > logits[0]).view(np.uint8)
    for c in range(2, len(logits)):
        np.maximum(
            label, (logits[c] > best).view(np.uint8) * np.uint8(c), out=label
        )  # c grows: the later wins
        np.maximum(best, logits[c], out=best)
    # `maximum` carries NaN along, `>` does not see it. A sum finds NaN fastest; infinities cost a detour.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isnan(best.sum()):
            return logits.argmax(0).astype(np.uint8)
    return label


def _histogram(
    truth: np.ndarray, guess: np.ndarray, num_classes: int, ignore_index: int
) -> np.ndarray:
    """Pixels by truth 0..255 and guess 0..C-1, both uint8: (256, C)."""
    if num_classes == 2:  # four counts of bits, if there is nothing else
        counts, guess = np.zeros((256, 2), np.int64), guess.view(bool)
        for label in (0, 1):
            there = truth == label
            counts[label, 1] = np.count_nonzero(there & guess)
            counts[label, 0] = np.count_nonzero(there) - counts[label, 1]
        if counts.sum() + np.count_nonzero(truth == ignore_index) == truth.size:
            return counts
    code = truth.astype(np.int16) * num_classes + guess  # at most 255 * 32 + 31
    found = torch.bincount(torch.from_numpy(code.ravel()), minlength=256 * num_classes)
    return found.numpy().reshape(256, num_classes)


def _reject(values: np.ndarray, name: str, num_classes: int, ignore_index: int) -> None:
    if values.size:
        some = ", ".join(map(str, np.unique(values)[:5].tolist()))
        wanted = f"0..{num_classes - 1} or {ignore_index} (ignored)"
        fix = "relabel it or raise num_classes"
        raise InputError(f"{name} holds {some} in {values.size} pixels; wanted {wanted}; {fix}")


@_count.register_kernel("cuda")
def _count_cuda(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    with needing_triton():
        from dme.ops.confusion_triton import count
    # (N, C * C + 1): the last cell counts pixels out of range.
    counts = torch.zeros(len(target), num_classes**2 + 1, dtype=torch.int64, device=pred.device)
    with torch.cuda.device(pred.device):
        count(pred, target, num_classes, ignore_index, counts)
    return (
        counts[:, :-1].masked_fill(counts[:, -1:] > 0, INVALID).view(-1, num_classes, num_classes)
    )


@_count.register_fake
def _count_fake(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return pred.new_empty((target.shape[0], num_classes, num_classes), dtype=torch.int64)
