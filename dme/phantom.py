"""Synthetic retinal B-scans with exact fluid and layer labels: what a fresh machine runs on.

One eye is drawn as three-dimensional anatomy (fovea, disc, oedema, cysts) and cut at the B-scan positions, so scans of
one eye resemble each other. Lengths are in the pixels of a 496 x 768 Spectralis frame ("reference pixels": 3.87 um axial,
11.33 um lateral); depth across scans is counted in B-scans (123 um). Other image sizes sample the same anatomy.

Constants were measured on the 110 annotated scans of Chiu et al. 2015 (Biomed. Opt. Express 6:1172: noise, speckle, frame
shifts, fluid) and on 70 healthy Spectralis scans with 8 graded boundaries (thickness and brightness of the layers).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from dme.bscan import BScan
from dme.errors import InputError

ROWS, COLS = 496, 768  # the reference frame
AXIAL_UM, LATERAL_UM, SPACING_UM = 3.87, 11.33, 123.0
COLS_PER_SCAN = SPACING_UM / LATERAL_UM  # one step across B-scans, in columns
POSITIONS = (10, 15, 20, 25, 28, 30, 32, 35, 40, 45, 50)  # annotated B-scans of a 61-scan volume
GRADED = (99.0, 624.0)  # columns that hold all fluid of the real set
X = np.arange(COLS, dtype=np.float64)
MIN_LAYER = 0.4  # px: the layers end at the disc, yet their boundaries stay ordered

# Grey level (0-255, at a gain that puts the RPE near 160) against layer coordinate u: u = k at boundary k, 0 = ILM ...
# 7 = RPE/choroid; above the ILM and below the RPE one unit is 10 px.
_LEVELS = {
    -1.0: 21, -0.6: 25, -0.3: 34, -0.12: 55, 0.0: 100, 0.15: 136, 0.4: 146, 0.7: 141, 0.9: 120,  # vitreous, NFL
    1.05: 101, 1.5: 101, 1.85: 101, 2.05: 83, 2.3: 75, 2.7: 76, 2.95: 88,  # GCL + IPL, INL
    3.1: 91, 3.4: 95, 3.7: 89, 3.95: 75, 4.15: 60, 4.4: 54, 4.65: 56, 4.75: 72, 4.85: 66, 4.95: 84,  # OPL, ONL, ELM
    5.1: 150, 5.3: 168, 5.5: 156, 5.75: 120, 5.95: 132,  # IS/OS, interdigitation zone
    6.1: 158, 6.35: 164, 6.65: 163, 6.85: 140, 7.0: 114,  # RPE
    7.15: 100, 7.8: 92, 9.0: 72, 10.5: 54, 12.0: 43, 14.0: 34, 17.0: 27, 21.0: 21, 27.0: 15, 40.0: 6,  # choroid
}  # fmt: skip
LEVEL_U = np.array(list(_LEVELS))
LEVEL_LOG = 4 * np.log(np.array(list(_LEVELS.values())) / 255)  # the display shows (linear intensity) ** 1/4

SPECKLE_SD = 0.47  # log-normal: contrast 0.5 and skew 1.7 measured in the NFL
NOISE_SHAPE, NOISE_FLOOR = 2.0, 0.33  # gamma shape; floor subtracted by the device (share of the mean): 13 % exact zeros


@dataclass
class Cyst:
    """An ellipsoid of fluid: centre and radii in columns and B-scans, and the layers (u) that it spans."""

    x: float
    z: float
    radius_x: float
    radius_z: float
    slot: tuple[float, float]
    power: float = 2.4  # exponent of the superellipse
    phase: float = 0.0  # of the waviness of its outline


@dataclass
class Eye:
    """Everything that the scans of one eye share."""

    fovea: tuple[float, float]  # column, B-scan
    disc: tuple[float, float]
    disc_radius: float
    side: int  # the disc lies at the right (+1) or left (-1)
    rpe_row: float
    sag: float  # px by which the RPE rises towards the frame's sides
    tilt: float  # px across half a frame
    frame_tilt: float  # of the registered frame, px across the width
    oedema: tuple[float, float]  # centre
    oedema_radius: tuple[float, float]
    oedema_px: float  # added thickness at the centre
    gain: float  # grey level of the RPE
    noise: float  # grey level of the vitreous
    choroid: float  # depth scale, 1 = average
    foci: float  # expected number of bright dots in a scan
    hyaloid_px: float  # detachment of the posterior hyaloid; 0 = not visible
    cysts: list[Cyst] = field(default_factory=list)


def draw_eye(rng: np.random.Generator, severity: float) -> Eye:
    """An eye with macular oedema; `severity` in 0..1 (0 almost dry) sets thickening and the number and size of cysts."""
    side = int(rng.choice((-1, 1)))
    fovea = (COLS / 2 + rng.normal(0, 20), 30 + rng.normal(0, 1.0))
    off_centre = side * rng.uniform(-130, 30) * (1 - severity)  # mild oedema lies temporal to the fovea
    eye = Eye(
        fovea=fovea,
        disc=(COLS / 2 + side * (COLS / 2 + rng.uniform(-15, 75)), fovea[1] + rng.uniform(1, 5)),
        disc_radius=rng.uniform(70, 88),  # 0.8-1.0 mm
        side=side,
        rpe_row=float(np.clip(rng.normal(228, 24), 190, 300) + 55 * severity**3),
        sag=rng.uniform(15, 85),
        tilt=rng.normal(0, 16),
        frame_tilt=rng.normal(0, 32),
        oedema=(fovea[0] + off_centre, fovea[1] + rng.normal(0, 2.0)),
        oedema_radius=(70 + 110 * severity * rng.uniform(0.7, 1.2), rng.uniform(8, 21)),
        oedema_px=6 + 80 * severity**2 * rng.uniform(0.8, 1.2),
        gain=rng.normal(157, 10),
        noise=rng.normal(32, 4),
        choroid=rng.uniform(0.75, 1.3),
        foci=rng.exponential(9),
        hyaloid_px=rng.uniform(10, 45) * (rng.random() < 0.35),
    )
    eye.cysts = draw_cysts(rng, eye, severity)
    return eye


def draw_cysts(rng: np.random.Generator, eye: Eye, severity: float) -> list[Cyst]:
    """Cysts packed at random, largest first, with septa left between those of one layer.

    Outer cysts fill Henle's layer and the ONL, small inner ones the INL; severe eyes have one through both at the fovea.
    """
    count = int(60 + 120 * severity)
    inner = rng.random(count) < 0.5
    radius = np.where(inner, rng.lognormal(1.5, 0.4, count), rng.lognormal(1.9 + 0.9 * severity, 0.6, count))
    candidates = sorted(zip(np.clip(radius, 2, 55), inner, strict=True), key=lambda c: -c[0])
    cysts = []
    if rng.random() < 1.4 * severity - 0.4:
        size = rng.uniform(16, 42)
        cysts.append(Cyst(*eye.fovea, size, 1.6 * size / COLS_PER_SCAN, (rng.uniform(1.2, 2.0), 4.6)))
    for size, is_inner in candidates:
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random()) * rng.uniform(0.4, 1)
        x = eye.oedema[0] + eye.oedema_radius[0] * reach * np.cos(angle)
        z = eye.oedema[1] + eye.oedema_radius[1] * reach * np.sin(angle)
        low = rng.uniform(2.0, 2.2) if is_inner else rng.uniform(3.2, 3.9)
        high = rng.uniform(2.7, 3.0) if is_inner else rng.uniform(4.4, 4.75)
        cyst = Cyst(x, z, size, size * rng.uniform(1, 2) / COLS_PER_SCAN, (low, high), rng.uniform(2, 3))
        cyst.phase = rng.uniform(0, 2 * np.pi)
        inside = GRADED[0] + size + 1 < x < GRADED[1] - size - 1
        if inside and not any(_touch(cyst, other) for other in cysts):
            cysts.append(cyst)
    if rng.random() < 0.25 * severity:  # fluid under the fovea, between IS/OS and RPE
        cysts.append(Cyst(eye.fovea[0], eye.fovea[1], rng.uniform(14, 40), 3.0, (5.15, 5.95)))
    return cysts


def _touch(a: Cyst, b: Cyst) -> bool:
    """Whether two cysts of one layer come nearer than a septum (2.5 columns)."""
    same_layer = a.slot[0] < b.slot[1] and b.slot[0] < a.slot[1]
    apart = np.hypot(
        (a.x - b.x) / (a.radius_x + b.radius_x + 2.5),
        (a.z - b.z) / (a.radius_z + b.radius_z + 0.2),
    )
    return same_layer and apart < 1


def cut_cysts(cysts: list[Cyst], z: float) -> list[Cyst]:
    """What B-scan `z` shows of the cysts: their cross-sections of at least 1.3 columns radius."""
    cut = []
    for c in cysts:
        share = np.sqrt(max(0.0, 1 - ((z - c.z) / c.radius_z) ** 2))
        if c.radius_x * share >= 1.3:
            cut.append(Cyst(c.x, z, c.radius_x * share, c.radius_z, c.slot, c.power, c.phase))
    return cut


def smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """(768,) noise of unit variance with Gaussian correlation over `sigma` columns."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal(COLS), sigma)
    return noise * np.sqrt(2 * np.sqrt(np.pi) * sigma)


