"""Triton kernels of `dme::focal_sums`; only CUDA imports them: `import dme` needs no Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dme.ops import sums_dtype
from dme.ops.triton_pixels import FLOATS, locate


@triton.jit
def _of_class(channel, inside, hit, GAMMA: tl.constexpr, FLOAT: tl.constexpr):
    """-log q, 1 - q, q and (1 - q)^gamma of a class, from the address of its logits."""
    logit = tl.load(channel, mask=inside, other=0).to(FLOAT)
    wrong = tl.where(hit, -logit, logit)
    small = tl.exp(-tl.abs(wrong))
    lost = tl.maximum(wrong, 0.0) + tl.log(1.0 + small)
    p = tl.where(wrong >= 0, 1.0, small) / (1.0 + small)
    q = tl.where(wrong >= 0, small, 1.0) / (1.0 + small)  # 1 - p would lose what p rounds off
    return lost, p, q, tl.exp(GAMMA * (wrong - lost))


@triton.jit
def _sums_kernel(
    z, target, sums,
    width, pixels, tiles,
    z_n, z_c, z_h, z_w, t_n, t_h, t_w,
    C: tl.constexpr, IGNORE: tl.constexpr, GAMMA: tl.constexpr, ALPHA: tl.constexpr,
    FLOAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program adds up BLOCK pixels of one image, into sums (N, tiles)."""
    tile = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    channel, label, valid = locate(
        z, target, n, pixel, inside, width, z_n, z_h, z_w, t_n, t_h, t_w, IGNORE
    )
    total = tl.zeros([BLOCK], FLOAT)
    for c in tl.static_range(C):
        lost, _, _, weight = _of_class(channel, inside, label == c, GAMMA, FLOAT)
        channel += z_c  # by steps: c * z_c could leave int32
        total += tl.where(label == c, ALPHA, 1 - ALPHA) * weight * lost
    tl.store(sums + n * tiles + tile, tl.sum(tl.where(valid, total, 0.0), 0))


@triton.jit
def _gradient_kernel(
    z, target, of_sums, gradient,
    width, pixels,
    z_n, z_c, z_h, z_w, t_n, t_h, t_w, g_n, g_c, g_h, g_w,
    C: tl.constexpr, IGNORE: tl.constexpr, GAMMA: tl.constexpr, ALPHA: tl.constexpr,
    FLOAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program makes BLOCK pixels of one image's gradient, from of_sums (N,)."""
    tile = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    channel, label, valid = locate(
        z, target, n, pixel, inside, width, z_n, z_h, z_w, t_n, t_h, t_w, IGNORE
    )
    given = tl.load(of_sums + n)
    out = gradient + n * g_n + (pixel // width) * g_h + (pixel % width) * g_w
    for c in tl.static_range(C):
        lost, p, q, weight = _of_class(channel, inside, label == c, GAMMA, FLOAT)
        channel += z_c
        along = given * weight * (GAMMA * q * lost + p)
        along *= tl.where(label == c, -ALPHA, 1 - ALPHA)
        tl.store(out, tl.where(valid, along, 0.0), mask=inside)
        out += g_c


def add_up(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    gamma: float,
    alpha: float,
    block: int = 1024,
) -> Tensor:
    """The result of `dme.ops.focal.focal_sums`. block: pixels of a program, a power of two.

    Every program leaves its own sum, which are then added in a fixed order: the same result every
    time.
    """
    n, classes, height, width = logits.shape
    kind = sums_dtype(logits)
    tiles = triton.cdiv(height * width, block)
    sums = logits.new_empty(n, tiles, dtype=kind)
    if logits.numel():
        _sums_kernel[(tiles, n)](
            logits, target, sums,
            width, height * width, tiles,
            *logits.stride(), *target.stride(),
            C=classes, IGNORE=ignore_index, GAMMA=gamma, ALPHA=alpha,
            FLOAT=FLOATS[kind], BLOCK=block, num_warps=4,
        )  # fmt: skip
    return sums.sum(1)


def differentiate(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    gamma: float,
    alpha: float,
    of_sums: Tensor,
    block: int = 1024,
) -> Tensor:
    """The gradient in the logits, of their type and strides."""
    n, classes, height, width = logits.shape
    gradient = torch.empty_like(logits)
    if logits.numel():
        _gradient_kernel[(triton.cdiv(height * width, block), n)](
            logits, target, of_sums.contiguous(), gradient,
            width, height * width,
            *logits.stride(), *target.stride(), *gradient.stride(),
            C=classes, IGNORE=ignore_index, GAMMA=gamma, ALPHA=alpha,
            FLOAT=FLOATS[sums_dtype(logits)], BLOCK=block, num_warps=4,
        )  # fmt: skip
    return gradient
