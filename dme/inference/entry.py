"""How one scan enters a network, by what its checkpoint states: wedges, size, brightness."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dme.common.tasks import LAYER_CLASSES
from dme.inference.brightness import matched
from dme.inference.sizes import InputSize, size_of
from dme.retina.wedge import SATURATED, any_wedge, empty_lines, without_wedge

MATCHED = "matched"  # preprocess["brightness"] of networks that see all scans alike


class Entered(NamedTuple):
    """A scan as a network sees it, and the size that was fitted to it."""

    image: Tensor  # uint8 (H', W')
    size: InputSize


def enter(
    image: Tensor,
    preprocess: dict,
    classes: Sequence[str],
    scale_um: Sequence[float] | None = None,
) -> Entered:
    """A scan, uint8 (H, W), as a network with this `preprocess` and these classes sees it.

    scale_um: axial and lateral um per pixel, None where unknown; of use to networks that learnt at
    a physical scale. Networks that find layers see saturated wedges dark: their edges pass for
    layers. Without a stated brightness grey values stay as they are.
    """
    one_brightness = preprocess.get("brightness") == MATCHED
    with_layers = LAYER_CLASSES[0] in classes
    size = size_of(preprocess).fit(image, scale_um)
    if not one_brightness:
        if with_layers:
            image = torch.from_numpy(without_wedge(image.cpu().numpy())).to(image.device)
        return Entered(size.image(image), size)

    # wedges are white and empty lines black, whatever noise and export made of them
    pixels = image.cpu().numpy()
    wedge = any_wedge(pixels)
    shown = torch.from_numpy(~(wedge | empty_lines(pixels))).to(image.device)
    image = image.masked_fill(torch.from_numpy(wedge).to(image.device), SATURATED)
    valid = size.image(shown.byte() * 255) > 127
    return Entered(matched(size.image(image), valid), size)
