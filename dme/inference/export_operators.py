"""Sizes and windows in operators of tensors that an exported graph can hold: any height and width.

The same numbers as `dme.inference.sizes` and `dme.inference.windows`, whose code asks Pillow, or
whose loops depend on the image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dme.inference.sizes import STUDY_SIDE, Enlarged
from dme.inference.windows import SLIDE_STRIDE, WINDOW, resize, whole

BITS = 22  # of Pillow's fixed-point weights
REACH = 2.0  # pixels that the bicubic kernel reaches to either side


def averaging(bins: int, length: int) -> Tensor:
    """(bins, length): row i is 1 from floor(i length / bins) to ceil((i + 1) length / bins)."""
    i = torch.arange(bins).unsqueeze(1)
    pixel = torch.arange(length)
    first = i * length // bins
    end = ((i + 1) * length + bins - 1) // bins
    return (pixel >= first) & (pixel < end)


def half(image: Tensor) -> Tensor:
    """(N, C, H, W) -> rounded means of 2 x 2 pixels, as `dme.inference.sizes.Half`."""
    height, width = image.shape[-2:]
    rows = averaging((height + 1) // 2, height).double()
    columns = averaging((width + 1) // 2, width).double()
    counts = rows.sum(1).unsqueeze(1) * columns.sum(1)
    return (_weighted(image.double(), rows, columns) / counts).round().float()


def _weighted(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns.T for every image; a product of batches would fix whether N is 1."""
    return F.linear(F.linear(x, columns).transpose(2, 3), rows).transpose(2, 3)


def study_square(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 256, 256) as Pillow's BICUBIC: columns first, 8 bits after each."""
    height, width = image.shape[-2:]
    across = _to_8_bits(F.linear(image.double(), _bicubic(STUDY_SIDE, width)))
    down = F.linear(across.transpose(2, 3), _bicubic(STUDY_SIDE, height))
    return _to_8_bits(down).transpose(2, 3).float()


def _bicubic(size: int, length: int) -> Tensor:
    """Pillow's weights of `length` pixels for each of `size`, whole numbers of 2**-22."""
    scale = length / size
    stretch = torch.clamp(torch.arange(1).double() + scale, min=1.0)  # (1,), above 1 it averages
    centre = (torch.arange(size).double().unsqueeze(1) + 0.5) * scale
    pixel = torch.arange(length).double()
    reach = REACH * stretch
    first = torch.floor((centre - reach + 0.5).clamp(min=0))
    end = torch.floor(centre + reach + 0.5)
    inside = (pixel >= first) & (pixel < end)

    # Keys' kernel with a = -0.5
    x = ((pixel - centre + 0.5) / stretch).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = torch.where(x < 1, near, torch.where(x < REACH, far, 0.0)) * inside
    weight = weight / weight.sum(1, keepdim=True) * 2**BITS
    return torch.where(weight < 0, -torch.floor(0.5 - weight), torch.floor(weight + 0.5))


def _to_8_bits(weighted: Tensor) -> Tensor:
    return torch.floor(weighted / 2**BITS + 0.5).clamp(0, 255)


def at_scan(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits at another size, as `dme.inference.windows.resize`.

    A graph must not depend on whether they were cropped or have that size already.
    """
    logits = logits.clone(memory_format=torch.contiguous_format)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def enlarged(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, 512, 512), as `dme.inference.sizes.Enlarged`."""
    return resize(study_square(image), (Enlarged.side, Enlarged.side)).round()


def sliding_512(network: nn.Module, x: Tensor) -> Tensor:
    """(N, C, 512, 512) -> logits of the same size, as `dme.inference.windows.sliding_window`."""
    last = Enlarged.side - WINDOW
    starts = [*range(0, last, SLIDE_STRIDE), last]
    places = [(top, left) for top in starts for left in starts]
    windows = [x[..., top : top + WINDOW, left : left + WINDOW] for top, left in places]
    logits = whole(network, torch.cat(windows)).unflatten(0, (len(places), x.shape[0]))

    # each window where it lies, zeros around it
    total = 0.0
    coverage = torch.zeros(Enlarged.side, Enlarged.side)
    for i, (top, left) in enumerate(places):
        margins = (left, last - left, top, last - top)
        total = total + F.pad(logits[i], margins)
        coverage = coverage + F.pad(torch.ones(WINDOW, WINDOW), margins)
    return total / coverage
