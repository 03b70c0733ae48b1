"""`dme::focal_sums`: the sigmoid focal loss of every image, in one pass each way."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dme.ops import blocks, check_logits, needing_triton, sums_dtype


def focal_sums(
    logits: Tensor, target: Tensor, ignore_index: int = 255, gamma: float = 2.0, alpha: float = 0.5
) -> Tensor:
    """Sums over each image's classes and pixels of -a (1 - q)^gamma log q (Lin et al. 2017).

    q is the probability, by a sigmoid, of what is true of a pixel and a class: that it belongs to
    it, where a is alpha, or that it does not, where a is 1 - alpha.

    logits: (N, C, H, W), float32 / bfloat16 / float16 (computed in float32) or float64; any
        strides.
    target: integer (N, H, W), of 0..C-1 and ignore_index, whose pixels are left out. Other labels
        are not looked for: what they do is undefined.

    Returns (N,). Differentiable once, in the logits: the backward pass computes q again, so that
    nothing of the logits' size is kept. Raises InputError for shapes and types that do not fit.
    """
    check_logits(logits, target)
    return torch.ops.dme.focal_sums(logits, target, ignore_index, gamma, alpha)


@torch.library.custom_op("dme::focal_sums", mutates_args=(), device_types="cpu")
def _sums(logits: Tensor, target: Tensor, ignore_index: int, gamma: float, alpha: float) -> Tensor:
    sums = logits.new_zeros(len(logits), dtype=sums_dtype(logits))
    for n, _, z, t, wrong, loss in blocks(logits, target, ignore_index, spare=2):
        # (C, pixels) each; 1 - q = sigmoid(wrong), -log q = softplus(wrong)
        torch.addcmul(z, z, t, value=-2, out=wrong)
        F.softplus(wrong, out=loss).mul_(wrong.sigmoid_().pow_(gamma))
        valid = t.sum(0)
        weight = t.mul_(2 * alpha - 1).add_(1 - alpha)  # alpha where t is 1
        loss.mul_(weight)
        sums[n] += (loss @ valid).sum()
    return sums


@torch.library.custom_op("dme::focal_sums_backward", mutates_args=(), device_types="cpu")
def _gradient(
    logits: Tensor, target: Tensor, ignore_index: int, gamma: float, alpha: float, of_sums: Tensor
) -> Tensor:
    """Gradient in the logits, from that in the sums."""
    gradient = torch.empty_like(logits)
    for n, rows, z, t, wrong, loss, q in blocks(logits, target, ignore_index, spare=3):
        torch.addcmul(z, z, t, value=-2, out=wrong)
        F.softplus(wrong, out=loss)
        p = wrong.sigmoid_()
        torch.sub(1, p, out=q)

        # of p^gamma softplus(wrong) along `wrong`, whose sign along z is that of 1 - 2 t
        of_wrong = torch.addcmul(p, loss, q, value=gamma, out=loss).mul_(p.pow_(gamma))
        valid = t.sum(0)
        signed_weight = t.neg_().add_(1 - alpha)  # -alpha where t is 1
        of_z = of_wrong.mul_(signed_weight).mul_(valid * of_sums[n])
        gradient[n, :, rows] = of_z.view_as(gradient[n, :, rows])
    return gradient


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    logits, target, *ctx.settings = inputs
    ctx.save_for_backward(logits, target)


def _backward(ctx: Any, of_sums: Tensor) -> tuple[Tensor, None, None, None, None]:
    gradient = torch.ops.dme.focal_sums_backward(*ctx.saved_tensors, *ctx.settings, of_sums)
    return gradient, None, None, None, None


_sums.register_autograd(_backward, setup_context=_save)


@_sums.register_kernel("cuda")
def _sums_cuda(
    logits: Tensor, target: Tensor, ignore_index: int, gamma: float, alpha: float
) -> Tensor:
    with needing_triton():
        from dme.ops.focal_triton import add_up
    with torch.cuda.device(logits.device):
        return add_up(logits, target, ignore_index, gamma, alpha)


@_gradient.register_kernel("cuda")
def _gradient_cuda(
    logits: Tensor, target: Tensor, ignore_index: int, gamma: float, alpha: float, of_sums: Tensor
) -> Tensor:
    with needing_triton():
        from dme.ops.focal_triton import differentiate
    with torch.cuda.device(logits.device):
        return differentiate(logits, target, ignore_index, gamma, alpha, of_sums)


@_sums.register_fake
def _sums_fake(
    logits: Tensor, target: Tensor, ignore_index: int, gamma: float, alpha: float
) -> Tensor:
    return logits.new_empty(len(logits), dtype=sums_dtype(logits))


@_gradient.register_fake
def _gradient_fake(
    logits: Tensor, target: Tensor, ignore_index: int, gamma: float, alpha: float, of_sums: Tensor
) -> Tensor:
    return torch.empty_like(logits)
