"""Synthetic retinal B-scans with exact fluid and layer labels: what a fresh machine runs on.

An eye is three-dimensional anatomy (phantom_anatomy.py) cut at the B-scan positions, so scans of
one eye resemble each other. Here a cut becomes a picture: layer brightness, texture, vessels,
cysts, speckle, noise, and the frame shifted by registration. Other image sizes than 496 x 768
sample the same anatomy.

Constants were measured on the 110 annotated scans of Chiu et al. 2015 (Biomed. Opt. Express
6:1172: noise, speckle, frame shifts, fluid) and on 70 healthy graded Spectralis scans (brightness
of layers).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from scipy.ndimage import gaussian_filter

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.data.phantom_anatomy import (
    AXIAL_UM,
    COLS,
    LATERAL_UM,
    MIN_SIZE,
    POSITIONS,
    ROWS,
    SPACING_UM,
    Cyst,
    Eye,
    X,
    boundary_rows,
    columns_from,
    cut_cysts,
    layer_thickness,
    smooth_noise,
)

VERSION = (
    1  # raise it when any pixel or label changes, here or in phantom_anatomy: caches tell by it
)

# u:grey level. u = k at boundary k (0 ILM ... 7 RPE/choroid), linear between; a unit is 10 px
# above the ILM and below the RPE. From top to bottom: vitreous, NFL, GCL+IPL, INL, OPL, ONL,
# IS/OS, RPE, choroid.
LEVELS = """-1:5 -.6:20 -.3:33 -.12:55
    0:100 .15:136 .4:146 .7:141 .9:120  1.05:101 1.85:101  2.05:83 2.3:75 2.7:76 2.95:88  3.1:91 3.4:95 3.7:89
    3.95:75 4.15:60 4.4:54 4.65:56 4.75:72 4.85:66 4.95:84  5.1:146 5.3:164 5.5:152 5.75:112 5.95:135
    6.1:163 6.35:175 6.65:174 6.85:146  7:116 7.15:100 7.8:92 9:72 10.5:54 12:41 14:28 16:19 18:12 21:7 40:2
