"""Synthetic B-scans of one large cyst right under the retina's surface, with exact layers.

Such cysts take half to four fifths of the retina's height and leave a thin roof below the ILM. A
network that knows healthy eyes alone takes the cyst for vitreous and puts the ILM onto its floor.
"""

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator, default_rng

from dme.bscan import BScan
from dme.data.phantom_anatomy import COLS, COLS_PER_SCAN, ROWS, Cyst, Eye, X
from dme.data.phantom_picture import draw_scan

# raise it when any pixel or label changes, in this file or those that it draws with
VERSION = 1
SEVERITY = (0.6, 1.0)  # of the oedema around it
OFF_FOVEA = 40  # columns, standard deviation
RADIUS = (30, 105)  # columns
TOP = (0.45, 1.7)  # layer coordinate: from within the nerve fibres to within the GCL and IPL
BOTTOM = (3.8, 4.75)  # from the OPL's end to the outer limiting membrane
SHARES = (0.5, 0.8)  # of the retina's height that the cyst takes, in the column of its most
LARGE = 0.3  # of the retina's height: columns in which fluid takes so much lie over a large cyst
DIMMER_GREY = 45  # oedema swallows light: grey levels by which tissue is darker, at most
# the phantom's own seeds are small
TRAINING_SEED = 4_100
HELD_OUT_SEED = 4_200
HELD_OUT = 24  # scans


def training_scans(count: int) -> Iterator[BScan]:
    """Scans of as many eyes, each with a cyst of SHARES of its retina's height under the ILM."""
    for number in range(count):
        yield cyst_scan(TRAINING_SEED, number)


def held_out_scans() -> Iterator[BScan]:
    """HELD_OUT scans of eyes that no training sees, drawn by the same rules."""
    for number in range(HELD_OUT):
        yield cyst_scan(HELD_OUT_SEED, number)


def cyst_scan(seed: int, number: int) -> BScan:
    """One scan of an eye of its own, subject number + 1.

    It is drawn again, of another eye, until the cyst is as high as it should be.
    """
    rng = default_rng([seed, number, 13])
    while True:
        eye, large, z = _eye(rng)
        scan = draw_scan(eye, number + 1, z, seed, (ROWS, COLS))
        if SHARES[0] <= share_of_retina(scan, large) <= SHARES[1]:
            scan.name = f"cyst_{number:03d}"
            return scan


def _eye(rng: Generator) -> tuple[Eye, Cyst, int]:
    """An eye, its large cyst, and the B-scan that cuts it."""
    eye = Eye(rng, rng.uniform(*SEVERITY))
    eye.gain -= rng.uniform(0, DIMMER_GREY)
    column, bscan = eye.fovea
    radius = rng.uniform(*RADIUS)
    large = Cyst(
        x=column + rng.normal(0, OFF_FOVEA),
        z=bscan + rng.normal(0, 2),
        radius_x=radius,
        radius_z=max(2.0, radius / COLS_PER_SCAN * rng.uniform(0.8, 1.4)),
        top=rng.uniform(*TOP),
        bottom=rng.uniform(*BOTTOM),
    )
    others = [cyst for cyst in eye.cysts if abs(cyst.x - large.x) > cyst.radius_x + radius]
    eye.cysts = [large, *others]
    return eye, large, round(large.z + rng.uniform(-0.5, 0.5) * large.radius_z)


def share_of_retina(scan: BScan, cyst: Cyst) -> float:
    """How much of the retina's height the cyst takes in the column that has most of it."""
    columns = np.abs(X - cyst.x) < cyst.radius_at(scan.position)
    height = scan.layers[-1] - scan.layers[0]
    share = scan.fluid.sum(0) / height
    return float(share[columns].max(initial=0))


def over_large_cysts(fluid: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Columns (W,) of which fluid (H, W) takes LARGE of the height between ILM and choroid, bool.

    layers: boundary rows (8, W).
    """
    return (fluid == 1).sum(0) >= LARGE * (layers[-1] - layers[0])
