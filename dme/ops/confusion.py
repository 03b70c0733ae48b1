"""`dme::confusion_matrix`: arg-max and counting in one pass, without a label map in between."""

import torch
from torch import Tensor

from dme.errors import InputError
from dme.ops import needing_triton

MAX_CLASSES = 32
LABEL_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Every cell of an image whose labels a CUDA kernel found out of range. It stays negative when matrices are
# added up, unless there are 2**15 such images or 2**48 pixels.
INVALID = -(1 << 48)
# Pixels at a time: temporaries stay in the level-2 cache. It is also the most that PyTorch gives to one
# thread: larger blocks gain little from more threads and lose much to barriers when the cores are busy.
CPU_BLOCK = 1 << 15


def confusion_matrix(
    pred: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255, per_image: bool = False
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
        raise InputError(f"ignore_index={ignore_index}; wanted {wanted}; use 255 for unknown pixels")
    if target.dtype not in LABEL_TYPES:
        raise InputError(f"target is {target.dtype}; wanted uint8, int16, int32 or int64; use target.byte()")
    if target.ndim != 3:
        raise InputError(
            f"target has shape {tuple(target.shape)}; wanted (N, H, W); add or remove dimensions"
        )
    if pred.dtype in LOGIT_TYPES:
        wanted, fix = (len(target), num_classes, *target.shape[1:]), "resize the logits or set num_classes"
    elif pred.dtype in LABEL_TYPES:
        wanted, fix = tuple(target.shape), "resize one of them"
    else:
        wanted = "floating logits (N, C, H, W) or integer labels (N, H, W)"
        raise InputError(f"pred is {pred.dtype}; wanted {wanted}; convert it")
    if tuple(pred.shape) != wanted:
        raise InputError(f"pred has shape {tuple(pred.shape)}; wanted {wanted} to fit the target; {fix}")
    if pred.device != target.device:
        raise InputError(f"pred is on {pred.device}, target on {target.device}; wanted one device; move one")


@torch.library.custom_op("dme::confusion_matrix", mutates_args=(), device_types="cpu")
def _count(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """CPU: block by block a running maximum, then one histogram of truth * C + prediction."""
    n_images, height, width = target.shape
    counts = torch.zeros(n_images, 256 * num_classes, dtype=torch.int64)
    rows = max(1, CPU_BLOCK // max(1, width))
    for n in range(n_images):
        for top in range(0, height if width else 0, rows):
            truth, guess = target[n, top : top + rows], pred[n, ..., top : top + rows, :]
            if not pred.is_floating_point():
                truth = torch.where(guess == ignore_index, ignore_index, truth)
            if truth.dtype != torch.uint8:
                low, high = truth.aminmax()  # one pass, where a mask takes several
                if low < 0 or high > 255:
                    _reject(truth[(truth < 0) | (truth > 255)], "target", num_classes, ignore_index)
                truth = truth.to(torch.uint8)
            if pred.is_floating_point():
                guess = _first_maximum(guess)
            else:
                outside = (guess < 0) | (guess >= num_classes)
                _reject(guess[outside & (truth != ignore_index)], "pred", num_classes, ignore_index)
                guess = torch.where(outside, 0, guess)
            # Truth keeps all its 256 values here: ignored and invalid pixels get rows of their own.
            code = truth.to(torch.int16).mul_(num_classes).add_(guess)  # at most 255 * 32 + 31
            counts[n] += torch.bincount(code.flatten(), minlength=256 * num_classes)
    counts = counts.view(n_images, 256, num_classes)
    outside = counts[:, num_classes:].sum((0, 2))  # (256 - C,) pixels per truth value that is no class
    outside[ignore_index - num_classes] = 0
    values = torch.arange(num_classes, 256)
    _reject(values.repeat_interleave(outside), "target", num_classes, ignore_index)
    return counts[:, :num_classes].contiguous()


def _first_maximum(logits: Tensor) -> Tensor:
    """Arg-max over the first dimension of (C, h, w), as uint8; `torch.argmax` is slow over a far stride."""
    best, label = torch.maximum(logits[0], logits[1]), (logits[1] > logits[0]).view(torch.uint8)
    for c in range(2, len(logits)):
        label = torch.maximum(label, (logits[c] > best).view(torch.uint8) * c)  # c grows: the later wins
        best = torch.maximum(best, logits[c])
    # `maximum` carries NaN along, `>` does not see it. A sum finds NaN fastest; infinities cost a detour.
    if best.sum().isnan():
        return logits.argmax(0).to(torch.uint8)
    return label


def _reject(values: Tensor, name: str, num_classes: int, ignore_index: int) -> None:
    if values.numel():
        some = ", ".join(map(str, values.unique()[:5].tolist()))
        wanted = f"0..{num_classes - 1} or {ignore_index} (ignored)"
        fix = "relabel it or raise num_classes"
        raise InputError(f"{name} holds {some} in {values.numel()} pixels; wanted {wanted}; {fix}")


@_count.register_kernel("cuda")
def _count_cuda(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    with needing_triton():
        from dme.ops.confusion_triton import count
    # (N, C * C + 1): the last cell counts pixels out of range.
    counts = torch.zeros(len(target), num_classes**2 + 1, dtype=torch.int64, device=pred.device)
    with torch.cuda.device(pred.device):
        count(pred, target, num_classes, ignore_index, counts)
    return counts[:, :-1].masked_fill(counts[:, -1:] > 0, INVALID).view(-1, num_classes, num_classes)


@_count.register_fake
def _count_fake(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    return pred.new_empty((target.shape[0], num_classes, num_classes), dtype=torch.int64)
