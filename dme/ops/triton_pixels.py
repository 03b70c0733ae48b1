"""What the Triton kernels of losses share; only CUDA imports it: `import dme` needs no Triton."""

import torch
import triton
import triton.language as tl

FLOATS = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def locate(
    z, target, n, pixel, inside, width,
    z_n, z_h, z_w, t_n, t_h, t_w,
    IGNORE: tl.constexpr,
):  # fmt: skip
    """Of pixels of image n: address of the first logit, label, whether it counts."""
    row = pixel // width
    column = pixel % width
    labels = target + n * t_n + row * t_h + column * t_w
    label = tl.load(labels, mask=inside, other=IGNORE).to(tl.int64)
    first = z + n * z_n + row * z_h + column * z_w
    return first, label, inside & (label != IGNORE)
