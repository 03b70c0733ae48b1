"""What other devices, exports and settings do to a B-scan, with its truth: to try networks on.

All randomness is a function of a scan's name, so every network sees the same scans.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from dme.common.labels import IGNORE

BLUR_PX = 2.0  # standard deviation
DIM = 0.4  # of all grey values
SQUARE = 256  # side of the copy that many public sets hold
SHIFT = 0.08  # of the frame, down and to the right
CURVE_STEEPNESS = 8.0  # of the contrast curve in its middle


class Labelled(NamedTuple):
    """A B-scan and where its fluid is, of 0, 1 and 255 (unknown): uint8 (H, W) both."""

    image: np.ndarray
    fluid: np.ndarray


def as_it_is(scan: Labelled, rng: np.random.Generator) -> Labelled:
    return scan


def speckle(strength: float) -> Callable:
    """Every pixel times a normal variable of mean 1 and this standard deviation."""

    def changed(scan: Labelled, rng: np.random.Generator) -> Labelled:
        factor = 1 + strength * rng.standard_normal(scan.image.shape)
        return scan._replace(image=_grey(scan.image * factor))

    return changed


def curve(of: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Grey values 0..1 through a function."""

    def changed(scan: Labelled, rng: np.random.Generator) -> Labelled:
        return scan._replace(image=_grey(255 * of(scan.image / 255)))

    return changed


def s_curve(grey: np.ndarray) -> np.ndarray:
    """A logistic curve through 0, a half and 1."""
    low, value, high = (_logistic(x) for x in (np.zeros(1), grey, np.ones(1)))
    return (value - low) / (high - low)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-CURVE_STEEPNESS * (x - 0.5)))


def blurred(scan: Labelled, rng: np.random.Generator) -> Labelled:
    return scan._replace(image=_grey(gaussian_filter(scan.image.astype(np.float32), BLUR_PX)))


def resized(height: float, width: float) -> Callable:
    """Copies of another size: shares of the scan's own, or pixels where they are above 16."""

    def changed(scan: Labelled, rng: np.random.Generator) -> Labelled:
        rows, columns = scan.image.shape
        size = (_side(width, columns), _side(height, rows))
        image = Image.fromarray(scan.image).resize(size, Image.Resampling.BICUBIC)
        return Labelled(np.array(image), resized_mask(scan.fluid, size))

    return changed


def _side(value: float, side: int) -> int:
    return int(value) if value > 16 else max(1, round(value * side))


def resized_mask(fluid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at (width, height): fluid where at least half is, unknown where at least half is."""
    shares = []
    for value in (1, IGNORE):
        region = Image.fromarray((fluid == value).astype(np.float32))
        shares.append(np.array(region.resize(size, Image.Resampling.BOX)))
    mask = (shares[0] >= 0.5).astype(np.uint8)
    mask[shares[1] >= 0.5] = IGNORE
    return mask


def shifted(down: float, right: float) -> Callable:
    """The frame moved by shares of its sides; what enters is black and without fluid."""

    def changed(scan: Labelled, rng: np.random.Generator) -> Labelled:
        rows, columns = scan.image.shape
        by_rows = round(down * rows)
        by_columns = round(right * columns)
        planes = []
        for plane in scan:
            moved = np.zeros_like(plane)
            moved[by_rows:, by_columns:] = plane[: rows - by_rows, : columns - by_columns]
            planes.append(moved)
        return Labelled(*planes)

    return changed


def _grey(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 255)).astype(np.uint8)


PERTURBATIONS: dict[str, Callable[[Labelled, np.random.Generator], Labelled]] = {
    "as it is": as_it_is,
    "speckle 0.3": speckle(0.3),
    "speckle 0.6": speckle(0.6),
    "gamma 0.5": curve(lambda grey: grey**0.5),
    "gamma 2": curve(lambda grey: grey**2),
    "contrast curve": curve(s_curve),
    "dim": curve(lambda grey: DIM * grey),
    "inverted": curve(lambda grey: 1 - grey),
    "blur": blurred,
    "half size": resized(0.5, 0.5),
    "double size": resized(2, 2),
    "256 x 256": resized(SQUARE, SQUARE),
    "shifted down": shifted(SHIFT, 0),
    "shifted right": shifted(0, SHIFT),
}


def perturbed(scan: Labelled, name: str, scan_name: str) -> Labelled:
    """A scan as PERTURBATIONS has it; scan_name: what its randomness follows from."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {scan_name}".encode()))
    return PERTURBATIONS[name](scan, rng)


def scale_after(
    scale_um: tuple[float, ...] | None, before: tuple[int, int], after: tuple[int, int]
) -> tuple[float, ...] | None:
    """Axial and lateral um per pixel, and the spacing, of a copy with another (height, width)."""
    if scale_um is None:
        return None
    axial, lateral, *spacing = scale_um
    return (axial * before[0] / after[0], lateral * before[1] / after[1], *spacing)
