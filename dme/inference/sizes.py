"""The sizes at which scans enter a network, and with them their masks and boundary rows."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dme.common.labels import IGNORE
from dme.common.words import LARGEST_SIDE
from dme.inference.protocols import PROTOCOLS
from dme.inference.windows import resize
from dme.nets.unet import STRIDE
from dme.retina.height import retina_height_px
from dme.retina.rows import scale_rows

STUDY_SIDE = 256
LEARNT_UM = (7.74, 22.66)  # axial, lateral: half the pixels of Duke's scans a side
RETINA_UM = 315.0  # usual height of a retina, from its surface to the pigment epithelium
FRAME_UM = 7200.0  # usual width of a frame: most are 6 to 9 mm wide
FRAME_DEPTH_UM = 1900.0  # usual depth of a frame
BY_RETINA = (
    f"scale unknown, taken from the retina's height ({RETINA_UM:g} um) and the frame's width "
    f"({FRAME_UM / 1000:g} mm): give the scale"
)
NO_RETINA = (
    f"scale unknown and no retina to measure by, a frame of {FRAME_UM / 1000:g} x "
    f"{FRAME_DEPTH_UM / 1000:g} mm is taken: give the scale"
)


class InputSize:
    """How a scan, its mask and its boundary rows enter a network: with their own pixels.

    What a network was trained with stands in its preprocess["size"], by name.
    """

    name: ClassVar[str] = "native"
    description: ClassVar[str] = "their own pixels"
    of_study: ClassVar[bool] = False  # masks are those of 256 x 256, not of the scan's own pixels
    slides: ClassVar[bool] = False  # a window slides over the image
    note: str = ""  # of a size that was guessed: what was taken, and why

    def fit(self, image: Tensor, scale_um: Sequence[float] | None) -> "InputSize":
        """The size for a scan uint8 (H, W) with axial and lateral um per pixel; None: unknown."""
        return self

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


class Physical(InputSize):
    """As many um per pixel as the network learnt, whatever the scan has.

    Of an unknown scale the height of the retina decides along depth, and across it that frames
    are about FRAME_UM wide.
    """

    name = "um"
    description = "resampled to the um per pixel that the network learnt"

    def __init__(self, um_per_px: Sequence[float] = LEARNT_UM) -> None:
        self.um_per_px = tuple(um_per_px)  # axial, lateral

    def fit(self, image: Tensor, scale_um: Sequence[float] | None) -> InputSize:
        note = ""
        if scale_um is None:
            scale_um, note = guessed_scale_um(image.cpu().numpy())
        factors = [um / learnt for um, learnt in zip(scale_um, self.um_per_px, strict=False)]
        return Resampled(*factors, note)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        raise ValueError("what enters depends on the scan's scale: ask what `fit` returns")


class Resampled(InputSize):
    """So many times as many pixels, down and across; means of them where they become fewer."""

    def __init__(self, down: float, across: float, note: str = "") -> None:
        self.down = down
        self.across = across
        self.note = note

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Never less than the network's stride, nor more than scans may have."""
        sides = (height * self.down, width * self.across)
        return tuple(min(max(round(side), STRIDE), LARGEST_SIDE) for side in sides)

    def image(self, image: Tensor) -> Tensor:
        return self._resampled(image).round().clamp(0, 255).byte()

    def mask(self, mask: Tensor) -> Tensor:
        """Fluid where at least half is, unknown where any is."""
        fluid = self._resampled(mask == 1)
        unknown = self._resampled(mask == IGNORE)
        return torch.where(unknown > 0.01, IGNORE, fluid >= 0.5).byte()

    def _resampled(self, x: Tensor) -> Tensor:
        """(H, W) -> float32 (H', W')."""
        size = self.shape(*x.shape)
        x = x[None, None].float()
        return F.interpolate(x, size, mode="bilinear", antialias=True)[0, 0]


def guessed_scale_um(image: np.ndarray) -> tuple[tuple[float, float], str]:
    """Axial and lateral um per pixel of a scan uint8 (H, W) of unknown scale, and how they came.

    Healthy and swollen retinas of the sets here are 270 to 380 um high in the median column.
    """
    height, width = image.shape
    lateral = FRAME_UM / width
    retina_px = retina_height_px(image)
    if retina_px is None:
        return (FRAME_DEPTH_UM / height, lateral), NO_RETINA
    return (RETINA_UM / retina_px, lateral), BY_RETINA


STUDY = StudySize()
NATIVE = InputSize()
SIZES = {size.name: size for size in (Enlarged(), NATIVE, Half(), Physical())}  # of networks


def size_of(preprocess: dict) -> InputSize:
    """The size that a checkpoint states. Raises KeyError for none of SIZES."""
    size = SIZES[preprocess["size"]]
    return Physical(preprocess["um_per_px"]) if isinstance(size, Physical) else size
