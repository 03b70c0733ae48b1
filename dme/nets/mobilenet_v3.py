"""MobileNetV3-d8, large and small (Howard et al. 2019), as OpenMMLab segments with them."""

from torch import Tensor, nn
from torch.nn import functional as F

from dme.nets.blocks import ConvBN, DepthwiseConv2d, InvertedResidual, divisible

EPS = 1e-3  # of batch norm, here and in the head
STEM = 16  # channels of the first convolution

# kernel, channels between, channels out, squeeze-and-excitation, activation, stride, dilation
R = nn.ReLU
H = nn.Hardswish
LARGE = (
    (3, 16, 16, False, R, 1, 1),
    (3, 64, 24, False, R, 2, 1),
    (3, 72, 24, False, R, 1, 1),
    (5, 72, 40, True, R, 2, 1),
    (5, 120, 40, True, R, 1, 1),
    (5, 120, 40, True, R, 1, 1),
    (3, 240, 80, False, H, 1, 2),
    (3, 200, 80, False, H, 1, 2),
    (3, 184, 80, False, H, 1, 2),
    (3, 184, 80, False, H, 1, 2),
    (3, 480, 112, True, H, 1, 2),
    (3, 672, 112, True, H, 1, 2),
    (5, 672, 160, True, H, 1, 4),
    (5, 960, 160, True, H, 1, 4),
    (5, 960, 160, True, H, 1, 4),
)
SMALL = (
    (3, 16, 16, True, R, 2, 1),
    (3, 72, 24, False, R, 2, 1),
    (3, 88, 24, False, R, 1, 1),
    (5, 96, 40, True, H, 1, 2),
    (5, 240, 40, True, H, 1, 2),
    (5, 240, 40, True, H, 1, 2),
    (5, 120, 48, True, H, 1, 2),
    (5, 144, 48, True, H, 1, 2),
    (5, 288, 96, True, H, 1, 4),
    (5, 576, 96, True, H, 1, 4),
    (5, 576, 96, True, H, 1, 4),
)


class SameConv2d(nn.Conv2d):
    """Zero padding as TensorFlow's "same": of an odd number, right and bottom get one more."""

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for axis in (1, 0):  # F.pad wants the columns first
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
            missing = reach - (x.shape[2 + axis] - 1) % self.stride[axis]
            padding += [missing // 2, missing - missing // 2]
        x = F.pad(x, padding)
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class MobileNetV3(nn.Module):
    """A strided convolution, inverted residuals, a 1x1 convolution to 6 times the channels.

    blocks: LARGE or SMALL. features: the layers whose output is a feature beside the last, the
    first convolution being layer 0. width: multiplies all numbers of channels.
    forward: x (N, in_channels, H, W) of any size -> list of three features at 1/2, 1/4 and 1/8 of
        the size.
    """

    WIDTH = 1.0
    HEADS = {"lraspp": {"channels": 128, "eps": EPS}}
    AUX_CHANNELS = 0
    FIRST = "layers.0.conv.weight"
    OPENMMLAB = (
        (r"layer(\d+)\.expand_conv\.", r"layers.\1.expand."),
        (r"layer(\d+)\.depthwise_conv\.", r"layers.\1.depthwise."),
        (r"layer(\d+)\.se\.conv1\.conv\.", r"layers.\1.attention.squeeze."),
        (r"layer(\d+)\.se\.conv2\.conv\.", r"layers.\1.attention.excite."),
        (r"layer(\d+)\.linear_conv\.", r"layers.\1.project."),
        (r"layer(\d+)\.(conv|bn)\.", r"layers.\1.\2."),
    )

    def __init__(
        self, in_channels: int, width: float, blocks: tuple, features: tuple[int, ...]
    ) -> None:
        super().__init__()
        before = divisible(STEM * width)
        first = ConvBN(
            in_channels, before, stride=2, activation=H, eps=EPS, convolution=SameConv2d
        )
        self.layers = nn.ModuleList([first])
        channels = [before]  # of each layer's output
        for kernel, between, after, attention, activation, stride, dilation in blocks:
            self.layers.append(
                InvertedResidual(
                    before,
                    divisible(between * width),
                    divisible(after * width),
                    kernel,
                    stride=stride,
                    dilation=dilation,
                    attention=attention,
                    activation=activation,
                    eps=EPS,
                    convolution=SameConv2d if stride == 2 else DepthwiseConv2d,
                )
            )
            before = divisible(after * width)
            channels.append(before)
        self.layers.append(ConvBN(before, 6 * before, 1, activation=H, eps=EPS))
        channels.append(6 * before)
        self.features = (*features, len(channels) - 1)
        self.out_channels = [channels[i] for i in self.features]

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.features:
                features.append(x)
        return features


class MobileNetV3Large(MobileNetV3):
    """Features of 16, 24 and 960 channels at width 1."""

    WIDEST = ("layers.16.conv.weight", 960)

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__(in_channels, width, LARGE, features=(1, 3))


class MobileNetV3Small(MobileNetV3):
    """Features of 16, 16 and 576 channels at width 1."""

    WIDEST = ("layers.12.conv.weight", 576)

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__(in_channels, width, SMALL, features=(0, 1))
