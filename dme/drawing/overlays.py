"""A mask drawn on its scan."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

RED, GREEN, CYAN = (255, 72, 72), (64, 220, 120), (60, 220, 255)
STRIP = 24  # height of the legend under an overlay
LEAST_SIDE, MOST_ENLARGED = 320, 8  # small scans are shown enlarged


def overlay(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = RED, tint: float = 0.25
) -> np.ndarray:
    """Scan with a mask's contour drawn and its inside tinted.

    image: uint8 (H, W) or (H, W, 3). mask: (H, W), drawn where it equals 1. Returns uint8 (H, W, 3).
    """
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    inside = np.asarray(mask) == 1
    contour = inside & ~ndimage.binary_erosion(inside)
    opacity = np.where(contour, 1.0, np.where(inside, tint, 0.0))[..., None]
    return (rgb * (1 - opacity) + np.array(colour) * opacity).round().astype(np.uint8)


def scan_overlay(image: np.ndarray, mask: np.ndarray, legend: str) -> np.ndarray:
    """Scan with the mask's contour and tint, and a strip below with the legend; uint8 (H', W', 3)."""
    times = max(1, min(MOST_ENLARGED, math.ceil(LEAST_SIDE / max(image.shape))))
    picture = overlay(*(a.repeat(times, 0).repeat(times, 1) for a in (image, mask)), colour=CYAN)
    font = ImageFont.load_default(size=14)
    height, width = picture.shape[:2]
    sheet = Image.new(
        "RGB", (max(width, 44 + math.ceil(font.getlength(legend))), height + STRIP), "black"
    )
    sheet.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(sheet)
    tint = tuple(round(0.25 * c) for c in CYAN)
    draw.rectangle([8, height + 6, 28, height + STRIP - 6], outline=CYAN, fill=tint)
    draw.text((36, height + STRIP / 2), legend, fill="white", font=font, anchor="lm")
    return np.asarray(sheet)
