"""Pictures as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image

from dme.common.files import atomic_path


def save_png(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 (H, W) or (H, W, 3) picture atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG atomically and fast: for the many large ones, where size matters less."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=1)
