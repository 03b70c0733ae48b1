"""UNet-S5-D16, the study's backbone: Ronneberger et al. 2015, in OpenMMLab's variant with BN."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.nets.blocks import ConvBN

STRIDE = 16  # four poolings: height and width must be multiples of it


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvBN(in_channels, out_channels), ConvBN(out_channels, out_channels))


class UNet(nn.Module):
    """Five encoder stages of width, 2, 4, 8, 16 times width, and four decoder stages back up.

    forward: x (N, in_channels, H, W), H and W multiples of 16 -> list of five features, deepest
    first: (N, 16w, H/16, W/16), (N, 8w, H/8, W/8), (N, 4w, H/4, W/4), (N, 2w, H/2, W/2), (N, w, H,
    W). Raises ValueError for a size that four poolings do not divide.
    """

    WIDTH = 16  # of the shipped networks; the study's have 64
    HEADS = {"psp": {"channels": 16}, "fcn": {"channels": 64}, "deeplabv3": {"channels": 16}}
    AUX_CHANNELS = 64
    FIRST = "encoder.0.0.conv.weight"
    WIDEST = (FIRST, 1)
    OPENMMLAB = (
        (r"encoder\.0\.0\.convs\.", r"encoder.0."),
        (r"encoder\.([1-4])\.1\.convs\.", r"encoder.\1."),
        (r"decoder\.(\d)\.conv_block\.convs\.", r"decoder.\1."),
        (r"decoder\.(\d)\.upsample\.interp_upsample\.1\.", r"up.\1."),
    )

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        channels = [width * 2**i for i in range(5)]
        self.out_channels = channels[::-1]
        self.encoder = nn.ModuleList()
        before = in_channels
        for c in channels:
            self.encoder.append(double_conv(before, c))
            before = c

        # stage i goes from the resolution of encoder[i + 1] up to that of encoder[i]
        self.up = nn.ModuleList(ConvBN(2 * c, c, kernel=1) for c in channels[:-1])
        self.decoder = nn.ModuleList(double_conv(2 * c, c) for c in channels[:-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        if height % STRIDE or width % STRIDE:
            fit = [-(-side // STRIDE) * STRIDE for side in (height, width)]
            raise ValueError(
                f"UNet got {height} x {width}, expected multiples of {STRIDE}; "
                f"pad to {fit[0]} x {fit[1]} "
                "or use dme.inference.windows.whole, which pads and crops back"
            )

        # down: every stage but the first halves the size
        skips = []
        for i, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2) if i else x)
            skips.append(x)

        # up, joined with what the encoder saw at that size
        features = [skips.pop()]
        for up, decode in zip(reversed(self.up), reversed(self.decoder), strict=True):
            # enlarging and a 1 x 1 convolution commute; in this order it costs a quarter
            x = F.interpolate(up.conv(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = up.activation(up.bn(x))
            x = decode(torch.cat([skips.pop(), x], dim=1))
            features.append(x)
        return features
