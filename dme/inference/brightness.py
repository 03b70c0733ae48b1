"""One brightness for all scans: grey values are moved until they are spread as in those it learnt.

Only their order counts, so that gamma, gain and contrast curves of devices and exports make no
difference. Wedges and what else holds no data take no part.
"""

import torch
from torch import Tensor

# how the grey values of Duke's scans at half size are spread: below which value lies which share.
# Means over the 44 scans of eyes 1, 2, 6 and 7, wedges left out; no label was looked at.
SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.995, 1)
GREYS = (0, 8, 11, 15, 18, 22, 27, 32, 41, 49, 59, 72, 89, 115, 141, 170, 244)


def matched(image: Tensor, valid: Tensor) -> Tensor:
    """Grey values spread as SHARES and GREYS say: uint8 (H, W) -> the same.

    valid: bool (H, W), pixels that hold data; the others stay as they are.
    """
    counts = torch.bincount(image[valid].flatten().long(), minlength=256).double()
    if not counts.sum():
        return image
    # pixels of one value share the middle of the shares that they cover
    share = (counts.cumsum(0) - counts / 2) / counts.sum()
    table = interpolated(share, SHARES, GREYS)
    return torch.where(valid, table.round().byte()[image.long()], image)


def interpolated(x: Tensor, places: tuple, values: tuple) -> Tensor:
    """Piecewise linear through (places, values), places rising; x: float64 within them."""
    places = torch.tensor(places, dtype=torch.float64, device=x.device)
    values = torch.tensor(values, dtype=torch.float64, device=x.device)
    right = torch.searchsorted(places, x).clamp(1, len(places) - 1)
    part = (x - places[right - 1]) / (places[right] - places[right - 1])
    return torch.lerp(values[right - 1], values[right], part)
