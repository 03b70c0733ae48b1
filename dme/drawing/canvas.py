"""Pictures as PNG files, and text on them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dme.common.files import atomic_path

FAST_LEVEL = 1  # of PNG's compression
USUAL_LEVEL = -1


def save_png(path: str | Path, picture: np.ndarray, fast: bool = False) -> None:
    """Write a uint8 (H, W) or (H, W, 3) picture atomically.

    fast: for the many large ones, where the size of the file matters less.
    """
    level = FAST_LEVEL if fast else USUAL_LEVEL
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=level)


def writer(draw: ImageDraw.ImageDraw, size: int, colour: str = "black") -> Callable[..., None]:
    """A function `write(place, text)`, letters `size` pixels high; `anchor` as Pillow has it."""
    font = ImageFont.load_default(size=size)
    return partial(draw.text, font=font, fill=colour)