def layer_thickness(rng: np.random.Generator, eye: Eye, z: float, cysts: list[Cyst]) -> np.ndarray:
    """(7, 768) thickness in px: the healthy macula with its pit, then oedema, bulging cysts and the disc's rim."""
    r = np.hypot(X - eye.fovea[0], (z - eye.fovea[1]) * COLS_PER_SCAN)
    ex = (X - eye.oedema[0]) / eye.oedema_radius[0]
    ez = (z - eye.oedema[1]) / eye.oedema_radius[1]
    swelling = eye.oedema_px * np.exp(-((ex**2 + ez**2) ** 1.2))
    flat = np.clip(np.interp(eye.fovea[0], X, swelling) / 45, 0, 1)  # how far oedema fills the pit
    pit = 1 - (1 - flat) * np.exp(-((r / 42) ** 2))
    ring = np.exp(-((r / 150) ** 2))
    disc_r = np.hypot(X - eye.disc[0], (z - eye.disc[1]) * COLS_PER_SCAN)
    rim = np.exp(-np.clip(disc_r - eye.disc_radius, 0, None) / 65)
    arcade = 1 + 0.8 * ((z - eye.fovea[1]) / 20) ** 2  # nerve fibres thicken above and below the macula
    retina = np.stack(
        [
            (6 * arcade * (1 + 0.25 * eye.side * (X / COLS - 0.5)) + 17 * rim) * (0.1 + 0.9 * pit),  # NFL
            (10 + 14 * ring) * (0.1 + 0.9 * pit) + 0.06 * swelling,  # GCL + IPL
            (5.5 + 4 * ring) * (0.25 + 0.75 * pit) + 0.22 * swelling,  # INL
            (6.3 + 1.2 * ring) * (0.4 + 0.6 * pit) + 0.07 * swelling,  # OPL
            15.5 + 7 * ring + 8 * np.exp(-((r / 60) ** 2)) + 0.65 * swelling,  # ONL
            5.6 + 3 * np.exp(-((r / 35) ** 2)),  # IS/OS
            np.full(COLS, 10.7),  # RPE
        ]
    )
    for c in cysts:
        height = 0.75 * c.radius_x if c.slot[1] < 5 else 0.35 * c.radius_x
        bulge = height * np.exp(-(((X - c.x) / (1.3 * c.radius_x + 4)) ** 2))
        for k in range(int(c.slot[0]), int(c.slot[1]) + 1):
            retina[k] += bulge / (int(c.slot[1]) + 1 - int(c.slot[0]))
    for k, amount in enumerate((0.12, 0.05, 0.11, 0.13, 0.03, 0.02, 0.02)):
        retina[k] *= np.exp(amount * smooth_noise(rng, 7) + 0.5 * amount * smooth_noise(rng, 40))
    at_disc = np.clip((disc_r - eye.disc_radius) / 28 + 0.3, 0, 1)  # the layers thin out and end there
    retina[1:6] *= at_disc
    return np.maximum(retina, MIN_LAYER)


