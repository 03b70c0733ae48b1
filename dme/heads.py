"""Decode heads: FCN, PSP and DeepLabV3-ASPP. Each takes a feature (N, C, H, W) to logits (N, classes, H, W).

The concatenation orders are OpenMMLab's; another order has the same shapes and silently different results.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.unet import ConvBNReLU


class FCNHead(nn.Module):
    """One 3x3 convolution (Long et al. 2015)."""

    def __init__(self, in_channels: int, num_classes: int, channels: int = 64, dropout: float = 0.1):
        super().__init__()
        self.conv = ConvBNReLU(in_channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.conv(x)))


class PSPHead(nn.Module):
    """Pyramid pooling (Zhao et al. 2017): the feature beside its averages over 1, 2, 3 and 6 bins a side."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 16,
        dropout: float = 0.1,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
    ):
        super().__init__()
        self.pool_scales = pool_scales
        self.pools = nn.ModuleList(ConvBNReLU(in_channels, channels, kernel=1) for _ in pool_scales)
        self.bottleneck = ConvBNReLU(in_channels + len(pool_scales) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        _refuse_single_value(x, self.pools[0].bn, "PSP's 1 x 1 pool")
        branches = [x]
        for bins, conv in zip(self.pool_scales, self.pools, strict=True):
            pooled = conv(F.adaptive_avg_pool2d(x, bins))
            branches.append(F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False))
        x = self.bottleneck(torch.cat(branches, dim=1))
        return self.classifier(self.dropout(x))


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3, Chen et al. 2017): image average, 1x1 and dilated 3x3."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 16,
        dropout: float = 0.1,
        dilations: tuple[int, ...] = (1, 12, 24, 36),
    ):
        super().__init__()
        self.image_pool = ConvBNReLU(in_channels, channels, kernel=1)
        self.branches = nn.ModuleList(
            ConvBNReLU(in_channels, channels, kernel=1 if d == 1 else 3, dilation=d) for d in dilations
        )
        self.bottleneck = ConvBNReLU((1 + len(dilations)) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        _refuse_single_value(x, self.image_pool.bn, "DeepLabV3's image pool")
        average = self.image_pool(F.adaptive_avg_pool2d(x, 1))
        average = F.interpolate(average, x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.bottleneck(torch.cat([average, *(branch(x) for branch in self.branches)], dim=1))
        return self.classifier(self.dropout(x))


def _refuse_single_value(x: Tensor, bn: nn.BatchNorm2d, what: str) -> None:
    if bn.training and x.shape[0] == 1:
        raise ValueError(
            f"training with batch 1: {what} leaves one value per channel, of which batch normalisation has "
            "no variance; use a batch of at least 2, or the FCN head, or put its BN in eval mode"
        )
