"""How high the retina stands in a B-scan, found without a network: what tells an unknown scale."""

import numpy as np
from PIL import Image
from scipy import ndimage

THUMBNAIL = (256, 48)  # rows and columns to which a scan is averaged: what is left has no speckle
SMOOTHING = 2.0  # rows of the thumbnail, standard deviation along depth
WEDGE = 230  # grey value from which what reaches the border of the frame is no tissue
EDGE = 3  # rows beside it that are left out too
TISSUE = 0.6  # of the way from background to a column's brightest row
GAP = 16  # rows of a cyst, or of a dark layer, that do not end the retina
BAND = 0.93  # of the same way: the pigment epithelium is the deepest peak above it
LEAST_COLUMNS = 12  # with a retina


def retina_height_px(image: np.ndarray) -> float | None:
    """Median distance from the retina's surface to its brightest deep band, in rows.

    image: uint8 (H, W). Only the order of grey values counts: no contrast curve changes what is
    found. None where too few columns show a retina.
    """
    ranks = _ranks(_thumbnail(image))
    profiles = ndimage.gaussian_filter1d(ranks, SMOOTHING, axis=0)

    # columns that show tissue on a dark ground
    dark = np.percentile(profiles, 10, axis=0)
    contrast = profiles.max(0) - dark
    levels = (profiles - dark) / np.where(contrast > 0, contrast, 1)
    heights = []
    for column in np.flatnonzero(contrast > 0.5):
        band = _band(levels[:, column])
        heights.append(band - _surface(levels[:, column], band))
    if len(heights) < LEAST_COLUMNS:
        return None
    return float(np.median(heights)) * len(image) / THUMBNAIL[0]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W) -> float32 of THUMBNAIL, means of what each of its pixels covers; wedges are dark."""
    size = THUMBNAIL[::-1]
    means = np.array(Image.fromarray(image).convert("F").resize(size, Image.Resampling.BOX))
    regions, _ = ndimage.label(means > WEDGE)
    border = np.unique(regions[[0, -1]])
    wedge = np.isin(regions, border[border > 0])
    wedge = ndimage.binary_dilation(wedge, np.ones((2 * EDGE + 1, 3)))
    return np.where(wedge, 0, means)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Of every value the share of values that are smaller, (H, W)."""
    order = np.sort(values, axis=None)
    return np.searchsorted(order, values) / values.size


def _surface(level: np.ndarray, band: int) -> int:
    """The top of the tissue above row `band`, whose gaps are at most GAP rows; level: (H,)."""
    tissue = np.flatnonzero(level[: band + 1] > TISSUE)
    gaps = np.flatnonzero(np.diff(tissue) > GAP)
    return int(tissue[gaps[-1] + 1] if gaps.size else tissue[0])


def _band(level: np.ndarray) -> int:
    """The deepest peak above BAND."""
    peaks = (level[1:-1] >= level[:-2]) & (level[1:-1] > level[2:]) & (level[1:-1] > BAND)
    rows = np.flatnonzero(peaks)
    return int(rows[-1]) + 1 if rows.size else int(level.argmax())
