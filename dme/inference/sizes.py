"""The sizes at which scans enter a network, and with them their masks and boundary rows."""

from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dme.common.labels import IGNORE
from dme.inference.protocols import PROTOCOLS
from dme.inference.windows import resize
from dme.retina.rows import scale_rows

STUDY_SIDE = 256


class InputSize:
    """How a scan, its mask and its boundary rows enter a network: with their own pixels.

    What a network was trained with stands in its preprocess["size"], by name.
    """

    name: ClassVar[str] = "native"
    description: ClassVar[str] = "their own pixels"
    of_study: ClassVar[bool] = False  # masks are those of 256 x 256, not of the scan's own pixels
    slides: ClassVar[bool] = False  # a window slides over the image

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what enters, of a scan of that height and width."""
        return height, width

    def image(self, image: Tensor) -> Tensor:
        """uint8 (H, W) of a scan -> uint8 (H', W')."""
        return image

    def mask(self, mask: Tensor) -> Tensor:
        """uint8 (H, W) of 0, 1 and 255, see `of_study` -> the same at the pixels of `image`."""
        return mask

    def rows(self, rows: np.ndarray, height: int, width: int) -> np.ndarray:
        """Boundary rows (8, W) of a scan -> float32 (8, W') in pixels of what enters."""
        return scale_rows(rows, (height, width), self.shape(height, width))


class Half(InputSize):
    """Half as many pixels a side; of an odd number the last one is by itself."""

    name = "half"
    description = "the mean of each 2 x 2 of their pixels"

    def shape(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // 2), -(-width // 2)

    def image(self, image: Tensor) -> Tensor:
        return self._means(image).round().byte()

    def mask(self, mask: Tensor) -> Tensor:
        """Fluid where at least half of the pixels are, unknown where any is."""
        fluid = self._means(mask == 1)
        unknown = self._means(mask == IGNORE)
        return torch.where(unknown > 0, IGNORE, fluid >= 0.5).byte()

    def _means(self, x: Tensor) -> Tensor:
        """(H, W) -> float32 (H', W')."""
        return F.interpolate(x[None, None].float(), self.shape(*x.shape), mode="area")[0, 0]


class StudySize(InputSize):
    """256 x 256, at which the study scores."""

    name = "study"
    description = "made 256 x 256 (bicubic)"
    of_study = True

    def shape(self, height: int, width: int) -> tuple[int, int]:
        return STUDY_SIDE, STUDY_SIDE

    def image(self, image: Tensor) -> Tensor:
        if image.shape == (STUDY_SIDE, STUDY_SIDE):
            return image
        pixels = Image.fromarray(image.cpu().numpy())
        pixels = pixels.resize((STUDY_SIDE, STUDY_SIDE), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(pixels)).to(image.device)


class Enlarged(StudySize):
    """256 x 256 enlarged to 512 x 512, over which a window slides."""

    name = "512"
    description = "made 256 x 256 (bicubic) and enlarged to 512 x 512, as in the study"
    slides = True
    side = PROTOCOLS["light"]

    def shape(self, height: int, width: int) -> tuple[int, int]:
        return self.side, self.side

    def image(self, image: Tensor) -> Tensor:
        square = super().image(image)[None, None].float()  # (1, 1, 256, 256)
        return resize(square, (self.side, self.side)).round().byte()[0, 0]

    def mask(self, mask: Tensor) -> Tensor:
        """Each pixel of 256 x 256 becomes four, as in the study."""
        return mask.repeat_interleave(2, 0).repeat_interleave(2, 1)


STUDY = StudySize()
NATIVE = InputSize()
SIZES = {size.name: size for size in (Enlarged(), NATIVE, Half())}  # that networks are trained at
