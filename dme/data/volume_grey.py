"""Stored values of a volume's B-scans -> uint8, all on one grey scale."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.data.images import brightest, refuse_inverted, to_scan, white_of

Reader = Callable[[int], np.ndarray]


def grey_reader(path: Path, stored: Reader, indexes: Sequence[int]) -> tuple[Reader, list[str]]:
    """Reader of B-scans as uint8 (H, W), and what is to be said of it.

    stored: gives the values of the B-scan at an index, (H, W) or (H, W, channels). Those of more
    than 8 bits are looked at once, all of `indexes`: the brightest of them gives the white of the
    volume, as `dme.data.images.to_grey_uint8` has it; floats are grey values 0..255.
    """
    first = stored(indexes[0])
    peak = None
    notes = []
    if first.dtype != np.uint8:
        peak = max(brightest(_without_alpha(stored(index))) for index in indexes)
        if first.dtype.kind in "ui":
            notes.append(f"{first.dtype} values scaled by 255/{white_of(peak)}")

    def read(index: int) -> np.ndarray:
        try:
            grey = to_scan(stored(index), peak)
            refuse_inverted(grey)
        except ValueError as e:
            raise InputError(f"{path}: B-scan {index} {e}") from e
        return grey

    return read, notes


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels[:, :, :3]
