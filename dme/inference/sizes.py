"""The sizes at which scans enter a network."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dme.inference.protocols import PROTOCOLS
from dme.inference.windows import resize

SIZES = {  # how scans of any size enter a network; what it was trained with stands in its preprocess["size"]
    "512": "made 256 x 256 (bicubic) and enlarged to 512 x 512, as in the study",
    "native": "their own pixels",
    "half": "the mean of each 2 x 2 of their pixels",
}
STUDY_SIDE = 256


def entering(image: Tensor, size: str) -> Tensor:
    """A scan, uint8 (H, W), as a network trained with `size` (see SIZES) sees it: uint8 (H', W')."""
    if size == "native":
        return image
    if size == "half":
        height, width = image.shape
        halved = F.interpolate(
            image[None, None].float(), (-(-height // 2), -(-width // 2)), mode="area"
        )
        return halved.round().byte()[0, 0]
    if image.shape != (STUDY_SIDE, STUDY_SIDE):
        pixels = Image.fromarray(image.cpu().numpy()).resize(
            (STUDY_SIDE,) * 2, Image.Resampling.BICUBIC
        )
        image = torch.from_numpy(np.array(pixels)).to(image.device)
    side = PROTOCOLS["light"]
    return resize(image[None, None].float(), (side, side)).round().byte()[0, 0]