def boundary_rows(rng: np.random.Generator, eye: Eye, z: float, thickness: np.ndarray) -> np.ndarray:
    """(8, 768) rows of the boundaries in the registered image: curved RPE, retina on top, dive into the disc."""
    centred = X / (COLS / 2) - 1
    sag = eye.sag * (0.8 + 0.5 * ((z - 30) / 20) ** 2)
    disc_r = np.hypot(X - eye.disc[0], (z - eye.disc[1]) * COLS_PER_SCAN)
    dive = 110 * np.clip((eye.disc_radius + 8 - disc_r) / 60, 0, 1.3) ** 1.5
    rpe = eye.rpe_row - sag * centred**2 + eye.tilt * centred + dive + 0.5 * smooth_noise(rng, 15)
    rows = rpe - np.concatenate([np.cumsum(thickness[::-1], axis=0)[::-1], np.zeros((1, COLS))])
    return rows + max(0.0, 24 - rows[0].min()) - max(0.0, rows[7].max() - 440)


def layer_coordinate(rows: np.ndarray, bounds: np.ndarray, choroid: float) -> np.ndarray:
    """u (H, W) of every pixel: k at boundary k and linear between; 10 px a unit above (to -1) and below (to 40)."""
    knots = np.concatenate([bounds[:1] - 10, bounds, bounds[7:] + 330 * choroid])
    values = np.array([-1, 0, 1, 2, 3, 4, 5, 6, 7, 40], np.float64)
    u = np.empty((bounds.shape[1], len(rows)), np.float32)
    for column, k in zip(u, knots.T, strict=True):
        column[:] = np.interp(rows, k, values)
    return np.ascontiguousarray(u.T)


