"""Triton kernels of `dme::region_sums`; only CUDA imports them: `import dme` needs no Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dme.ops import sums_dtype
from dme.ops.triton_pixels import FLOATS, locate


@triton.jit
def _read(
    z, target, n, pixel, inside, width,
    z_n, z_c, z_h, z_w, t_n, t_h, t_w,
    C: tl.constexpr, IGNORE: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Of pixels: address of the first logit, largest, sum of exponentials, label, validity."""
    first, label, valid = locate(
        z, target, n, pixel, inside, width, z_n, z_h, z_w, t_n, t_h, t_w, IGNORE
    )
    channel = first
    largest = tl.load(channel, mask=inside, other=0).to(FLOAT)
    for _ in tl.static_range(1, C):
        channel += z_c  # by steps: c * z_c could leave int32
        largest = tl.maximum(largest, tl.load(channel, mask=inside, other=0).to(FLOAT))
    channel = first
    total = tl.zeros_like(largest)
    for _ in tl.static_range(C):
        total += tl.exp(tl.load(channel, mask=inside, other=0).to(FLOAT) - largest)
        channel += z_c
    return first, largest, total, label, valid


@triton.jit
def _sums_kernel(
    z, target, entropy, sums,
    width, pixels, tiles,
    z_n, z_c, z_h, z_w, t_n, t_h, t_w,
    C: tl.constexpr, IGNORE: tl.constexpr, FLOAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program adds up BLOCK pixels, into entropy (N, tiles) and sums (N, tiles, C, 4)."""
    tile = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    channel, largest, total, label, valid = _read(
        z, target, n, pixel, inside, width, z_n, z_c, z_h, z_w, t_n, t_h, t_w, C, IGNORE, FLOAT
    )

    lost = tl.zeros_like(largest)
    out = sums + (n * tiles + tile) * (C * 4)
    for c in tl.static_range(C):
        above = tl.load(channel, mask=inside, other=0).to(FLOAT) - largest
        channel += z_c
        p = tl.where(inside, tl.exp(above) / total, 0.0)
        hit = valid & (label == c)
        lost += tl.where(hit, tl.log(total) - above, 0.0)
        tl.store(out + 4 * c, tl.sum(tl.where(hit, p, 0.0), 0))
        tl.store(out + 4 * c + 1, tl.sum(tl.where(valid, p, 0.0), 0))
        tl.store(out + 4 * c + 2, tl.sum(hit.to(FLOAT), 0))
        tl.store(out + 4 * c + 3, tl.sum(p * p, 0))
    tl.store(entropy + n * tiles + tile, tl.sum(lost, 0))


@triton.jit
def _along_p(p, given, hit, valid):
    """Gradient along the probability p of a class. given: address of those in its four sums."""
    of_p = tl.where(hit, tl.load(given), 0.0) + tl.where(valid, tl.load(given + 1), 0.0)
    return of_p + 2 * tl.load(given + 3) * p


@triton.jit
def _gradient_kernel(
    z, target, of_entropy, of_sums, gradient,
    width, pixels,
    z_n, z_c, z_h, z_w, t_n, t_h, t_w, g_n, g_c, g_h, g_w,
    C: tl.constexpr, IGNORE: tl.constexpr, FLOAT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program makes BLOCK pixels' gradient, from of_entropy (N,) and of_sums (N, C, 4)."""
    tile = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1).to(tl.int64)
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    first, largest, total, label, valid = _read(
        z, target, n, pixel, inside, width, z_n, z_c, z_h, z_w, t_n, t_h, t_w, C, IGNORE, FLOAT
    )

    given = of_sums + n * (C * 4)
    mean = tl.zeros_like(largest)  # of the gradient along p, weighted with p
    channel = first
    for c in tl.static_range(C):
        p = tl.exp(tl.load(channel, mask=inside, other=0).to(FLOAT) - largest) / total
        channel += z_c
        mean += _along_p(p, given + 4 * c, valid & (label == c), valid) * p

    of_loss = tl.load(of_entropy + n)
    channel = first
    out = gradient + n * g_n + (pixel // width) * g_h + (pixel % width) * g_w
    for c in tl.static_range(C):
        p = tl.exp(tl.load(channel, mask=inside, other=0).to(FLOAT) - largest) / total
        channel += z_c
        hit = valid & (label == c)
        of_p = _along_p(p, given + 4 * c, hit, valid)
        of_z = p * (of_p - mean) + of_loss * (tl.where(valid, p, 0.0) - tl.where(hit, 1.0, 0.0))
        tl.store(out, of_z, mask=inside)
        out += g_c


def add_up(
    logits: Tensor, target: Tensor, ignore_index: int, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """The two results of `dme.ops.region_sums.region_sums`.

    block: pixels of a program, a power of two.

    Every program leaves its own sums, which are then added in a fixed order: the same result every
    time.
    """
    n, classes, height, width = logits.shape
    kind = sums_dtype(logits)
    tiles = triton.cdiv(height * width, block)
    entropy = logits.new_empty(n, tiles, dtype=kind)
    sums = logits.new_empty(n, tiles, classes, 4, dtype=kind)
    if logits.numel():
        _sums_kernel[(tiles, n)](
            logits, target, entropy, sums,
            width, height * width, tiles,
            *logits.stride(), *target.stride(),
            C=classes, IGNORE=ignore_index, FLOAT=FLOATS[kind], BLOCK=block, num_warps=4,
        )  # fmt: skip
    return entropy.sum(1), sums.sum(1)


def differentiate(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    of_entropy: Tensor,
    of_sums: Tensor,
    block: int = 1024,
) -> Tensor:
    """The gradient in the logits, of their type and strides."""
    n, classes, height, width = logits.shape
    gradient = torch.empty_like(logits)
    if logits.numel():
        _gradient_kernel[(triton.cdiv(height * width, block), n)](
            logits, target, of_entropy.contiguous(), of_sums.contiguous(), gradient,
            width, height * width,
            *logits.stride(), *target.stride(), *gradient.stride(),
            C=classes, IGNORE=ignore_index,
            FLOAT=FLOATS[sums_dtype(logits)], BLOCK=block, num_warps=4,
        )  # fmt: skip
    return gradient
