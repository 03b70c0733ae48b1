"""The anatomy behind the phantom: an eye with fovea, disc, oedema and cysts, cut at any B-scan
position.

Lengths are those of a 496 x 768 Spectralis frame: px (rows of 3.87 um), columns (of 11.33 um), z
in B-scans (of 123 um); points are (column, z). Constants were measured on the 110 annotated scans
of Chiu et al. 2015 (Biomed. Opt. Express 6:1172) and on the layer boundaries of 70 healthy
Spectralis scans.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter1d

ROWS, COLS, MIN_SIZE = 496, 768, 32  # the reference frame; fewest rows and columns of an image
AXIAL_UM, LATERAL_UM, SPACING_UM = 3.87, 11.33, 123.0
COLS_PER_SCAN = SPACING_UM / LATERAL_UM
POSITIONS = (10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50)  # the annotated B-scans of a volume of 61
GRADED = (100, 623)  # columns between which all fluid of the real set lies
MIN_LAYER = 0.4  # px; at the disc the layers end, but their boundaries stay ordered
X = np.arange(COLS, dtype=np.float64)


def columns_from(point: tuple[float, float], x: np.ndarray | float, z: float) -> np.ndarray:
    """En-face distance, in columns, from `point` to columns `x` of scan `z`."""
    return np.hypot(x - point[0], (z - point[1]) * COLS_PER_SCAN)


@dataclass
class Cyst:
    """A body of fluid: centre, radii (columns, scans) and the layer coordinates u that it spans."""

    x: float
    z: float
    radius_x: float
    radius_z: float
    top: float
    bottom: float

    def touches(self, other: "Cyst") -> bool:
        """Whether two cysts of one layer come nearer than a septum (2.5 columns, 0.2 scans)."""
        apart_x = (self.x - other.x) / (self.radius_x + other.radius_x + 2.5)
        apart_z = (self.z - other.z) / (self.radius_z + other.radius_z + 0.2)
        return self.top < other.bottom and other.top < self.bottom and apart_x**2 + apart_z**2 < 1


class Eye:
    """What the scans of one eye share, drawn from `rng`; `severity` of the oedema: 0 (almost dry)
    to 1.
    """

    def __init__(self, rng: Generator, severity: float):
        self.side = side = int(rng.choice((-1, 1)))  # of the disc: right +1, left -1
        self.fovea = (COLS / 2 + rng.normal(0, 20), 30 + rng.normal())
        self.disc = (
            COLS / 2 + side * (COLS / 2 + rng.uniform(-15, 75)),
            self.fovea[1] + rng.uniform(1, 5),
        )
        self.disc_radius = rng.uniform(70, 88)
        self.cup_px = rng.uniform(50, 140)  # by which the retina dives into the disc
        self.rpe_row = np.clip(rng.normal(228, 24), 190, 300) + 55 * severity**3
        self.sag_px, self.tilt_px = (
            rng.uniform(15, 85),
            rng.normal(0, 16),
        )  # of the RPE, over half a frame
        self.frame_tilt_px = rng.normal(
            0, 36
        )  # of the frame that registration sheared, across its width
        self.thickness, self.choroid = (
            rng.normal(1.17, 0.06),
            rng.uniform(0.75, 1.3),
        )  # 1 = healthy mean
        self.gain, self.noise = (
            rng.normal(160, 10),
            rng.normal(32, 4),
        )  # grey levels of RPE and vitreous
        self.foci = rng.exponential(7)  # expected bright dots in a scan
        off_centre = (
            side * rng.uniform(-170, 10) * (1 - severity)
        )  # mild oedema lies temporal to the fovea
        self.oedema = (self.fovea[0] + off_centre, self.fovea[1] + rng.normal(0, 2))
        self.oedema_radius = (70 + 110 * severity * rng.uniform(0.7, 1.2), rng.uniform(7.5, 19.5))
        self.oedema_px = 4 + 65 * severity**2.3 * rng.uniform(0.8, 1.2)  # thickening at its centre
        self.cysts = draw_cysts(rng, self, severity)


def draw_cysts(rng: Generator, eye: Eye, severity: float) -> list[Cyst]:
    """Cysts packed at random, largest first: small ones in the INL, larger ones in Henle's layer
    and the ONL.

    Severe eyes may have a cyst through all of them at the fovea, or fluid under it.
    """
    cysts = []
    if rng.random() < 1.4 * severity - 0.4:
        size = rng.uniform(16, 42)
        cysts.append(
            Cyst(*eye.fovea, size, 1.6 * size / COLS_PER_SCAN, rng.uniform(1.2, 2.0), 4.6)
        )
    if rng.random() < 0.2 * severity:
        cysts.append(Cyst(*eye.fovea, rng.uniform(14, 40), 3.0, 5.15, 5.95))
    count = int(50 + 350 * severity)
    inner = rng.random(count) < 0.6
    radii = np.where(
        inner, rng.lognormal(1.45, 0.4, count), rng.lognormal(1.53 + 1.6 * severity, 0.7, count)
    )
    for k in np.argsort(-radii):
        size, angle, reach = (
            np.clip(radii[k], 2, 90),
            rng.uniform(0, 2 * np.pi),
            rng.random() ** 0.7,
        )
        x = eye.oedema[0] + eye.oedema_radius[0] * reach * np.cos(angle)
        z = eye.oedema[1] + eye.oedema_radius[1] * reach * np.sin(angle)
        top, bottom = ((2.0, 2.2), (2.7, 3.0)) if inner[k] else ((3.2, 3.9), (4.4, 4.75))
        radius_z = size * rng.uniform(1, 2) / COLS_PER_SCAN
        cyst = Cyst(x, z, size, radius_z, rng.uniform(*top), rng.uniform(*bottom))
        if GRADED[0] + size < x < GRADED[1] - size and not any(cyst.touches(c) for c in cysts):
            cysts.append(cyst)
    return cysts


def cut_cysts(cysts: list[Cyst], z: float) -> list[Cyst]:
    """Cross-sections of the cysts in scan `z`, largest last; slivers under 1.3 columns are not
    seen.
    """
    radius = [c.radius_x * np.sqrt(max(0.0, 1 - ((z - c.z) / c.radius_z) ** 2)) for c in cysts]
    cut = [replace(c, z=z, radius_x=r) for c, r in zip(cysts, radius, strict=True) if r >= 1.3]
    return sorted(cut, key=lambda c: c.radius_x)


def smooth_noise(rng: Generator, sigma: float) -> np.ndarray:
    """(768,) noise of unit variance, smooth over `sigma` columns."""
    return gaussian_filter1d(rng.standard_normal(COLS), sigma) * np.sqrt(
        2 * np.sqrt(np.pi) * sigma
    )


def layer_thickness(rng: Generator, eye: Eye, z: float, cysts: list[Cyst]) -> np.ndarray:
    """(7, 768) px: healthy macula with its pit, thickened by oedema and cysts, thinning out at the
    disc.
    """
    r, disc_r = columns_from(eye.fovea, X, z), columns_from(eye.disc, X, z) - eye.disc_radius
    ex, ez = (X - eye.oedema[0]) / eye.oedema_radius[0], (z - eye.oedema[1]) / eye.oedema_radius[1]
    swelling = eye.oedema_px * np.exp(-((ex**2 + ez**2) ** 1.2))
    filled = np.clip(
        np.interp(eye.fovea[0], X, swelling) / 90, 0, 1
    )  # oedema flattens the pit, then bulges
    pit = (1 - filled) * np.exp(-((r / 42) ** 2))
    ring, rim = np.exp(-((r / 150) ** 2)), np.exp(-np.clip(disc_r, 0, None) / 50)
    arcade = (
        0.8 * ((z - eye.fovea[1]) / 20) ** 2
    )  # nerve fibres thicken there and at the disc's rim
    layers = [
        (6 + 6 * arcade + 24 * rim) * (1 - 0.9 * pit),  # NFL
        (10 + 14 * ring) * (1 - 0.9 * pit) + 0.06 * swelling,  # GCL + IPL
        (5.5 + 4 * ring) * (1 - 0.75 * pit) + 0.22 * swelling,  # INL
        (6.3 + 1.2 * ring) * (1 - 0.6 * pit) + 0.07 * swelling,  # OPL
        15.5 + 7 * ring + 8 * np.exp(-((r / 60) ** 2)) + 0.65 * swelling,  # ONL
        4.9 + 3 * np.exp(-((r / 35) ** 2)),  # IS/OS
        np.full(COLS, 9.3),  # RPE
    ]
    retina = eye.thickness * np.stack(layers)
    for c in cysts:
        height = 0.35 * c.radius_x if c.top > 5 else 0.5 * max(0.0, c.radius_x - 10)
        bulge = height * np.exp(-(((X - c.x) / (1.2 * c.radius_x + 15)) ** 2))
        spanned = slice(int(c.top), int(c.bottom) + 1)
        retina[spanned] += bulge / (spanned.stop - spanned.start)
    total = retina.sum(axis=0)  # inner boundaries waver, the surface stays smooth
    for k, amount in enumerate((0.12, 0.05, 0.11, 0.13, 0.03, 0.02, 0.02)):
        retina[k] *= np.exp(amount * (smooth_noise(rng, 6) + 0.5 * smooth_noise(rng, 40)))
    retina *= total * (1 + 0.015 * smooth_noise(rng, 50)) / retina.sum(axis=0)
    left = np.clip(disc_r / 65 + 0.2, 0, 1)
    retina[1:6] *= left**2 * (3 - 2 * left)
    return np.maximum(retina, MIN_LAYER)


def boundary_rows(rng: Generator, eye: Eye, z: float, thickness: np.ndarray) -> np.ndarray:
    """(8, 768) rows of the boundaries: a curved RPE with the layers on top, diving into the disc."""
    centred = X / (COLS / 2) - 1
    curve = eye.tilt_px * centred - eye.sag_px * (0.8 + 0.5 * ((z - 30) / 20) ** 2) * centred**2
    dive = np.clip((eye.disc_radius + 30 - columns_from(eye.disc, X, z)) / 90, 0, 1.2)
    rpe = eye.rpe_row + curve + eye.cup_px * dive**2 + 0.5 * smooth_noise(rng, 15)
    rows = rpe - np.cumsum(np.vstack([thickness, np.zeros(COLS)])[::-1], axis=0)[::-1]
    return rows + max(0.0, 24 - rows[0].min()) - max(0.0, rows[7].max() - 440)  # within the frame
