"""Triton kernel of `dme::confusion_matrix`; only CUDA imports it: `import dme` needs no Triton."""

import triton
import triton.language as tl
from torch import Tensor

MOST_TILES = 255  # of a program: with more, a count of two classes would leave its byte

# Launches, as measured on an H200. Two classes are counted in registers, more by histograms, for
# which fewer and wider programs are faster.
PROGRAMS_OF_TWO = 8192
PROGRAMS_OF_MORE = 2112
WARPS_OF_TWO = 4
WARPS_OF_MORE = 8


@triton.jit
def _count_kernel(
    pred, target, counts,
    width, tiles, per_image,
    pred_n, pred_c, pred_h, pred_w,
    target_n, target_h, target_w,
    C: tl.constexpr, IGNORE: tl.constexpr, LOGITS: tl.constexpr,
    BLOCK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Each program walks tiles (BLOCK pixels of a row) of one image, then adds its counts once."""
    program = tl.program_id(0).to(tl.int64)  # int64 from here on: every offset derives from it
    image = program // per_image
    tiles_per_row = tl.cdiv(width, BLOCK)
    bins = tl.arange(0, BINS)
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BINS,), dtype=tl.int64)
    packed = tl.zeros((BLOCK,), dtype=tl.int32)
    outside = tl.zeros((BLOCK,), dtype=tl.int32)
    for tile in range(program % per_image, tiles, per_image):
        row = tile // tiles_per_row
        column = lanes.to(tl.int64) + (tile % tiles_per_row) * BLOCK
        inside = column < width
        pixel = target + image * target_n + row * target_h + column * target_w
        label = tl.load(pixel, mask=inside, other=IGNORE)
        skip = label == IGNORE  # lanes past the row too
        valid = (label >= 0) & (label < C)
        truth = label.to(tl.int32)

        channel = pred + image * pred_n + row * pred_h + column * pred_w
        if LOGITS:
            best = tl.load(channel, mask=inside, other=0)
            if best.dtype.primitive_bitwidth < 32:
                best = best.to(tl.float32)  # exact
            guess = tl.zeros((BLOCK,), dtype=tl.int32)
            for c in tl.static_range(1, C):
                channel += pred_c  # by steps: c * pred_c could leave int32
                logit = tl.load(channel, mask=inside, other=0).to(best.dtype)
                first_nan = (logit != logit) & (best == best)  # is the maximum
                better = (logit > best) | first_nan
                guess = tl.where(better, c, guess)
                best = tl.where(better, logit, best)
        else:
            labelled = tl.load(channel, mask=inside, other=0)
            skip = skip | (labelled == IGNORE)
            valid = valid & (labelled >= 0) & (labelled < C)
            guess = labelled.to(tl.int32)

        if C == 2:  # four counts in the bytes of a number: pixels, true ones, guessed ones, both
            ones = 1 + (truth << 8) + (guess << 16) + ((truth & guess) << 24)
            packed += tl.where(valid & ~skip, ones, 0)
            outside += (~valid & ~skip).to(tl.int32)
        else:
            code = tl.where(skip, C * C + 1, tl.where(valid, truth * C + guess, C * C))
            total += tl.histogram(code, BINS).to(tl.int64)
    if C == 2:
        pixels = tl.sum(packed & 255, 0)
        true = tl.sum((packed >> 8) & 255, 0)
        guessed = tl.sum((packed >> 16) & 255, 0)
        both = tl.sum((packed >> 24) & 255, 0)
        total += tl.where(bins == 0, pixels - true - guessed + both, 0)
        total += tl.where(bins == 1, guessed - both, 0)
        total += tl.where(bins == 2, true - both, 0)
        total += tl.where(bins == 3, both, 0)
        total += tl.where(bins == 4, tl.sum(outside, 0), 0)
    cell = counts + image * (C * C + 1) + bins
    tl.atomic_add(cell, total, mask=(bins <= C * C) & (total > 0), sem="relaxed")


def count(
    pred: Tensor,
    target: Tensor,
    num_classes: int,
    ignore_index: int,
    counts: Tensor,
    programs: int | None = None,
    block: int = 1024,
    warps: int | None = None,
) -> None:
    """Add the confusion matrices of a batch into `counts`, without waiting for the device.

    pred: logits (N, C, H, W) or labels (N, H, W); target: labels (N, H, W); any strides.
    counts: contiguous int64 (N, C * C + 1); the last cell takes the pixels whose labels are out of
        range.
    programs: about how many to start in all, and warps of each; None for what is fast.
    block: pixels of a tile, a power of two of at least 128 (one per thread, as are the bins: fewer
        would be replicated across threads).
    """
    if target.numel() == 0:
        return
    two = num_classes == 2
    programs = programs or (PROGRAMS_OF_TWO if two else PROGRAMS_OF_MORE)
    warps = warps or (WARPS_OF_TWO if two else WARPS_OF_MORE)

    n_images, height, width = target.shape
    logits = pred if pred.ndim == 4 else pred.unsqueeze(1)
    pred_n, pred_c, pred_h, pred_w = logits.stride()
    target_n, target_h, target_w = target.stride()
    # rows that follow one another are one long row
    if pred_h == width * pred_w and target_h == width * target_w:
        height, width = 1, height * width

    tiles = height * triton.cdiv(width, block)
    least = triton.cdiv(tiles, MOST_TILES)
    per_image = min(tiles, max(triton.cdiv(programs, n_images), least))
    bins = max(128, triton.next_power_of_2(num_classes**2 + 2))
    _count_kernel[(n_images * per_image,)](
        pred, target, counts,
        width, tiles, per_image,
        pred_n, pred_c, pred_h, pred_w,
        target_n, target_h, target_w,
        C=num_classes, IGNORE=ignore_index, LOGITS=pred.ndim == 4,
        BLOCK=block, BINS=bins,
        num_warps=warps,
    )  # fmt: skip
