"""Synthetic retinal B-scans with exact fluid and layer labels: what a fresh machine runs on.

An eye is three-dimensional anatomy (phantom_anatomy.py) cut at the B-scan positions, so scans of
one eye resemble each other; phantom_picture.py draws the cuts. Other image sizes than 496 x 768
sample the same anatomy.
"""

from collections.abc import Iterator

import numpy as np
from numpy.random import default_rng

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.phantom_anatomy import COLS, POSITIONS, ROWS, Eye, cut_cysts
from dme.data.phantom_picture import draw_scan

# raise it when any pixel or label changes, in these three files: caches tell by it
VERSION = 1
MIN_SIZE = 32  # fewest rows and columns of an image


def phantom_bscan(
    seed: int, height: int = ROWS, width: int = COLS, fluid: bool | None = None
) -> BScan:
    """One scan of an eye of its own, subject seed + 1, with exact labels.

    fluid: True for a scan with some, False for one without, None as it falls (more than a quarter
    show none, as in the real set). The scan has fluid (H, W) of 0 and 1, layers (8, W) without
    NaN.
    Raises InputError for an image under 32 pixels high or wide or a negative seed.
    """
    _check(height, width, seed)
    rng = default_rng([seed])
    eye = Eye(rng, rng.random())
    every = range(POSITIONS[0], POSITIONS[-1] + 1)
    wet = [z for z in every if cut_cysts(eye.cysts, z)]
    z = int(rng.choice(wet if fluid else POSITIONS))
    return draw_scan(eye, seed + 1, z, seed, (height, width), wet=fluid is not False)


def phantom_set(
    subjects: int = 10,
    scans_per_subject: int = 11,
    height: int = ROWS,
    width: int = COLS,
    seed: int = 0,
) -> Iterator[BScan]:
    """Scans of `subjects` eyes, one after the other, laid out as the real set.

    Severity is spread evenly. Labels as in `phantom_bscan`; 0.8 % of all pixels are fluid, 29 % of
    the scans empty (means over seeds). Raises InputError for no subject, for other than 1-20 scans
    each, and for what `phantom_bscan` refuses.
    """
    _check(height, width, seed)
    if subjects < 1 or not 1 <= scans_per_subject <= 20:
        found = f"{subjects} subjects with {scans_per_subject} scans each"
        raise InputError(f"phantom set of {found}: ask for at least 1 subject and for 1-20 scans")
    # evenly among the positions of the real set: for 11 scans 0, 1 ... 10
    rank = np.arange(1, scans_per_subject + 1) * 12 / (scans_per_subject + 1) - 1
    positions = np.floor(np.interp(rank, range(11), POSITIONS) + 0.5).astype(int)
    order = default_rng([seed]).permutation(subjects)

    def scans() -> Iterator[BScan]:
        for subject in range(1, subjects + 1):
            rng = default_rng([seed, subject])
            severity = (order[subject - 1] + rng.random()) / subjects
            eye = Eye(rng, severity)
            for z in positions:
                yield draw_scan(eye, subject, int(z), seed, (height, width))

    return scans()


def _check(height: int, width: int, seed: int) -> None:
    if min(height, width) < MIN_SIZE:
        found = f"phantom of {height} x {width} pixels"
        raise InputError(f"{found} is too small: ask for at least {MIN_SIZE} x {MIN_SIZE}")
    if seed < 0:
        raise InputError(f"phantom seed {seed} is negative: choose one from 0")
