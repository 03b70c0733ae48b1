"""The anatomy behind the phantom: an eye with fovea, disc, oedema and cysts, cut at any B-scan.

Lengths are those of a 496 x 768 Spectralis frame: px (rows of 3.87 um), columns (of 11.33 um), z
in B-scans (of 123 um); points are (column, z). Constants were measured on the 110 annotated scans
of Chiu et al. 2015 (Biomed. Opt. Express 6:1172) and on the layer boundaries of 70 healthy
Spectralis scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter1d

from dme.data.duke import DUKE_POSITIONS, DUKE_SCALE_UM, DUKE_SHAPE, FLUID_COLUMNS

# the frame, and the annotated B-scans of a volume of 61, are those of the real set
ROWS, COLS = DUKE_SHAPE
AXIAL_UM, LATERAL_UM, SPACING_UM = DUKE_SCALE_UM
POSITIONS = DUKE_POSITIONS
COLS_PER_SCAN = SPACING_UM / LATERAL_UM
X = np.arange(COLS, dtype=np.float64)

# within the first and the last column with fluid of the real set
LEFTMOST = FLUID_COLUMNS[0] + 1
RIGHTMOST = FLUID_COLUMNS[1] - 1

MIN_LAYER = 0.4  # px; at the disc the layers end, but their boundaries stay ordered
MIN_RADIUS = 1.3  # columns; thinner slivers of a cyst are not seen
SEPTUM = 2.5  # columns between two cysts of one layer
SEPTUM_Z = 0.2  # the same in B-scans
# by how much the thickness of the seven layers wavers
WAVES = (0.12, 0.05, 0.11, 0.13, 0.03, 0.02, 0.02)

# from and to which layer coordinate cysts reach in the INL, and in Henle's layer and the ONL
INNER_TOP = (2.0, 2.2)
INNER_BOTTOM = (2.7, 3.0)
OUTER_TOP = (3.2, 3.9)
OUTER_BOTTOM = (4.4, 4.75)


def columns_from(point: tuple[float, float], x: np.ndarray | float, z: float) -> np.ndarray:
    """En-face distance, in columns, from `point` to columns `x` of scan `z`."""
    column, bscan = point
    return np.hypot(x - column, (z - bscan) * COLS_PER_SCAN)


def hill(distance: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian hill: 1 at distance 0, falling over `width`."""
    return np.exp(-((distance / width) ** 2))


def rising(value: np.ndarray, start: float, length: float) -> np.ndarray:
    """A ramp from 0 at `start` to 1."""
    return np.clip((value - start) / length, 0, 1)


def falling(value: np.ndarray, end: float, length: float) -> np.ndarray:
    """A ramp from 1 to 0 at `end`."""
    return np.clip((end - value) / length, 0, 1)


@dataclass
class Cyst:
    """A body of fluid: centre, radii (columns, scans), the layer coordinates u it spans."""

    x: float
    z: float
    radius_x: float
    radius_z: float
    top: float
    bottom: float

    def touches(self, other: "Cyst") -> bool:
        """Whether two cysts of one layer come nearer than a septum."""
        reach_x = self.radius_x + other.radius_x + SEPTUM
        reach_z = self.radius_z + other.radius_z + SEPTUM_Z
        apart_x = (self.x - other.x) / reach_x
        apart_z = (self.z - other.z) / reach_z
        same_layer = self.top < other.bottom and other.top < self.bottom
        return same_layer and apart_x**2 + apart_z**2 < 1

    def radius_at(self, z: float) -> float:
        """Half its width, in columns, where scan `z` cuts it; 0 where it does not."""
        distance = (z - self.z) / self.radius_z
        return self.radius_x * np.sqrt(max(0.0, 1 - distance**2))


