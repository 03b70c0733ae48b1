"""The saturated wedge that registration leaves at the top and bottom of a scan."""

import numpy as np
from scipy import ndimage

SATURATED = 255  # grey value of what the frame does not cover


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
