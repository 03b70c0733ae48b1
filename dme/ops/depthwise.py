"""`dme::depthwise_conv`: a convolution of each channel by itself, whose way back is right and fast on a CPU.

Of a dilated one, PyTorch 2.13 (oneDNN 3.12) takes up to 30 times as long for the gradient in the
weight as for that in x, and in bfloat16 it returns memory that nobody has written. On a GPU cuDNN
needs no help.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WIDEST = 3  # columns of a kernel for which oneDNN has code of its own; with more it pads every channel to 16


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
    """The same in PyTorch's operators, plus `bias` (C,): a wide dilated kernel's columns go in two pieces."""
    channels, _, rows, columns = weight.shape
    high, wide = dilation * (rows // 2), dilation * (columns // 2)
    if dilation == 1 or columns <= WIDEST:
        return F.conv2d(x, weight, bias, 1, (high, wide), dilation, channels)
    width = x.shape[3]
    x = F.pad(x, (wide, wide))
    pieces = [
        F.conv2d(
            x[..., first : last + width],
            own,
            None if first else bias,
            1,
            (high, 0),
            dilation,
            channels,
        )
        for first, last, own in _by_columns(weight, dilation)
    ]
    return sum(pieces[1:], pieces[0])


def _by_columns(weight: Tensor, dilation: int) -> list[tuple[int, int, Tensor]]:
    """Pieces of at most WIDEST columns, each after the places where its first and its last column begin."""
    pieces = weight.split(WIDEST, dim=3)
    starts = (WIDEST * i * dilation for i in range(len(pieces)))
    return [
        (a, a + (own.shape[3] - 1) * dilation, own) for a, own in zip(starts, pieces, strict=True)
    ]


@torch.library.custom_op("dme::depthwise_conv", mutates_args=(), device_types="cpu")
def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return convolve(x, weight, dilation)


@torch.library.custom_op("dme::depthwise_conv_backward", mutates_args=(), device_types="cpu")
def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    of_x = convolve(gradient, weight.flip(2, 3), dilation)
    rows, columns = weight.shape[2:]
    gradient = _apart(gradient, dilation)
    if columns <= WIDEST:
        x = _apart(x, dilation)
        return of_x, _of_weight(gradient, x, weight, (rows // 2, columns // 2))
    x, width = _apart(x, dilation, columns // 2), gradient.shape[3]
    pieces = [
        _of_weight(gradient, x[..., first : last + width], own, (rows // 2, 0))
        for first, last, own in _by_columns(weight, 1)
    ]
    return of_x, torch.cat(pieces, dim=3)


def _of_weight(gradient: Tensor, x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    ones, zeros, wanted = (1, 1), (0, 0), (False, True, False)
    backward = torch.ops.aten.convolution_backward
    return backward(
        gradient, x, weight, None, ones, padding, ones, False, zeros, len(weight), wanted
    )[1]


def _apart(x: Tensor, dilation: int, beside: int = 0) -> Tensor:
    """(N, C, H, W) -> (N dilation^2, C, H', W'), channels last: the grids that a dilated kernel never mixes.

    Zeros fill the grids to one size; `beside` more columns of them are on the left and on the
    right.
    """
    wide = beside * dilation
    x = F.pad(x, (wide, wide + -x.shape[3] % dilation, 0, -x.shape[2] % dilation)).permute(
        0, 2, 3, 1
    )
    x = x.unflatten(2, (-1, dilation)).unflatten(1, (-1, dilation)).permute(0, 2, 4, 1, 3, 5)
    return x.flatten(0, 2).permute(0, 3, 1, 2)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.dilation = inputs[2]


def _backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    return *torch.ops.dme.depthwise_conv_backward(gradient, *ctx.saved_tensors, ctx.dilation), None


_convolve.register_autograd(_backward, setup_context=_save)


@_convolve.register_fake
def _convolve_fake(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return convolve(x, weight, dilation)


@_gradients.register_fake
def _gradients_fake(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    return convolve(gradient, weight, dilation), torch.empty_like(weight)
