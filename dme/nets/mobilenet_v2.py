"""MobileNetV2-d8 (Sandler et al. 2018) as OpenMMLab segments with it, down to 1/8 of the size."""

from torch import Tensor, nn

from dme.nets.blocks import ConvBN, InvertedResidual, divisible

# expansion, channels, blocks, stride and dilation of the first block; the later blocks are not
# dilated
STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 1, 2),
    (6, 96, 3, 1, 2),
    (6, 160, 3, 1, 4),
    (6, 320, 1, 1, 4),
)
STEM = 32  # channels of the first convolution
FEATURES = (2, 3, 5, 7)  # stages whose output is a feature, the stem being stage 0


class MobileNetV2(nn.Module):
    """A strided convolution and seven stages of inverted residuals.

    width: multiplies all numbers of channels.
    forward: x (N, in_channels, H, W) of any size -> list of four features; at width 1 their
    channels are 24 at 1/4 of the size, then 32, 96 and 320 at 1/8.
    """

    WIDTH = 1.0
    HEADS = {
        "psp": {"channels": 512},
        "fcn": {"channels": 512, "deep": True},
        "deeplabv3": {"channels": 512},
    }
    AUX_CHANNELS = 256
    FIRST = "stages.0.conv.weight"
    WIDEST = ("stages.7.0.project.conv.weight", 320)
    OPENMMLAB = (
        (r"conv1\.", r"stages.0."),
        (r"layer1\.0\.conv\.0\.", r"stages.1.0.depthwise."),
        (r"layer1\.0\.conv\.1\.", r"stages.1.0.project."),
        (r"layer([2-7])\.(\d)\.conv\.0\.", r"stages.\1.\2.expand."),
        (r"layer([2-7])\.(\d)\.conv\.1\.", r"stages.\1.\2.depthwise."),
        (r"layer([2-7])\.(\d)\.conv\.2\.", r"stages.\1.\2.project."),
    )

    def __init__(self, in_channels: int, width: float) -> None:
        super().__init__()
        before = divisible(STEM * width)
        self.stages = nn.ModuleList([ConvBN(in_channels, before, stride=2, activation=nn.ReLU6)])
        self.out_channels = []
        for expansion, channels, blocks, stride, dilation in STAGES:
            after = divisible(channels * width)
            first = InvertedResidual(
                before,
                expansion * before,
                after,
                stride=stride,
                dilation=dilation,
                activation=nn.ReLU6,
            )
            stage = nn.Sequential(first)
            for _ in range(blocks - 1):
                stage.append(
                    InvertedResidual(after, expansion * after, after, activation=nn.ReLU6)
                )
            self.stages.append(stage)
            before = after
            if len(self.stages) - 1 in FEATURES:
                self.out_channels.append(after)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in FEATURES:
                features.append(x)
        return features
