"""A folder of made-up scans with the subjects and positions of Duke's set: split paper works."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dme.data.duke import DUKE_ANNOTATED, PAPER_VALIDATION


def make_duke(root: Path, side: int = 256) -> Path:
    """110 scans of side x side: noise, a bright band, in most of them a dark disc, the fluid."""
    for name in ("images", "fluid"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    rows = [("name", "subject", "bscan")]
    for subject, position in sorted(DUKE_ANNOTATED):
        name = f"{subject:02}_{position:02}"
        retina = abs(y - 0.5 - 0.01 * subject) < 0.15
        fluid = np.hypot(y - 0.5, x - 0.2 - 0.01 * position) < 0.01 * (position % 7)
        grey = 30 + 120 * retina - 90 * (fluid & retina) + rng.normal(0, 12, (side, side))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{name}.png")
        mask = (fluid & retina).astype(np.uint8)
        Image.fromarray(mask).save(root / "fluid" / f"{name}.png")
        rows.append((name, subject, position))
    with open(root / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert set(PAPER_VALIDATION) <= DUKE_ANNOTATED
    return root
