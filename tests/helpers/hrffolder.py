"""A folder laid out as the High-Resolution Fundus set, of small made-up photographs."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_hrf(root: Path, height: int = 64, width: int = 96) -> Path:
    """45 photographs with a dark cross, the vessel, whose place and the ground's colour differ."""
    for name in ("images", "vessels"):
        (root / name).mkdir(parents=True)
    for number in range(1, 16):
        for i, group in enumerate(("dr", "g", "h")):
            row, column = height // 4 + 2 * number, width // 3 + 5 * i
            mask = np.zeros((height, width), bool)
            mask[row : row + 6] = mask[:, column : column + 6] = True
            image = np.full((height, width, 3), (150 + number, 90, 40 + 10 * i), np.uint8)
            image[mask] = (90, 30, 20)
            suffix = "JPG" if group == "dr" else "jpg"  # as in the original archive
            Image.fromarray(image).save(
                root / "images" / f"{number:02d}_{group}.{suffix}", format="JPEG"
            )
            Image.fromarray(mask).save(root / "vessels" / f"{number:02d}_{group}.png")
    return root