class Eye:
    """What the scans of one eye share; `severity` of the oedema: 0 (almost dry) to 1.

    `rng` is drawn from in the order of the lines.
    """

    def __init__(self, rng: Generator, severity: float) -> None:
        # fovea and disc
        self.side = int(rng.choice((-1, 1)))  # of the disc: right +1, left -1
        fovea_column = COLS / 2 + rng.normal(0, 20)
        fovea_bscan = 30 + rng.normal()
        self.fovea = (fovea_column, fovea_bscan)
        disc_distance = COLS / 2 + rng.uniform(-15, 75)
        disc_column = COLS / 2 + self.side * disc_distance
        self.disc = (disc_column, fovea_bscan + rng.uniform(1, 5))
        self.disc_radius = rng.uniform(70, 88)
        self.cup_px = rng.uniform(50, 140)  # by which the retina dives into the disc

        # RPE: height, and its curve over half a frame
        healthy_row = np.clip(rng.normal(228, 24), 190, 300)
        self.rpe_row = healthy_row + 55 * severity**3
        self.sag_px = rng.uniform(15, 85)
        self.tilt_px = rng.normal(0, 16)
        self.frame_tilt_px = rng.normal(0, 36)  # of the sheared frame, across its width

        # layers, 1 being the healthy mean, and grey levels of RPE and vitreous
        self.thickness = rng.normal(1.17, 0.06)
        self.choroid = rng.uniform(0.75, 1.3)
        self.gain = rng.normal(160, 10)
        self.noise = rng.normal(32, 4)
        self.foci = rng.exponential(7)  # expected bright dots in a scan

        # oedema: mild ones lie temporal to the fovea
        off_centre = self.side * rng.uniform(-170, 10) * (1 - severity)
        self.oedema = (fovea_column + off_centre, fovea_bscan + rng.normal(0, 2))
        radius_x = 70 + 110 * severity * rng.uniform(0.7, 1.2)
        self.oedema_radius = (radius_x, rng.uniform(7.5, 19.5))
        self.oedema_px = 4 + 65 * severity**2.3 * rng.uniform(0.8, 1.2)  # thickening at its centre
        self.cysts = draw_cysts(rng, self, severity)


def draw_cysts(rng: Generator, eye: Eye, severity: float) -> list[Cyst]:
    """Cysts packed at random, largest first: small in the INL, larger in Henle's layer and the
    ONL.

    Severe eyes may have a cyst through all of them at the fovea, or fluid under it.
    """
    # at the fovea
    cysts = []
    if rng.random() < 1.4 * severity - 0.4:
        size = rng.uniform(16, 42)
        radius_z = 1.6 * size / COLS_PER_SCAN
        cysts.append(Cyst(*eye.fovea, size, radius_z, rng.uniform(1.2, 2.0), 4.6))
    if rng.random() < 0.2 * severity:
        cysts.append(Cyst(*eye.fovea, rng.uniform(14, 40), 3.0, 5.15, 5.95))

    # within the oedema, where there is room
    count = int(50 + 350 * severity)
    inner = rng.random(count) < 0.6
    inner_radii = rng.lognormal(1.45, 0.4, count)
    outer_radii = rng.lognormal(1.53 + 1.6 * severity, 0.7, count)
    radii = np.where(inner, inner_radii, outer_radii)
    for k in np.argsort(-radii):
        cyst = _draw_cyst(rng, eye, radii[k], inner[k])
        graded = LEFTMOST + cyst.radius_x < cyst.x < RIGHTMOST - cyst.radius_x
        if graded and not any(cyst.touches(other) for other in cysts):
            cysts.append(cyst)
    return cysts


def _draw_cyst(rng: Generator, eye: Eye, radius: float, inner: bool) -> Cyst:
    """A cyst of this radius (columns) anywhere in the oedema, of the inner or the outer layers."""
    size = np.clip(radius, 2, 90)
    angle = rng.uniform(0, 2 * np.pi)
    reach = rng.random() ** 0.7
    centre_x, centre_z = eye.oedema
    reach_x, reach_z = eye.oedema_radius
    x = centre_x + reach_x * reach * np.cos(angle)
    z = centre_z + reach_z * reach * np.sin(angle)
    radius_z = size * rng.uniform(1, 2) / COLS_PER_SCAN
    top = rng.uniform(*(INNER_TOP if inner else OUTER_TOP))
    bottom = rng.uniform(*(INNER_BOTTOM if inner else OUTER_BOTTOM))
    return Cyst(x, z, size, radius_z, top, bottom)


def cut_cysts(cysts: Sequence[Cyst], z: float) -> list[Cyst]:
    """Cross-sections of the cysts in scan `z`, largest last."""
    cut = []
    for cyst in cysts:
        radius = cyst.radius_at(z)
        if radius >= MIN_RADIUS:
            cut.append(replace(cyst, z=z, radius_x=radius))
    return sorted(cut, key=lambda cyst: cyst.radius_x)


def smooth_noise(rng: Generator, sigma: float) -> np.ndarray:
    """(768,) noise of unit variance, smooth over `sigma` columns."""
    white = rng.standard_normal(COLS)
    smooth = gaussian_filter1d(white, sigma)
    return smooth * np.sqrt(2 * np.sqrt(np.pi) * sigma)