def value_noise(rng: np.random.Generator, rows: np.ndarray, cols: np.ndarray, dy: float, dx: float) -> np.ndarray:
    """(H, W) smooth noise of unit variance with blobs of about dy x dx px, the same whatever the sampling."""
    knots = rng.standard_normal((int(ROWS / dy) + 4, int(COLS / dx) + 4), dtype=np.float32)
    knots = ndimage.gaussian_filter(knots, 0.7) * 2.5

    def blend(knots: np.ndarray, at: np.ndarray) -> np.ndarray:  # linear interpolation along axis 0
        index = at.astype(np.int64)
        w = (at - index).astype(np.float32)[:, None]
        return knots[index] * (1 - w) + knots[index + 1] * w

    return blend(blend(knots, rows / dy + 1).T, cols / dx + 1).T


def add_disc(log_r: np.ndarray, eye: Eye, z: float, rows: np.ndarray, cols: np.ndarray, ilm: np.ndarray) -> None:
    """Inside the disc the layers end: nerve tissue that fades into deep shadow; a bright streak where the RPE stops."""
    disc_r = np.hypot(cols - eye.disc[0], (z - eye.disc[1]) * COLS_PER_SCAN)
    near = np.flatnonzero(disc_r < eye.disc_radius + 12)
    depth = rows[:, None] - ilm[near]
    tissue = 4 * np.log(105 / 255) - np.clip(depth, 0, 200) / 13
    inside = np.clip((eye.disc_radius - disc_r[near]) / 8 + 0.5, 0, 1) * (depth > 2)
    streak = 1.2 * np.exp(-(((disc_r[near] - eye.disc_radius - 3) / 4) ** 2)) * (depth > 60)
    log_r[:, near] += inside * (tissue - log_r[:, near]) + streak


