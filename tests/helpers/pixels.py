"""Pictures as the tests of drawing see them."""

import numpy as np


def is_colour(picture, colour) -> np.ndarray:
    """Where a picture (H, W, 3) has exactly that colour, bool (H, W)."""
    return (picture == np.asarray(colour, np.uint8)).all(axis=-1)


def extent(where) -> tuple[slice, slice]:
    """The rows and columns from the first to the last true pixel."""
    rows, columns = np.nonzero(where)
    rows_range = slice(rows.min(), rows.max() + 1)
    return rows_range, slice(columns.min(), columns.max() + 1)


def in_three_channels(image) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(image[..., None], 3, axis=2)


def stripes(values, width) -> np.ndarray:
    """Each value a row of so many columns."""
    return np.tile(np.array(values, float)[:, None], (1, width))