def layer_thickness(rng: Generator, eye: Eye, z: float, cysts: Sequence[Cyst]) -> np.ndarray:
    """(7, 768) px: healthy macula with its pit, thickened by oedema, thinning out at the disc."""
    from_fovea = columns_from(eye.fovea, X, z)
    from_rim = columns_from(eye.disc, X, z) - eye.disc_radius

    # oedema, its pit filled first; nerve fibres thicken at the arcades and at the disc's rim
    oedema_x = (X - eye.oedema[0]) / eye.oedema_radius[0]
    oedema_z = (z - eye.oedema[1]) / eye.oedema_radius[1]
    distance = oedema_x**2 + oedema_z**2
    swelling = eye.oedema_px * np.exp(-(distance**1.2))
    at_fovea = np.interp(eye.fovea[0], X, swelling)
    pit = (1 - rising(at_fovea, 0, 90)) * hill(from_fovea, 42)
    ring = hill(from_fovea, 150)
    centre = hill(from_fovea, 60)
    foveola = hill(from_fovea, 35)
    rim = np.exp(-np.clip(from_rim, 0, None) / 50)
    arcade = 0.8 * ((z - eye.fovea[1]) / 20) ** 2
    layers = [
        (6 + 6 * arcade + 24 * rim) * (1 - 0.9 * pit),  # NFL
        (10 + 14 * ring) * (1 - 0.9 * pit) + 0.06 * swelling,  # GCL + IPL
        (5.5 + 4 * ring) * (1 - 0.75 * pit) + 0.22 * swelling,  # INL
        (6.3 + 1.2 * ring) * (1 - 0.6 * pit) + 0.07 * swelling,  # OPL
        15.5 + 7 * ring + 8 * centre + 0.65 * swelling,  # ONL
        4.9 + 3 * foveola,  # IS/OS
        np.full(COLS, 9.3),  # RPE
    ]
    retina = eye.thickness * np.stack(layers)
    for cyst in cysts:
        _bulge(retina, cyst)

    # inner boundaries waver, the surface stays smooth
    total = retina.sum(axis=0)
    for k, amount in enumerate(WAVES):
        fine = smooth_noise(rng, 6)
        coarse = smooth_noise(rng, 40)
        retina[k] *= np.exp(amount * (fine + 0.5 * coarse))
    surface = total * (1 + 0.015 * smooth_noise(rng, 50))
    retina *= surface / retina.sum(axis=0)

    # all but NFL and RPE end at the disc
    left = np.clip(from_rim / 65 + 0.2, 0, 1)
    retina[1:6] *= left**2 * (3 - 2 * left)
    return np.maximum(retina, MIN_LAYER)


def _bulge(retina: np.ndarray, cyst: Cyst) -> None:
    """Thicken the layers (7, 768) that a cyst spans."""
    if cyst.top > 5:  # fluid under the fovea
        height = 0.35 * cyst.radius_x
    else:
        height = 0.5 * max(0.0, cyst.radius_x - 10)
    bulge = height * hill(X - cyst.x, 1.2 * cyst.radius_x + 15)
    first = int(cyst.top)
    last = int(cyst.bottom)
    retina[first : last + 1] += bulge / (last + 1 - first)


def boundary_rows(rng: Generator, eye: Eye, z: float, thickness: np.ndarray) -> np.ndarray:
    """(8, 768) rows of the boundaries: a curved RPE, the layers on top, diving into the disc."""
    centred = X / (COLS / 2) - 1
    from_middle = (z - 30) / 20
    sag = eye.sag_px * (0.8 + 0.5 * from_middle**2)
    curve = eye.tilt_px * centred - sag * centred**2
    inside = eye.disc_radius + 30 - columns_from(eye.disc, X, z)
    dive = eye.cup_px * np.clip(inside / 90, 0, 1.2) ** 2
    rpe = eye.rpe_row + curve + dive + 0.5 * smooth_noise(rng, 15)

    # layers from the RPE upwards
    layers = np.vstack([thickness, np.zeros(COLS)])
    above_rpe = np.cumsum(layers[::-1], axis=0)[::-1]
    rows = rpe - above_rpe

    # within the frame
    too_high = max(0.0, 24 - rows[0].min())
    too_low = max(0.0, rows[7].max() - 440)
    return rows + too_high - too_low
