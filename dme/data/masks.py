"""Fluid masks of a folder: the values of one file, and what the values of a whole set mean."""

from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.data.images import read_pixels

MOST_IDS = 64  # regions that a grader numbers; more values come from an interpolated mask


def read_mask(path: Path) -> np.ndarray:
    """Mask values as stored, uint8 (H, W); of black and white in a palette 0 and 1, whichever
    comes first.
    """
    # of a palette image the indices are ids, unless its colours are black and white
    mask = read_pixels(path, palette_colours=False)
    if mask.ndim == 2 and mask.max(initial=0) <= 1:
        colours = read_pixels(path)
        if colours.ndim == 3 and _black_and_white(colours):
            mask = colours[:, :, 0] // 255
    # ids in all colours alike
    if mask.ndim == 3:
        coloured = mask.shape[2] > 2 and not _grey(mask[:, :, :3])
        if coloured:
            raise InputError(f"{path}: a coloured mask; save it as grey, palette or 1-bit PNG")
        mask = mask[:, :, 0]
    least = mask.min()
    most = mask.max()
    if mask.dtype.kind not in "bui" or least < 0 or most > 255:
        raise InputError(f"{path}: mask values {least}..{most}, expected whole numbers 0..255")
    return mask.astype(np.uint8)


def _grey(colours: np.ndarray) -> bool:
    """Whether red, green and blue agree everywhere in (H, W, 3)."""
    return not np.ptp(colours, axis=2).any()


def _black_and_white(colours: np.ndarray) -> bool:
    extreme = np.isin(colours, (0, 255))
    return bool(extreme.all()) and _grey(colours)


def mask_lookup(values: set[int]) -> tuple[np.ndarray, str]:
    """Meaning of the mask values of a whole set: table uint8 (256,) from value to 0, 1 or 255, and
    a text.

    {0, 1} and {0, 255} are binary, other ids are instances (fluid where > 0), and 255 beside ids
    is ignore.
    """
    # 0 and 255 alone are background and fluid
    ids = sorted(values - {0, 255})
    if 255 in values and len(ids) > MOST_IDS:
        raise InputError(
            f"masks hold {len(ids)} values between 0 and 255: interpolated? resize with nearest"
        )
    lookup = np.ones(256, np.uint8)
    lookup[0] = 0
    if not ids:
        return lookup, "binary 0/255, 255 is fluid" if 255 in values else "all empty"

    # beside ids, 255 is no id
    lookup[255] = IGNORE
    if ids == [1]:
        meaning = "binary 0/1, 1 is fluid"
    else:
        meaning = f"instance ids {ids[0]}..{ids[-1]}, fluid is id > 0"
    if 255 in values:
        meaning += ", 255 is ignore"
    return lookup, meaning
