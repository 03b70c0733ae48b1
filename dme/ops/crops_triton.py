"""Triton kernel of `dme::sample_crops`; only CUDA imports it: `import dme` needs no Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dme.common.labels import IGNORE


@triton.jit
def _crops_kernel(
    sources, maps, image, labels, inside,
    channels, out_h, out_w,
    IGNORE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program makes BLOCK pixels of one crop. sources, maps: see `sample`."""
    sample = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = out_h * out_w
    within = pixel < size

    source = sources + 9 * sample
    image_in = tl.load(source).to(tl.pointer_type(tl.uint8))
    mask_in = tl.load(source + 1).to(tl.pointer_type(tl.uint8))
    height = tl.load(source + 2)
    width = tl.load(source + 3)
    image_c = tl.load(source + 4)
    image_h = tl.load(source + 5)
    image_w = tl.load(source + 6)
    mask_h = tl.load(source + 7)
    mask_w = tl.load(source + 8)

    # where the crop's pixel lies in the source
    entry = maps + 7 * sample
    row = pixel // out_w
    column = pixel % out_w
    column = tl.where(tl.load(entry + 6) > 0, out_w - 1 - column, column)
    dy = row.to(tl.float32) + (0.5 - out_h * 0.5)
    dx = column.to(tl.float32) + (0.5 - out_w * 0.5)
    y = tl.load(entry) * dy + tl.load(entry + 1) * dx + tl.load(entry + 2)
    x = tl.load(entry + 3) * dy + tl.load(entry + 4) * dx + tl.load(entry + 5)
    framed = within & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    nearest = y.to(tl.int64) * mask_h + x.to(tl.int64) * mask_w
    label = tl.load(mask_in + nearest, mask=framed, other=IGNORE)
    tl.store(labels + sample * size + pixel, label, mask=within)
    tl.store(inside + sample * size + pixel, framed.to(tl.uint8), mask=within)

    # The four pixels whose centres surround the point, moved onto the frame's border where it is
    # beyond them.
    y = tl.minimum(tl.maximum(y - 0.5, 0.0), (height - 1).to(tl.float32))
    x = tl.minimum(tl.maximum(x - 0.5, 0.0), (width - 1).to(tl.float32))
    top = y.to(tl.int64)
    left = x.to(tl.int64)
    fy = y - top.to(tl.float32)
    fx = x - left.to(tl.float32)
    upper = top * image_h
    lower = tl.minimum(top + 1, height - 1) * image_h
    near = left * image_w
    far = tl.minimum(left + 1, width - 1) * image_w
    for channel in range(channels):
        plane = image_in + channel * image_c
        a = tl.load(plane + upper + near, mask=within, other=0).to(tl.float32)
        b = tl.load(plane + upper + far, mask=within, other=0).to(tl.float32)
        c = tl.load(plane + lower + near, mask=within, other=0).to(tl.float32)
        d = tl.load(plane + lower + far, mask=within, other=0).to(tl.float32)
        above = a + fx * (b - a)
        below = c + fx * (d - c)
        out = image + (sample * channels + channel) * size + pixel
        tl.store(out, above + fy * (below - above), mask=within)


def sample(
    images: list[Tensor],
    masks: list[Tensor],
    maps: list[list[float]],
    x: Tensor,
    labels: Tensor,
    inside: Tensor,
    block: int = 1024,
) -> None:
    """Fill x, labels, inside (contiguous) as `dme.ops.crops.sample_crops` returns them.

    images: uint8 (C, H, W), any strides. maps: of each crop the six numbers of
    `dme.ops.crops.inverse_map` and whether to mirror. block: pixels of a program, a power of two.
    """
    batch, channels, height, width = x.shape
    sources = []  # of each crop nine numbers: addresses, size and strides
    for image, mask in zip(images, masks, strict=True):
        addresses = (image.data_ptr(), mask.data_ptr())
        sources.append([*addresses, *mask.shape, *image.stride(), *mask.stride()])
    _crops_kernel[(triton.cdiv(height * width, block), batch)](
        torch.tensor(sources).to(x.device, non_blocking=True),
        torch.tensor(maps, dtype=torch.float32).to(x.device, non_blocking=True),
        x, labels, inside.view(torch.uint8),
        channels, height, width,
        IGNORE=IGNORE, BLOCK=block, num_warps=4,
    )  # fmt: skip
