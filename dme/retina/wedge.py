"""What the frame of a scan does not cover: saturated wedges, and columns without data."""

import numpy as np
from scipy import ndimage

SATURATED = 255  # grey value of what the frame does not cover
MOST_HIDDEN = 0.1  # of the retina in a column, by the wedge
LEAST_WEDGE = 0.001  # of an image: smaller regions of one grey value are chance
BRIGHT = 0.75  # of the brightest place of an image: hardly any tissue at its border
ABOVE_USUAL = 2.0  # times the median of an image
EDGE = 0.3  # of the same, beside such a place


def saturated_wedge(image: np.ndarray) -> np.ndarray:
    """Where an image uint8 (H, W) is 255 in connection with its top or bottom border, bool."""
    saturated = image == SATURATED
    if not saturated[[0, -1]].any():
        return np.zeros_like(saturated)
    regions, _ = ndimage.label(saturated)
    border = np.unique(regions[[0, -1]])
    return np.isin(regions, border[border > 0])


def without_wedge(image: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W), its saturated wedge as dark as the lower quartile of the rest."""
    wedge = saturated_wedge(image)
    if wedge.all() or not wedge.any():
        return image
    dark = np.percentile(image[~wedge], 25)
    return np.where(wedge, dark, image).astype(np.uint8)


def columns_with_data(image: np.ndarray) -> np.ndarray:
    """Columns (W,) of an image uint8 (H, W) that hold more than one value and the wedge, bool."""
    wedge = saturated_wedge(image)
    brightest = np.where(wedge, 0, image).max(axis=0)
    darkest = np.where(wedge, SATURATED, image).min(axis=0)
    return brightest > darkest


def shows_retina(image: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Columns (W,) with data, of which little lies under the saturated wedge between the rows.

    image: uint8 (H, W). boundaries: rows (8, W), the first and the last of them the retina's.
    """
    row = np.arange(len(image))[:, None]
    retina = (row >= boundaries[0]) & (row <= boundaries[-1])  # (H, W)
    hidden = (retina & saturated_wedge(image)).sum(axis=0)
    return columns_with_data(image) & (hidden <= MOST_HIDDEN * retina.sum(axis=0))


def empty_lines(image: np.ndarray) -> np.ndarray:
    """Where an image uint8 (H, W) lies in rows or columns of one value, bool."""
    rows = image.max(axis=1, keepdims=True) == image.min(axis=1, keepdims=True)
    columns = image.max(axis=0, keepdims=True) == image.min(axis=0, keepdims=True)
    return rows | columns


def any_wedge(image: np.ndarray) -> np.ndarray:
    """Wedges of an image uint8 (H, W), bool, also dimmed, blurred, noisy or shifted ones.

    They lie at the top or bottom of the rows that are not empty, and have one grey value or are as
    bright as hardly any tissue is there; empty rows and columns that are not black belong to them.
    """
    empty = empty_lines(image)
    wedge = empty & (image > 0)
    shown = np.flatnonzero(~empty.all(axis=1))
    if not shown.size:
        return wedge

    # of one grey value, the commonest of the border
    rows = slice(shown[0], shown[-1] + 1)
    inner = image[rows]
    border = inner[[0, -1]]
    commonest = max(1, np.bincount(border[border > 0], minlength=1).argmax())
    flat = _at_border(inner == commonest, LEAST_WEDGE * image.size)

    # bright over so many px that noise is averaged; of its edge, averaged too, what is bright
    side = 2 * (len(image) // 120) + 3
    smooth = ndimage.uniform_filter(inner.astype(np.float32), side)
    level = max(1.0, BRIGHT * smooth.max())
    if (smooth > level / ABOVE_USUAL).mean() >= 0.5:  # else the median lies below: not asked for
        level = max(level, ABOVE_USUAL * np.median(smooth))
    bright = _at_border(smooth > level, LEAST_WEDGE * image.size)
    reach = side // 2 + 1
    near = ndimage.binary_dilation(bright.any(axis=1), iterations=reach)  # rows
    edge = np.zeros_like(bright)
    edge[near] = ndimage.binary_dilation(bright[near], iterations=reach)
    wedge[rows] |= flat | bright | (edge & (inner > EDGE * smooth.max()))
    return wedge


def _at_border(places: np.ndarray, least: float) -> np.ndarray:
    """The regions of bool (H, W) that reach its top or bottom and have so many pixels."""
    # they lie above the first row without a place or below the last one
    rows = np.arange(len(places))
    empty = np.flatnonzero(~places.any(axis=1))
    if empty.size:
        rows = np.r_[: empty[0] + 1, empty[-1] : len(places)]

    regions, number = ndimage.label(places[rows])
    sizes = np.bincount(regions.ravel(), minlength=number + 1)
    border = np.unique(regions[[0, -1]])
    large = border[(border > 0) & (sizes[border] >= least)]
    result = np.zeros_like(places)
    result[rows] = np.isin(regions, large)
    return result


def mirrored_ends(image: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W), columns without data at its ends replaced by mirrored ones.

    A network that sees the frame end takes it for the end of the retina, some columns before.
    """
    known = np.flatnonzero(columns_with_data(image))
    if known.size == 0:
        return image
    first = known[0]
    last = known[-1]
    columns = np.arange(image.shape[1])
    columns = np.where(columns < first, 2 * first - columns, columns)
    columns = np.where(columns > last, 2 * last - columns, columns).clip(first, last)
    return image[:, columns]