"""
LEVEL_U, LEVEL_GREY = np.array([pair.split(":") for pair in LEVELS.split()], np.float64).T
SPECKLE_SD = 0.47  # of the log intensity: contrast 0.5 and skew 1.7, as in the real NFL
NOISE_SHAPE, NOISE_FLOOR = (
    2.0,
    0.33,
)  # gamma; share of its mean that the device subtracts: 13 % zeros


def log_level(grey: np.ndarray | float) -> np.ndarray | float:
    """Log of the linear intensity that is displayed as `grey`: the device shows intensity **
    (1/4).
    """
    return 4 * np.log(grey / 255)


@dataclass
class Canvas:
    """A scan in the making; its pixel centres lie at `rows` (H,) and `cols` (W,) of the reference
    frame.
    """

    rows: np.ndarray
    cols: np.ndarray
    bounds: np.ndarray  # (8, W) boundary rows
    u: np.ndarray  # (H, W) layer coordinate, -1 in the vitreous to 40 at the bottom
    log_r: np.ndarray  # (H, W) log of the linear reflectivity


def blank_canvas(eye: Eye, bounds: np.ndarray, size: tuple[int, int]) -> Canvas:
    """Plain layers: every pixel has the brightness of its layer coordinate. bounds: (8, 768)."""
    rows, cols = (
        (np.arange(n) + 0.5) * full / n - 0.5 for n, full in zip(size, (ROWS, COLS), strict=True)
    )
    bounds = np.stack([np.interp(cols, X, b) for b in bounds])
    knots = np.vstack([bounds[:1] - 10, bounds, bounds[7:] + 330 * eye.choroid])
    u = np.stack([np.interp(rows, k, [-1.0, *range(8), 40]) for k in knots.T], axis=1).astype(
        np.float32
    )
    return Canvas(
        rows, cols, bounds, u, np.interp(u, LEVEL_U, log_level(LEVEL_GREY)).astype(np.float32)
    )


def row_at(bounds: np.ndarray, u: float) -> np.ndarray:
    """Row of layer coordinate `u` in every column of `bounds`."""
    return bounds[int(u)] * (1 - u % 1) + bounds[int(u) + 1] * (u % 1)


def blobs(rng: Generator, c: Canvas, dy: float, dx: float) -> np.ndarray:
    """(H, W) noise of about unit variance with blobs of about 2 dy x 2 dx, the same at every image
    size.
    """
    noise = rng.standard_normal((int(ROWS / dy) + 4, int(COLS / dx) + 4), dtype=np.float32)
    noise = 2.5 * gaussian_filter(noise, 0.7)
    for at in (c.rows / dy + 1, c.cols / dx + 1):  # linear interpolation, one axis after the other
        low = at.astype(np.int64)
        share = (at - low).astype(np.float32)[:, None]
        noise = (noise[low] * (1 - share) + noise[low + 1] * share).T
    return noise


def add_texture(rng: Generator, c: Canvas) -> None:
    """Uneven tissue; in the choroid dark vessel lumens, small below the RPE, larger deeper, gone
    at 90 px.
    """
    fine, coarse = blobs(rng, c, 3.5, 5), blobs(rng, c, 7, 10)
    deep = np.clip((c.u - 7.8) / 2, 0, 1)
    lumens = 0.5 * coarse - 2.2 * np.clip(coarse - 0.3, 0, 1)
    choroid = (0.55 - 0.33 * deep) * fine + (0.25 + 0.75 * deep) * lumens
    c.log_r += choroid * np.clip((c.u - 7) * 3, 0, 1) * np.clip((16 - c.u) / 6, 0, 1)
    c.log_r += 0.2 * blobs(rng, c, 7, 18) * (c.u > 0)


def add_disc(eye: Eye, z: float, c: Canvas) -> None:
    """In the disc: nerve tissue fading into deep shadow, no layers; a bright streak where the RPE
    ends.
    """
    near = np.flatnonzero(columns_from(eye.disc, c.cols, z) < eye.disc_radius + 12)
    inside = eye.disc_radius - columns_from(eye.disc, c.cols[near], z)
    depth = c.rows[:, None] - c.bounds[0, near]
    tissue = log_level(105) - np.clip(depth, 0, 200) / 20
    share = np.clip(inside / 16 + 0.5, 0, 1) * (depth > 2)
    streak = 1.2 * np.exp(-(((inside + 3) / 4) ** 2)) * (depth > 60)
    c.log_r[:, near] += share * (tissue - c.log_r[:, near]) + streak


def add_vessels(rng: Generator, eye: Eye, z: float, c: Canvas) -> None:
    """Retinal vessels, denser towards the disc, none at the fovea: bright, with a shadow on all
    below.
    """
    for _ in range(rng.poisson(11)):
        nasal, depth, strength = rng.beta(1.6, 1), rng.uniform(0.5, 1.3), rng.uniform(0.3, 1.7)
        x, sigma = (
            COLS / 2 + eye.side * (nasal - 0.5) * COLS,
            rng.uniform(0.8, 2.2) * (1 + 0.6 * nasal),
        )
        if columns_from(eye.fovea, x, z) > 45:
            near = np.flatnonzero(np.abs(c.cols - x) < 3 * sigma)
            u = c.u[:, near]
            shadow = np.clip((u - depth) / 0.4, 0, 1) * np.clip((16 - u) / 9, 0, 1)
            wall = 0.5 * np.exp(-(((u - depth) / 0.3) ** 2))
            c.log_r[:, near] += (wall - strength * shadow) * np.exp(
                -0.5 * ((c.cols[near] - x) / sigma) ** 2
            )


def add_cysts(rng: Generator, cysts: list[Cyst], c: Canvas) -> np.ndarray:
    """Paint the cysts as smooth dark superellipses with a thin rim; return their mask, uint8 (H,
    W).

    It holds the pixels whose centre is in a cyst, and at the least the one nearest to the largest
    cyst's centre, so that coarse sampling makes no scan dry.
    """
    fluid, level = np.zeros(c.u.shape, np.uint8), log_level(rng.uniform(36, 51))
    fade_px = max(1.3, c.rows[1] - c.rows[0])
    for cyst in cysts:
        near = np.flatnonzero(np.abs(c.cols - cyst.x) < cyst.radius_x + 4)
        bounds, rows = c.bounds[:, near], c.rows[:, None]
        top, bottom = row_at(bounds, cyst.top), row_at(bounds, cyst.bottom)
        across, power = (c.cols[near] - cyst.x) / cyst.radius_x, 2.1 + cyst.x % 0.8
        radius_y = np.minimum(
            (bottom - top) / 2, 7.6 * cyst.radius_x
        )  # in um, 2.6 times as tall as wide
        centre = (top + bottom) / 2 + 0.1 * radius_y * np.sin(3 * across + cyst.x)  # a little wavy
        norm = np.abs(across) ** power + np.abs((rows - centre) / radius_y) ** power
        inside_px = (1 - norm ** (1 / power)) * np.minimum(cyst.radius_x, radius_y)
        inside_px = np.minimum(inside_px, np.minimum(rows - bounds[0] - 2, bounds[6] - 1 - rows))
        share = np.clip(inside_px / fade_px + 0.5, 0, 1)
        c.log_r[:, near] += share * (level - c.log_r[:, near]) + 0.4 * np.exp(
            -((inside_px + 1.4) ** 2)
        )
        fluid[:, near] |= inside_px > 0
    if cysts and not fluid.any():
        column = np.abs(c.cols - cysts[-1].x).argmin()
        row = np.abs(c.u[:, column] - (cysts[-1].top + cysts[-1].bottom) / 2).argmin()
        fluid[row, column], c.log_r[row, column] = 1, level
    return fluid


def add_foci(rng: Generator, eye: Eye, c: Canvas) -> None:
    """Hyper-reflective foci around the oedema, some in clusters (hard exudates): bright dots of
    1-3 px.
    """
    for _ in range(rng.poisson(eye.foci)):
        x0, u0 = rng.normal(eye.oedema[0], 0.8 * eye.oedema_radius[0]), rng.uniform(1.5, 4.2)
        for _ in range(1 + rng.poisson(3) * int(rng.random() < 0.15)):
            x, u, grey = x0 + rng.normal(0, 5), u0 + rng.normal(0, 0.2), rng.uniform(125, 190)
            sigma_y, sigma_x = rng.uniform(0.9, 2.2), rng.uniform(0.8, 1.7)
            near = np.flatnonzero(np.abs(c.cols - x) < 3 * sigma_x)
            dy = (c.rows[:, None] - row_at(c.bounds[:, near], u)) / sigma_y
            dot = dy**2 + ((c.cols[near] - x) / sigma_x) ** 2
            c.log_r[:, near] = np.maximum(c.log_r[:, near], log_level(grey) - 0.9 * dot)


def grain(rng: Generator, shape: tuple[int, int], *sigmas: tuple[float, float]) -> np.ndarray:
    """(H, W) Gaussian noise of unit variance, correlated as a sum of blurs by `sigmas` (px,
    columns).
    """
    white, scale = rng.standard_normal(shape, dtype=np.float32), np.array(shape) / (ROWS, COLS)
    total = sum(gaussian_filter(white, sigma * scale, truncate=3) for sigma in sigmas)
    return total / total.std()


def detect(rng: Generator, c: Canvas, noise_grey: float, frame_rows: np.ndarray) -> np.ndarray:
    """Grey levels 0-255 (H, W): speckled signal plus noise less its floor, on a fourth-root scale.

    frame_rows (H, W): row in the frame as acquired; the noise falls with it as exp(-3.7 (row /
    496) ** 1.7).
    """
    averaged = min(
        1.0, 1.6 * np.sqrt(c.u.size / (ROWS * COLS))
    )  # a coarse pixel averages several grains
    speckle = averaged * SPECKLE_SD * grain(rng, c.u.shape, (0.95, 0.7), (1.6, 2.4))
    signal = np.exp(c.log_r + speckle - 0.5 * (averaged * SPECKLE_SD) ** 2)
    normal = averaged * grain(rng, c.u.shape, (0.76, 0.62))
    gamma = (
        1 - 1 / (9 * NOISE_SHAPE) + normal / (3 * np.sqrt(NOISE_SHAPE))
    ) ** 3  # Wilson-Hilferty, mean 1
    power = (
        (noise_grey / 255) ** 4
        * np.exp(-3.7 * (np.arange(ROWS) / ROWS) ** 1.7)
        / (1 - NOISE_FLOOR)
    )
    noise = power.astype(np.float32)[frame_rows.clip(0, ROWS - 1).astype(np.int64)] * (
        gamma - NOISE_FLOOR
    )
    return 255 * np.sqrt(np.sqrt(np.clip(signal + noise, 0, 1)))


def frame_offset(rng: Generator, eye: Eye, c: Canvas) -> np.ndarray:
    """(W,) px by which registration sheared the frame, whole pixels; the retina never leaves the
    frame.
    """
    slope = (eye.frame_tilt_px + rng.normal(0, 12)) * (c.cols / COLS - 0.5)
    least, most = (c.bounds[7] + 20 - ROWS - slope).max(), (c.bounds[0] - 12 - slope).min()
    pixel = c.rows[1] - c.rows[0]
    return np.round((np.clip(rng.normal(5, 23), least, most) + slope) / pixel) * pixel


def blank_outside(
    rng: Generator, image: np.ndarray, frame_rows: np.ndarray, cols: np.ndarray
) -> None:
    """What the frame does not cover is 255: wedges above or below, a few columns; at times a black
    margin.
    """
    columns, black = rng.integers(-3, 4), rng.exponential(10) * (rng.random() < 0.3)
    from_side = cols if columns > 0 else COLS - 1 - cols
    image[:, from_side < abs(columns) + black] = 0
    image[:, from_side < abs(columns)] = 255
    image[(frame_rows < -0.5) | (frame_rows > ROWS - 0.5)] = 255


def draw_scan(
    eye: Eye, subject: int, z: int, seed: int, size: tuple[int, int], wet: bool = True
) -> BScan:
    """Scan `z` of an eye, (height, width) = `size`, without its cysts unless `wet`."""
    rng, grain_rng = (
        default_rng([seed, subject, z, k]) for k in (1, 2)
    )  # only grain depends on the size
    cysts = cut_cysts(eye.cysts, z) if wet else []
    c = blank_canvas(eye, boundary_rows(rng, eye, z, layer_thickness(rng, eye, z, cysts)), size)
    add_texture(rng, c)
    add_disc(eye, z, c)
    add_vessels(rng, eye, z, c)
    add_foci(rng, eye, c)
    fluid = add_cysts(rng, cysts, c)
    capillaries = np.interp(
        c.cols, X, 0.16 * smooth_noise(rng, 1.5) + 0.2 * smooth_noise(rng, 6)
    )  # shadows
    c.log_r += capillaries * np.clip((c.u - 1) / 2, 0, 1) * np.clip((20 - c.u) / 12, 0, 1)
    gain = log_level(eye.gain + rng.normal(0, 6)) - log_level(160) + 0.25 * smooth_noise(rng, 70)
    dim = np.exp(-np.minimum(c.cols, COLS - 1 - c.cols) / 4)  # towards the first and last column
    c.log_r += np.interp(c.cols, X, gain) - 1.3 * dim
    frame_rows = c.rows[:, None] - frame_offset(rng, eye, c)
    image = detect(grain_rng, c, eye.noise + rng.normal(0, 3), frame_rows) * (1 - 0.3 * dim)
    blank_outside(rng, image, frame_rows, c.cols)
    return BScan(
        name=f"phantom_s{subject:02d}_b{z:02d}",
        image=np.round(image).astype(np.uint8),
        fluid=fluid,
        layers=((c.bounds + 0.5) * size[0] / ROWS - 0.5).astype(np.float32),
        subject=subject,
        position=z,
        scale_um=(AXIAL_UM * ROWS / size[0], LATERAL_UM * COLS / size[1], SPACING_UM),
    )


def _check(height: int, width: int, seed: int) -> None:
    if min(height, width) < MIN_SIZE:
        found = f"phantom of {height} x {width} pixels"
        raise InputError(f"{found} is too small: ask for at least {MIN_SIZE} x {MIN_SIZE}")
    if seed < 0:
        raise InputError(f"phantom seed {seed} is negative: choose one from 0")


def phantom_bscan(
    seed: int, height: int = ROWS, width: int = COLS, fluid: bool | None = None
) -> BScan:
    """One scan of an eye of its own, subject seed + 1; exact labels: fluid (H, W) 0/1, layers (8,
    W), no NaN.

    fluid: True for a scan with some, False for one without, None as it falls (more than a quarter
    show none, as in the real set). Raises InputError for an image under 32 pixels high or wide or
    a negative seed.
    """
    _check(height, width, seed)
    rng = default_rng([seed])
    eye = Eye(rng, rng.random())
    wet = [z for z in range(POSITIONS[0], POSITIONS[-1] + 1) if cut_cysts(eye.cysts, z)]
    z = int(rng.choice(wet if fluid else POSITIONS))
    return draw_scan(eye, seed + 1, z, seed, (height, width), wet=fluid is not False)


def phantom_set(
    subjects: int = 10,
    scans_per_subject: int = 11,
    height: int = ROWS,
    width: int = COLS,
    seed: int = 0,
) -> Iterator[BScan]:
    """Scans of `subjects` eyes, one after the other, laid out as the real set; severity is spread
    evenly.

    Labels as in `phantom_bscan`; 0.8 % of all pixels are fluid, 29 % of the scans empty (means
    over seeds).
    Raises InputError for no subject, for other than 1-20 scans each, and for what `phantom_bscan`
    refuses.
    """
    _check(height, width, seed)
    if subjects < 1 or not 1 <= scans_per_subject <= 20:
        found = f"{subjects} subjects with {scans_per_subject} scans each"
        raise InputError(f"phantom set of {found}: ask for at least 1 subject and for 1-20 scans")
    rank = (
        np.arange(1, scans_per_subject + 1) * 12 / (scans_per_subject + 1) - 1
    )  # 0, 1 ... 10 for 11 scans
    positions = np.floor(np.interp(rank, range(11), POSITIONS) + 0.5).astype(int)
    order = default_rng([seed]).permutation(subjects)

    def scans() -> Iterator[BScan]:
        for subject in range(1, subjects + 1):
            rng = default_rng([seed, subject])
            eye = Eye(rng, (order[subject - 1] + rng.random()) / subjects)
            for z in positions:
                yield draw_scan(eye, subject, int(z), seed, (height, width))

    return scans()
