"""`dme::depthwise_conv`: a convolution of each channel by itself, trained fast on CPUs.

Of a dilated one, PyTorch 2.13 (oneDNN 3.12) takes up to 30 times as long for the gradient in the
weight as for that in x, and in bfloat16 it returns memory that nobody has written. On a GPU cuDNN
needs no help.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# columns of a kernel for which oneDNN has code of its own; with more it pads every channel to 16
WIDEST = 3


def depthwise_conv(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """What `F.conv2d` makes of CPU tensors at stride 1, padded with zeros to the same size.

    x: (N, C, H, W), any floating type, any strides. weight: (C, 1, k, l) of that type, k and l
    odd. Returns (N, C, H, W). Follows autocast. Differentiable once, in both.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
    return torch.ops.dme.depthwise_conv(x, weight, dilation)


def convolve(x: Tensor, weight: Tensor, dilation: int, bias: Tensor | None = None) -> Tensor:
    """The same in PyTorch's operators, plus `bias` (C,).

    The columns of a wide dilated kernel go in pieces, whose results are added up.
    """
    channels, _, rows, columns = weight.shape
    high = dilation * (rows // 2)
    wide = dilation * (columns // 2)
    if dilation == 1 or columns <= WIDEST:
        return F.conv2d(x, weight, bias, 1, (high, wide), dilation, channels)

    width = x.shape[3]
    x = F.pad(x, (wide, wide))
    total = None
    for first, last, piece in _by_columns(weight, dilation):
        part = x[..., first : last + width]
        if total is None:
            total = F.conv2d(part, piece, bias, 1, (high, 0), dilation, channels)
        else:
            total = total + F.conv2d(part, piece, None, 1, (high, 0), dilation, channels)
    return total


def _by_columns(weight: Tensor, dilation: int) -> list[tuple[int, int, Tensor]]:
    """Pieces of at most WIDEST columns, with the places where first and last column begin."""
    pieces = []
    first = 0
    for piece in weight.split(WIDEST, dim=3):
        last = first + (piece.shape[3] - 1) * dilation
        pieces.append((first, last, piece))
        first += WIDEST * dilation
    return pieces


@torch.library.custom_op("dme::depthwise_conv", mutates_args=(), device_types="cpu")
def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return convolve(x, weight, dilation)


@torch.library.custom_op("dme::depthwise_conv_backward", mutates_args=(), device_types="cpu")
def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    """Gradients in x and in weight, this from grids on which a dilated kernel is a dense one."""
    of_x = convolve(gradient, weight.flip(2, 3), dilation)
    rows, columns = weight.shape[2:]
    gradient = _apart(gradient, dilation)
    if columns <= WIDEST:
        x = _apart(x, dilation)
        return of_x, _of_weight(gradient, x, weight, (rows // 2, columns // 2))

    x = _apart(x, dilation, columns // 2)
    width = gradient.shape[3]
    pieces = []
    for first, last, piece in _by_columns(weight, 1):
        part = x[..., first : last + width]
        pieces.append(_of_weight(gradient, part, piece, (rows // 2, 0)))
    return of_x, torch.cat(pieces, dim=3)


def _of_weight(gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """Gradient in the weight alone of a convolution that is not dilated."""
    ones = (1, 1)
    zeros = (0, 0)
    mask = (False, True, False)  # of x, weight, bias
    backward = torch.ops.aten.convolution_backward
    groups = len(weight)
    return backward(gradient, x, weight, None, ones, padding, ones, False, zeros, groups, mask)[1]


def _apart(x: Tensor, dilation: int, beside: int = 0) -> Tensor:
    """The grids that a dilated kernel never mixes: (N, C, H, W) -> (N dilation^2, C, H', W').

    Channels last. Zeros fill the grids to one size; `beside` more columns of them are on the left
    and on the right.
    """
    wide = beside * dilation
    right = wide + -x.shape[3] % dilation
    bottom = -x.shape[2] % dilation
    x = F.pad(x, (wide, right, 0, bottom)).permute(0, 2, 3, 1)  # (N, H, W, C)
    # (N, H', dilation, W', dilation, C), then both dilations to the front
    x = x.unflatten(2, (-1, dilation)).unflatten(1, (-1, dilation))
    x = x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return x.permute(0, 3, 1, 2)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.dilation = inputs[2]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    backward = torch.ops.dme.depthwise_conv_backward
    of_x, of_weight = backward(gradient, *ctx.saved_tensors, ctx.dilation)
    return of_x, of_weight, None


_convolve.register_autograd(_backward, setup_context=_save)


@_convolve.register_fake
def _convolve_fake(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return convolve(x, weight, dilation)


@_gradients.register_fake
def _gradients_fake(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    return convolve(gradient, weight, dilation), torch.empty_like(weight)
