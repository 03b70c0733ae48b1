"""`dme::region_sums`: what cross-entropy and overlap losses need, in one pass each way."""

from typing import Any

import torch
from torch import Tensor

from dme.ops import blocks, check_logits, needing_triton, sums_dtype


def region_sums(logits: Tensor, target: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Sums over each image's pixels of the softmax p of its logits and the one-hot truth t.

    logits: (N, C, H, W), float32 / bfloat16 / float16 (computed in float32) or float64; any
        strides.
    target: integer (N, H, W), of 0..C-1 and ignore_index; t is 0 where it is the latter. Other
        labels are not looked for: what they do is undefined.

    Returns the cross-entropy (N,), which ignored pixels leave alone, and (N, C, 4): sum(t p),
    sum(p) without ignored pixels, sum(t), and sum(p^2) with them. Differentiable once, in the
    logits: the way back computes p again, so that nothing of the logits' size is kept. Raises
    InputError for shapes and types that do not fit.
    """
    check_logits(logits, target)
    return torch.ops.dme.region_sums(logits, target, ignore_index)


@torch.library.custom_op("dme::region_sums", mutates_args=(), device_types="cpu")
def _sums(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    entropy, sums = _empty(logits)
    entropy.zero_()
    sums.zero_()
    for n, _, z, t, p in blocks(logits, target, ignore_index, spare=1):
        # cross-entropy, from (C, pixels)
        log_p = torch.log_softmax(z, 0, out=p)
        entropy[n] -= torch.dot(log_p.flatten(), t.flatten())

        # sums over the pixels, (C,) each; log_p, p and p t share their memory
        p = log_p.exp_()
        squared = torch.linalg.vector_norm(p, dim=1).square()
        predicted = p @ t.sum(0)
        overlap = p.mul_(t).sum(1)
        sums[n] += torch.stack([overlap, predicted, t.sum(1), squared], -1)
    return entropy, sums


def _empty(logits: Tensor) -> tuple[Tensor, Tensor]:
    n, classes, *_ = logits.shape
    dtype = sums_dtype(logits)
    return logits.new_empty(n, dtype=dtype), logits.new_empty(n, classes, 4, dtype=dtype)


@torch.library.custom_op("dme::region_sums_backward", mutates_args=(), device_types="cpu")
def _gradient(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    """Gradient in the logits, from those in the two results."""
    gradient = torch.empty_like(logits)
    overlap, predicted, _, squared = of_sums[:, :, None].unbind(-1)  # (N, C, 1)
    entropies = of_entropy.tolist()
    squares = squared.count_nonzero((1, 2)).tolist()
    for n, rows, z, t, p, of_p in blocks(logits, target, ignore_index, spare=2):
        # along p, from the sums that anything was made of; (C, pixels) each
        torch.softmax(z, 0, out=p)
        torch.mul(predicted[n], t.sum(0), out=of_p).addcmul_(overlap[n], t)
        if squares[n]:
            of_p.addcmul_(squared[n], p, value=2)

        # back through the softmax; all in the memory of of_p
        of_log_p = of_p.mul_(p).sub_(t, alpha=entropies[n])
        of_z = of_log_p.addcmul_(p, of_log_p.sum(0), value=-1)
        gradient[n, :, rows] = of_z.view_as(gradient[n, :, rows])
    return gradient


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.ignore_index = inputs[2]


def _backward(ctx: Any, of_entropy: Tensor, of_sums: Tensor) -> tuple[Tensor, None, None]:
    gradient = torch.ops.dme.region_sums_backward(
        *ctx.saved_tensors, ctx.ignore_index, of_entropy, of_sums
    )
    return gradient, None, None


_sums.register_autograd(_backward, setup_context=_save)


@_sums.register_kernel("cuda")
def _sums_cuda(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    with needing_triton():
        from dme.ops.region_sums_triton import add_up
    with torch.cuda.device(logits.device):
        return add_up(logits, target, ignore_index)


@_gradient.register_kernel("cuda")
def _gradient_cuda(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    with needing_triton():
        from dme.ops.region_sums_triton import differentiate
    with torch.cuda.device(logits.device):
        return differentiate(logits, target, ignore_index, of_entropy, of_sums)


@_sums.register_fake
def _sums_fake(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    return _empty(logits)


@_gradient.register_fake
def _gradient_fake(
    logits: Tensor, target: Tensor, ignore_index: int, of_entropy: Tensor, of_sums: Tensor
) -> Tensor:
    return torch.empty_like(logits)
