"""Decode heads: FCN, PSP, DeepLabV3-ASPP and LR-ASPP.

Each is built with the channels of a backbone's features and takes their list, features (N, C, H,
W) in the order the backbone computes them, to logits (N, classes, H, W) at the size of the last
one (LR-ASPP: of the first). The concatenation orders are OpenMMLab's; another order has the same
shapes and silently different results. `LEAST_BATCH` is the smallest batch a head can be trained
with.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.nets.blocks import ConvBN


class FCNHead(nn.Module):
    """3x3 convolution of one feature (Long et al. 2015).

    deep: a second one, and a third that sees the feature beside what the second made of it.
    feature: which one of the list; the auxiliary head reads the last but one.
    """

    LEAST_BATCH = 1

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        channels: int,
        dropout: float = 0.1,
        deep: bool = False,
        feature: int = -1,
    ) -> None:
        super().__init__()
        self.deep = deep
        self.feature = feature
        self.conv = ConvBN(in_channels[feature], channels)
        if deep:
            self.second = ConvBN(channels, channels)
            self.joined = ConvBN(in_channels[feature] + channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[self.feature]
        y = self.conv(x)
        if self.deep:
            beside = torch.cat([x, self.second(y)], dim=1)
            y = self.joined(beside)
        return self.classifier(self.dropout(y))


class PSPHead(nn.Module):
    """Pyramid pooling (Zhao et al. 2017): the last feature beside averages over few large bins.

    pool_scales: the numbers of bins along each side.
    """

    LEAST_BATCH = 2

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        channels: int,
        dropout: float = 0.1,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        self.pool_scales = pool_scales
        last = in_channels[-1]
        self.pools = nn.ModuleList()
        for _ in pool_scales:
            self.pools.append(ConvBN(last, channels, kernel=1))
        self.bottleneck = ConvBN(last + len(pool_scales) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        _refuse_single_value(x, self.pools[0].bn, "PSP's 1 x 1 pool")
        averages = pooled(x, self.pool_scales)
        grids = []
        for i, pool in enumerate(self.pools):
            grids.append(pool(averages[i]))

        # the kernel: of x, then of the grids enlarged to its size
        of_x, of_grids = _split(self.bottleneck.conv.weight, x.shape[1])
        x = _beside_grids(self.bottleneck, x, of_x, grids, of_grids)
        return self.classifier(self.dropout(x))


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3, Chen et al. 2017).

    The image's average beside convolutions of the last feature, 1x1 and dilated 3x3.
    """

    LEAST_BATCH = 2

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        channels: int,
        dropout: float = 0.1,
        dilations: tuple[int, ...] = (1, 12, 24, 36),
    ) -> None:
        super().__init__()
        last = in_channels[-1]
        self.image_pool = ConvBN(last, channels, kernel=1)
        self.branches = nn.ModuleList()
        for dilation in dilations:
            kernel = 1 if dilation == 1 else 3
            self.branches.append(ConvBN(last, channels, kernel, dilation=dilation))
        self.bottleneck = ConvBN((1 + len(dilations)) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        _refuse_single_value(x, self.image_pool.bn, "DeepLabV3's image pool")
        average = self.image_pool(pooled(x, (1,))[0])
        branches = torch.cat([branch(x) for branch in self.branches], dim=1)

        # the kernel: of the average at every pixel, then of the branches
        of_average, of_branches = _split(self.bottleneck.conv.weight, average.shape[1])
        x = _beside_grids(self.bottleneck, branches, of_branches, [average], of_average)
        return self.classifier(self.dropout(x))


class LRASPPHead(nn.Module):
    """Lite R-ASPP (Howard et al. 2019).

    The last feature is gated by its averages, and joined by the earlier two, from deep to shallow.
    The averages are over windows of 49 x 49, 16 rows and 20 columns apart; a feature smaller than
    that is one window, where OpenMMLab's code fails. eps: of batch norm.
    """

    LEAST_BATCH = 1
    WINDOW = 49
    STRIDE = (16, 20)

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        channels: int,
        dropout: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        *earlier, last = in_channels
        average_conv = nn.Conv2d(last, channels, 1, bias=False)
        parts = OrderedDict(conv=average_conv, gate=nn.Sigmoid())
        self.image_pool = nn.Sequential(parts)
        self.gated = ConvBN(last, channels, kernel=1, eps=eps)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.skips = nn.ModuleList()
        for i, before in enumerate(earlier):
            self.skips.append(nn.Conv2d(before, 32 * 2**i, 1, bias=False))
        self.joins = nn.ModuleList()
        for skip in self.skips:
            both = channels + skip.out_channels
            self.joins.append(ConvBN(both, channels, kernel=1, eps=eps))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        *earlier, x = features
        average = self.image_pool(self._window_averages(x))
        size = x.shape[-2:]
        gate = F.interpolate(average, size, mode="bilinear", align_corners=False)
        x = self.mix(self.gated(x) * gate)
        for i in reversed(range(len(earlier))):
            skip = self.skips[i](earlier[i])
            x = self._join(x, skip, self.joins[i])
        return self.classifier(self.dropout(x))

    def _window_averages(self, x: Tensor) -> Tensor:
        # zeros make a small feature one window, and are taken out of its average: one graph for
        # any size
        height = min(self.WINDOW, x.shape[-2])
        width = min(self.WINDOW, x.shape[-1])
        zeros = (0, self.WINDOW - width, 0, self.WINDOW - height)
        filled = F.pad(x, zeros)
        averages = F.avg_pool2d(filled, self.WINDOW, self.STRIDE)
        share = height * width
        return averages * (self.WINDOW**2 / share)

    @staticmethod
    def _join(x: Tensor, skip: Tensor, join: ConvBN) -> Tensor:
        """`join` of x, enlarged, beside the skip: a 1x1 convolution may come before enlarging."""
        of_x, of_skip = _split(join.conv.weight, x.shape[1])
        x = F.conv2d(x, of_x, join.conv.bias)  # no bias unless batch norm is folded into it
        x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
        skip = F.conv2d(skip, of_skip)
        return join.activation(join.bn(x + skip))


def _split(kernel: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The part of a kernel (out, in, k, l) that sees the first `channels`, and the rest."""
    return kernel[:, :channels], kernel[:, channels:]


def pooled(x: Tensor, scales: tuple[int, ...]) -> list[Tensor]:
    """Averages of x (N, C, H, W) over bins x bins windows, for each bins in `scales`.

    Returns (N, C, bins, bins) of each. The windows are those of `F.adaptive_avg_pool2d`. On a GPU
    that leaves the work to a few threads when x is channels last, and takes longer than the
    network before it.
    """
    if x.is_cuda:
        return pooled_by_products(x, scales)
    return [F.adaptive_avg_pool2d(x, bins) for bins in scales]


def pooled_by_products(x: Tensor, scales: tuple[int, ...]) -> list[Tensor]:
    """`pooled` by two products with windows as matrices: x is read once, whatever the scales."""
    n, c, height, width = x.shape
    rows = _windows(scales, height, x)  # (sum of bins, H)
    columns = _windows(scales, width, x)  # (sum of bins, W)

    # sums over columns, then over rows
    lines = x.permute(0, 2, 3, 1).flatten(0, 1)  # (N H, W, C)
    lines = columns.expand(n * height, -1, -1).bmm(lines)  # (N H, sum of bins, C)
    lines = lines.unflatten(0, (n, height)).flatten(2)  # (N, H, sum of bins C)
    sums = rows.expand(n, -1, -1).bmm(lines)
    sums = sums.unflatten(2, (-1, c)).permute(0, 3, 1, 2)  # (N, C, sum of bins, sum of bins)

    # of each scale its own windows, by what they cover
    covered = rows.float().sum(1)[:, None] * columns.float().sum(1)
    averages = []
    start = 0
    for bins in scales:
        block = slice(start, start + bins)
        average = sums[..., block, block] / covered[block, block]
        averages.append(average.to(sums.dtype))
        start += bins
    return averages


def _windows(scales: tuple[int, ...], side: int, like: Tensor) -> Tensor:
    """Which of `side` pixels each window covers, of all scales: (sum of bins, side), as `like`.

    0, or a power of two, which is exact in every type and keeps the sums within float16.
    """
    pixel = torch.arange(side, device=like.device)
    windows = []
    for bins in scales:
        window = torch.arange(bins, device=like.device)[:, None]
        first = window * side // bins
        end = -(-(window + 1) * side // bins)
        windows.append((pixel >= first) & (pixel < end))
    small = 2.0 ** -math.ceil(math.log2(side))
    return (torch.cat(windows).float() * small).to(like.dtype)


def _beside_grids(
    bottleneck: ConvBN, x: Tensor, of_x: Tensor, grids: list[Tensor], of_grids: Tensor
) -> Tensor:
    """The bottleneck of x (N, C, H, W) and of small grids beside it, enlarged to its size.

    of_x, of_grids: the parts of the bottleneck's kernel that go with each.
    """
    bias = bottleneck.conv.bias  # None unless batch norm is folded into it
    # the other way round, exporters fix the batch size
    y = F.conv2d(x, of_x, bias, padding=1) + conv_enlarged(grids, of_grids, x)
    return bottleneck.activation(bottleneck.bn(y))


def conv_enlarged(grids: list[Tensor], kernel: Tensor, like: Tensor) -> Tensor:
    """3x3 convolution, padding 1, of small grids enlarged to the size of `like`, never made.

    grids: each (N, c, k, l), to be enlarged bilinearly (half-pixel centres) and concatenated.
    kernel: (out, sum of c, 3, 3). Returns (N, out, H, W), channels last.

    Enlarging is linear in rows and columns, and a tap of the kernel shifts both: the sum over taps
    (y, x) of R_y (kernel_yx grid) C_x^T, where R_y (H, k) enlarges and shifts rows, C_x (W, l)
    columns. The products with the kernel are made at the grids' size. For PSP that is a fifth of
    the head's multiplications.
    """
    n, _, height, width = like.shape
    channels = [grid.shape[1] for grid in grids]
    kernels = kernel.split(channels, dim=1)

    # rows enlarged and shifted, of each grid
    parts = []
    columns = []
    for grid, part in zip(grids, kernels, strict=True):
        taps = torch.einsum("nckl,ocyx->nykxlo", grid, part)  # (N, 3, k, 3, l, out)
        rows = _enlarging(grid.shape[-2], height, taps)  # (H, 3k)
        lines = taps.flatten(3).flatten(1, 2)  # (N, 3k, 3l out)
        shifted = rows.expand(n, -1, -1).bmm(lines)  # (N, H, 3l out)
        parts.append(shifted.unflatten(2, (-1, part.shape[0])))  # (N, H, 3l, out)
        columns.append(_enlarging(grid.shape[-1], width, taps))  # (W, 3l)

    # columns of all grids, whose results add up
    lines = torch.cat(parts, dim=2).flatten(0, 1)  # (N H, sum of 3l, out)
    enlarging = torch.cat(columns, dim=1).expand(lines.shape[0], -1, -1)
    result = enlarging.bmm(lines)  # (N H, W, out)
    return result.unflatten(0, (n, height)).permute(0, 3, 1, 2)


def _enlarging(bins: int, length: int, like: Tensor) -> Tensor:
    """(length, 3 bins): bilinear from `bins` values to `length`, shifted by a kernel's 3 taps."""
    # the pixel centres in units of the grid, which ends at its outer centres
    centre = torch.arange(length, device=like.device) + 0.5
    position = centre * (bins / length) - 0.5
    position = position.clamp(0, bins - 1).unsqueeze(1)

    # the nearer a value, the more of it: none at a distance of 1 or more
    grid = torch.arange(bins, device=like.device)
    distance = (position - grid).abs()
    weights = (1 - distance).clamp(min=0).to(like.dtype)

    # one row up, in place, one row down; nothing comes in at the border
    padded = F.pad(weights, (0, 0, 1, 1))
    shifted = [padded[tap : tap + length] for tap in range(3)]
    return torch.cat(shifted, dim=1)


def _refuse_single_value(x: Tensor, bn: nn.BatchNorm2d, what: str) -> None:
    if bn.training and x.shape[0] == 1:
        raise ValueError(
            f"training with batch 1: {what} leaves one value per channel, of which batch "
            "normalisation has no variance; use a batch of at least 2, or the FCN head, "
            "or put its BN in eval mode"
        )
