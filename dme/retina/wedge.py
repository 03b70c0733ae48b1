"""What the frame of a scan does not cover: saturated wedges, and columns without data."""

import numpy as np
from scipy import ndimage

SATURATED = 255  # grey value of what the frame does not cover
MOST_HIDDEN = 0.1  # of the retina in a column, by the wedge
LEAST_WEDGE = 0.001  # of an image: smaller regions of one grey value are chance


def saturated_wedge(image: np.ndarray) -> np.ndarray:
    """Where an image uint8 (H, W) is 255 in connection with its top or bottom border, bool."""
    regions, _ = ndimage.label(image == SATURATED)
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


def holds_data(image: np.ndarray) -> np.ndarray:
    """Where an image uint8 (H, W) shows something, bool: not in wedges, whatever their grey value,
    nor in rows and columns of one value.
    """
    border = image[[0, -1]]
    counts = np.bincount(border[border > 0], minlength=1)
    regions, number = ndimage.label(image == max(1, counts.argmax()))
    sizes = np.bincount(regions.flatten(), minlength=number + 1)
    at_border = np.unique(regions[[0, -1]])
    wedges = at_border[(at_border > 0) & (sizes[at_border] >= LEAST_WEDGE * image.size)]
    data = ~np.isin(regions, wedges)
    for axis in (0, 1):
        brightest = np.where(data, image, 0).max(axis=axis, keepdims=True)
        darkest = np.where(data, image, SATURATED).min(axis=axis, keepdims=True)
        data = data & (brightest > darkest)
    return data


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