def add_choroid(rng: np.random.Generator, log_r: np.ndarray, u: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> None:
    """Vessel lumens: small ones below the RPE, large dark ones deeper, fading out with depth."""
    small, large = value_noise(rng, rows, cols, 4, 6), value_noise(rng, rows, cols, 9, 13)
    deep = np.clip((u - 7.8) / 2, 0, 1)
    texture = (1 - 0.6 * deep) * 0.4 * small + (0.25 + 0.75 * deep) * (0.3 * large - 1.1 * np.clip(large - 0.5, 0, 1))
    log_r += texture * (np.clip((u - 7) * 3, 0, 1) * np.clip((16 - u) / 6, 0, 1))


def add_cysts(
    log_r: np.ndarray, cysts: list[Cyst], level: float, rows: np.ndarray, cols: np.ndarray, bounds: np.ndarray
) -> np.ndarray:
    """Paint the cysts as smooth dark superellipses with a thin rim; return their mask, uint8 (H, W).

    The mask holds the pixels whose centre lies in a cyst, and at least the one at the largest cyst's centre, so that
    coarse sampling makes no scan dry.
    """
    fluid = np.zeros(log_r.shape, np.uint8)
    soft = max(1.3, rows[1] - rows[0])  # px over which an edge fades
    for c in sorted(cysts, key=lambda c: c.radius_x):
        near = np.flatnonzero(np.abs(cols - c.x) < c.radius_x + 4)
        top, bottom = (bounds[int(u)] + (u % 1) * (bounds[int(u) + 1] - bounds[int(u)]) for u in c.slot)
        radius_y = np.minimum((bottom - top) / 2, 2.6 * c.radius_x * LATERAL_UM / AXIAL_UM)[near]
        centre = ((top + bottom) / 2)[near]
        centre = centre + 0.1 * radius_y * np.sin(cols[near] * 4 / c.radius_x + c.phase)
        tall = np.flatnonzero((rows > centre.min() - radius_y.max() - 5) & (rows < centre.max() + radius_y.max() + 5))
        dx, dy = np.abs(cols[near] - c.x) / c.radius_x, np.abs(rows[tall, None] - centre) / radius_y
        distance = (1 - (dx**c.power + dy**c.power) ** (1 / c.power)) * np.minimum(c.radius_x, radius_y)
        distance = np.minimum(distance, np.minimum(rows[tall, None] - bounds[0, near] - 2, bounds[6, near] - rows[tall, None] - 1))
        box = np.ix_(tall, near)
        inside = np.clip(distance / soft + 0.5, 0, 1)
        rim = 0.4 * np.exp(-((distance + 1.4) ** 2))
        log_r[box] += inside * (level - log_r[box]) + rim
        fluid[box] |= distance > 0
    if cysts and not fluid.any():
        column = np.abs(cols - c.x).argmin()
        row = np.abs(rows - (top + bottom)[column] / 2).argmin()
        fluid[row, column], log_r[row, column] = 1, level
    return fluid


def add_vessels(rng: np.random.Generator, log_r: np.ndarray, eye: Eye, z: float, u: np.ndarray, cols: np.ndarray) -> None:
    """Retinal vessels, denser towards the disc: a bright wall in the inner retina and a shadow on all below."""
    for _ in range(rng.poisson(11)):
        towards_disc = rng.beta(1.6, 1.0)
        x = COLS / 2 + eye.side * (towards_disc - 0.5) * COLS
        sigma, depth, strength = rng.uniform(1.0, 3.0) * (1 + towards_disc), rng.uniform(0.5, 1.3), rng.uniform(0.4, 2.2)
        if np.hypot(x - eye.fovea[0], (z - eye.fovea[1]) * COLS_PER_SCAN) < 45:  # the foveal zone has none
            continue
        near = np.flatnonzero(np.abs(cols - x) < 3 * sigma)
        across = np.exp(-0.5 * ((cols[near] - x) / sigma) ** 2)
        below = np.clip((u[:, near] - depth) / 0.4, 0, 1)
        log_r[:, near] += across * (0.5 * np.exp(-(((u[:, near] - depth) / 0.3) ** 2)) - strength * below)


def add_foci(rng: np.random.Generator, log_r: np.ndarray, eye: Eye, rows: np.ndarray, cols: np.ndarray, bounds: np.ndarray) -> None:
    """Hyper-reflective foci and hard exudates around the oedema: bright dots of 1-3 px, some in clusters with a shadow."""
    step_y, step_x = rows[1] - rows[0], cols[1] - cols[0]
    for _ in range(rng.poisson(eye.foci)):
        x0, u0 = rng.normal(eye.oedema[0], eye.oedema_radius[0] * 0.8), rng.uniform(1.2, 4.4)
        for _ in range(1 + rng.poisson(3) * int(rng.random() < 0.15)):
            x, at_u, brightness = x0 + rng.normal(0, 5), u0 + rng.normal(0, 0.3), rng.uniform(125, 190)
            sigma_y, sigma_x = rng.uniform(0.9, 2.2) + step_y / 4, rng.uniform(0.8, 1.7) + step_x / 4
            near = np.flatnonzero(np.abs(cols - x) < 3 * sigma_x)
            if not len(near):
                continue
            y = np.interp(np.clip(at_u, 0.8, 4.7), np.arange(8), bounds[:, near[len(near) // 2]])
            tall = np.flatnonzero(np.abs(rows - y) < 3 * sigma_y)
            dot = ((rows[tall, None] - y) / sigma_y) ** 2 + ((cols[near] - x) / sigma_x) ** 2
            box = np.ix_(tall, near)
            log_r[box] = np.maximum(log_r[box], 4 * np.log(brightness / 255) - 0.9 * dot)
            log_r[rows > y + 3 * sigma_y, near[0] : near[-1] + 1] -= rng.uniform(0, 0.35)


def add_hyaloid(rng: np.random.Generator, log_r: np.ndarray, eye: Eye, rows: np.ndarray, cols: np.ndarray, ilm: np.ndarray) -> None:
    """The detached posterior hyaloid: a faint broken line in the vitreous that meets the retina at the disc's side."""
    gap = eye.hyaloid_px * (1 + 0.2 * smooth_noise(rng, 120)) * np.sqrt(np.clip(0.5 - eye.side * (X / COLS - 0.5), 0.02, 1))
    line = ndimage.gaussian_filter1d(ilm, 40 * len(cols) / COLS) - np.interp(cols, X, np.abs(gap) + 6)
    visible = np.interp(cols, X, 58 + 10 * smooth_noise(rng, 30))
    log_line = 4 * np.log(np.clip(visible, 20, 90) / 255) - 0.5 * ((rows[:, None] - line) / 1.2) ** 2
    np.maximum(log_r, np.where(rows[:, None] < ilm - 2, log_line, -99), out=log_r)


def grain(rng: np.random.Generator, shape: tuple[int, int], *parts: tuple[float, float, float]) -> np.ndarray:
    """(H, W) unit-variance Gaussian noise with short correlation: a sum of (weight, axial sigma, lateral sigma) blurs."""
    white = rng.standard_normal(shape, dtype=np.float32)
    total = sum(w * _unit(ndimage.gaussian_filter(white, (sy, sx), truncate=3)) for w, sy, sx in parts)
    return _unit(total)


def _unit(noise: np.ndarray) -> np.ndarray:
    return noise / noise.std()


def detect(rng: np.random.Generator, log_r: np.ndarray, noise_level: float, frame_rows: np.ndarray) -> np.ndarray:
    """Grey levels (H, W) 0-255: speckled signal plus detector noise, less the noise floor, on the fourth-root scale.

    frame_rows: (H, W) row in the unregistered frame; the noise falls with depth as exp(-3.7 (row / 496) ** 1.7).
    """
    height, width = log_r.shape
    sy, sx = height / ROWS, width / COLS
    speckle = grain(rng, log_r.shape, (0.8, 0.95 * sy, 0.85 * sx), (0.45, 1.5 * sy, 2.6 * sx))
    noise = grain(rng, log_r.shape, (1.0, 0.76 * sy, 0.62 * sx))
    averaged = min(1.0, np.sqrt(sy * sx) * 1.6)  # a coarse pixel averages several speckles
    signal = np.exp(log_r + SPECKLE_SD * averaged * speckle - 0.5 * (SPECKLE_SD * averaged) ** 2)
    gamma = (1 - 1 / (9 * NOISE_SHAPE) + averaged * noise / (3 * np.sqrt(NOISE_SHAPE))) ** 3  # Wilson-Hilferty
    profile = (noise_level / 255) ** 4 * np.exp(-3.7 * (np.arange(-ROWS, 2 * ROWS).clip(0) / ROWS) ** 1.7)
    noise = profile.astype(np.float32)[(frame_rows + ROWS).astype(np.int64)] * (gamma - NOISE_FLOOR) * 1.5
    return 255 * np.sqrt(np.sqrt(np.clip(signal + noise, 0, 1)))


def draw_scan(eye: Eye, z: int, seed: tuple[int, ...], height: int, width: int, fluid: bool = True) -> BScan:
    """Cut `eye` at B-scan `z`. Anatomy and texture have streams of their own: the first does not depend on the size."""
    rng, texture = (np.random.default_rng([*seed, z, k]) for k in range(2))
    rows, cols = (np.arange(height) + 0.5) * ROWS / height - 0.5, (np.arange(width) + 0.5) * COLS / width - 0.5
    cysts = cut_cysts(eye.cysts, z) if fluid else []
    bounds_full = boundary_rows(rng, eye, z, layer_thickness(rng, eye, z, cysts))
    bounds = np.stack([np.interp(cols, X, b) for b in bounds_full])
    u = layer_coordinate(rows, bounds, eye.choroid)

    log_r = np.interp(u, LEVEL_U, LEVEL_LOG).astype(np.float32)
    add_choroid(rng, log_r, u, rows, cols)
    log_r += 0.16 * value_noise(rng, rows, cols, 8, 20) * (u > 0)  # uneven tissue
    add_disc(log_r, eye, z, rows, cols, bounds[0])
    add_vessels(rng, log_r, eye, z, u, cols)
    mask = add_cysts(log_r, cysts, 4 * np.log(rng.uniform(40, 52) / 255), rows, cols, bounds)
    add_foci(rng, log_r, eye, rows, cols, bounds)
    if eye.hyaloid_px:
        add_hyaloid(rng, log_r, eye, rows, cols, bounds[0])
    streaks = np.interp(cols, X, 0.16 * smooth_noise(rng, 1.5) + 0.2 * smooth_noise(rng, 6))
    log_r += streaks.astype(np.float32) * np.clip((u - 1) / 2, 0, 1)
    gain = 4 * np.log((eye.gain + rng.normal(0, 6)) / 160) + np.interp(cols, X, 0.25 * smooth_noise(rng, 70))
    edge = np.minimum(cols, COLS - 1 - cols)
    gain += -1.3 * np.exp(-edge / 4)  # the scan's first and last columns are dim
    log_r += gain.astype(np.float32)

    tilt, shift = eye.frame_tilt + rng.normal(0, 12), rng.normal(5, 23)
    slope = tilt * (cols / COLS - 0.5)
    shift = np.clip(shift, (bounds[7] + 20 - ROWS - slope).max(), (bounds[0] - 12 - slope).min())
    offset = np.round((shift + slope) * height / ROWS) * ROWS / height  # whole pixels, as the device registers
    frame_rows = rows[:, None] - offset
    image = detect(texture, log_r, eye.noise + rng.normal(0, 3), frame_rows)
    image[:, edge < 6] *= (1 - 0.35 * np.exp(-edge[edge < 6] / 4)).astype(np.float32)
    side_shift = rng.integers(-3, 4)
    black = rng.exponential(10) * (rng.random() < 0.3)
    lateral = cols if side_shift > 0 else COLS - 1 - cols
    image[:, lateral < abs(side_shift) + black] = 0
    image[:, lateral < abs(side_shift)] = 255
    image[(frame_rows < 0) | (frame_rows > ROWS - 1)] = 255
    return BScan(
        name="",
        image=np.round(image).astype(np.uint8),
        fluid=mask,
        layers=((bounds + 0.5) * height / ROWS - 0.5).astype(np.float32),
        position=z,
        scale_um=(AXIAL_UM * ROWS / height, LATERAL_UM * COLS / width, SPACING_UM),
    )
