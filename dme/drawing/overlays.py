"""A mask drawn on its scan."""

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from dme.drawing.canvas import Letters

Colour = tuple[int, int, int]

RED = (255, 72, 72)
GREEN = (64, 220, 120)
CYAN = (60, 220, 255)  # of fluid that a network found
TINT = 0.25  # opacity of a mask's inside
STRIP = 24  # px, height of the legend under an overlay
SAMPLE = (8, 28)  # px, left and right edge of the legend's sample of colour
LEAST_SIDE = 320  # px, of scans that are not shown enlarged
MOST_ENLARGED = 8  # times


def overlay(
    image: np.ndarray, mask: np.ndarray, colour: Colour = RED, tint: float = TINT
) -> np.ndarray:
    """Scan with a mask's contour drawn and its inside tinted.

    image: uint8 (H, W) or (H, W, 3). mask: (H, W), drawn where it equals 1. Returns uint8 (H, W,
    3).
    """
    rgb = image.copy() if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    inside = np.asarray(mask) == 1
    contour = inside & ~ndimage.binary_erosion(inside)

    # the contour hides the scan, the tint lets it through
    mixed = rgb[inside] * (1 - tint) + np.array(colour) * tint  # (pixels inside, 3)
    rgb[inside] = mixed.round().astype(np.uint8)
    rgb[contour] = colour
    return rgb


def scan_overlay(image: np.ndarray, mask: np.ndarray, legend: str) -> np.ndarray:
    """Scan with the mask's contour and tint, a strip with the legend below; uint8 (H', W', 3)."""
    # whole times, so that pixels stay squares
    times = math.ceil(LEAST_SIDE / max(image.shape))
    times = max(1, min(MOST_ENLARGED, times))
    large_image = image.repeat(times, 0).repeat(times, 1)
    large_mask = mask.repeat(times, 0).repeat(times, 1)
    picture = overlay(large_image, large_mask, colour=CYAN)
    height, width = picture.shape[:2]

    # the sheet is as wide as the legend needs
    letters = Letters(14)
    left, right = SAMPLE
    legend_width = right + 16 + math.ceil(letters.width(legend))
    size = (max(width, legend_width), height + STRIP)
    sheet = Image.new("RGB", size, "black")
    sheet.paste(Image.fromarray(picture))

    # a sample of contour and tint, and what it means
    draw = ImageDraw.Draw(sheet)
    tint = tuple(round(TINT * channel) for channel in CYAN)
    box = [left, height + 6, right, height + STRIP - 6]
    draw.rectangle(box, outline=CYAN, fill=tint)
    beside = (right + 8, height + STRIP / 2)
    letters.write(draw, beside, legend, "white", anchor="lm")
    return np.asarray(sheet)
