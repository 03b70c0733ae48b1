"""What backbones and heads are built of: convolution with batch norm, the inverted residual."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.ops.depthwise import convolve, depthwise_conv


class ConvBN(nn.Sequential):
    """Convolution without bias, batch norm, activation (None: none), padded by half the kernel."""

    def __init__(  # noqa: PLR0913 - those of a convolution
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
        eps: float = 1e-5,
        convolution: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        padding = dilation * (kernel // 2)
        layers = OrderedDict(
            conv=convolution(
                in_channels,
                out_channels,
                kernel,
                stride,
                padding,
                dilation,
                groups=groups,
                bias=False,
            ),
            bn=nn.BatchNorm2d(out_channels, eps),
        )
        if activation is not None:
            layers["activation"] = activation(inplace=True)
        super().__init__(layers)


class DepthwiseConv2d(nn.Conv2d):
    """Every channel by itself; on a CPU at stride 1 faster than PyTorch's: `dme.ops.depthwise`."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or self.stride != (1, 1):
            return super().forward(x)
        if torch.is_grad_enabled() and self.weight.requires_grad:
            y = depthwise_conv(x, self.weight, self.dilation[0])
            return y if self.bias is None else y + self.bias.view(-1, 1, 1)
        return convolve(x, self.weight, self.dilation[0], self.bias)


class SqueezeExcitation(nn.Module):
    """Every channel times a factor 0..1 computed from the averages of all (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        between = divisible(channels // 4)
        self.squeeze = nn.Conv2d(channels, between, 1)
        self.excite = nn.Conv2d(between, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        average = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(average))))


class InvertedResidual(nn.Sequential):
    """1x1 expansion to `between` channels, depthwise convolution, 1x1 back without activation.

    No expansion where the input has `between` channels already. The input is added where its shape
    is the output's. Sandler et al. 2018, Howard et al. 2019.

    attention: squeeze-and-excitation after the depthwise convolution.
    convolution: the depthwise one.
    options: of all its ConvBN.
    """

    def __init__(  # noqa: PLR0913 - those of a convolution
        self,
        in_channels: int,
        between: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        attention: bool = False,
        convolution: type[nn.Conv2d] = DepthwiseConv2d,
        **options: Any,
    ) -> None:
        layers = OrderedDict()
        if between != in_channels:
            layers["expand"] = ConvBN(in_channels, between, 1, **options)
        layers["depthwise"] = ConvBN(
            between,
            between,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=between,
            convolution=convolution,
            **options,
        )
        if attention:
            layers["attention"] = SqueezeExcitation(between)
        layers["project"] = ConvBN(between, out_channels, 1, **(options | {"activation": None}))
        super().__init__(layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return x + y if self.residual else y


def divisible(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, at least 8 and 90 % of it: how MobileNets round."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    if nearest < 0.9 * channels:
        nearest += 8
    return nearest
