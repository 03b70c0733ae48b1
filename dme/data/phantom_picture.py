"""From the phantom's anatomy to a picture: brightness of layers, texture, vessels, cysts, noise.

Constants were measured on the 110 annotated scans of Chiu et al. 2015 (Biomed. Opt. Express
6:1172: noise, speckle, frame shifts, fluid) and on 70 healthy graded Spectralis scans (brightness
of layers).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from scipy.ndimage import gaussian_filter

from dme.bscan import BScan
from dme.data.phantom_anatomy import (
    AXIAL_UM,
    COLS,
    LATERAL_UM,
    ROWS,
    SPACING_UM,
    Cyst,
    Eye,
    X,
    boundary_rows,
    columns_from,
    cut_cysts,
    falling,
    hill,
    layer_thickness,
    rising,
    smooth_noise,
)

# u:grey level. u = k at boundary k (0 ILM ... 7 RPE/choroid), linear between; a unit is 10 px
# above the ILM and below the RPE. A row each: vitreous, NFL, GCL+IPL, INL, OPL, ONL, IS/OS, RPE,
# choroid.
LEVELS = """
    -1:5 -.6:20 -.3:33 -.12:55
    0:100 .15:136 .4:146 .7:141 .9:120
    1.05:101 1.85:101
    2.05:83 2.3:75 2.7:76 2.95:88
    3.1:91 3.4:95 3.7:89
    3.95:75 4.15:60 4.4:54 4.65:56 4.75:72 4.85:66 4.95:84
    5.1:146 5.3:164 5.5:152 5.75:112 5.95:135
    6.1:163 6.35:175 6.65:174 6.85:146
    7:116 7.15:100 7.8:92 9:72 10.5:54 12:41 14:28 16:19 18:12 21:7 40:2
"""
_PAIRS = [pair.split(":") for pair in LEVELS.split()]
LEVEL_U, LEVEL_GREY = np.array(_PAIRS, np.float64).T
LOWEST_U = 40  # at the bottom of the choroid

SPECKLE_SD = 0.47  # of the log intensity: contrast 0.5 and skew 1.7, as in the real NFL
SPECKLE_SIGMAS = ((0.95, 0.7), (1.6, 2.4))  # px and columns of the blurs it is a sum of
NOISE_SIGMAS = ((0.76, 0.62),)
NOISE_SHAPE = 2.0  # of its gamma distribution
NOISE_FLOOR = 0.33  # share of its mean that the device subtracts: 13 % zeros


def log_level(grey: np.ndarray | float) -> np.ndarray | float:
    """Log of the linear intensity that is displayed as `grey`: the device shows its 4th root."""
    return 4 * np.log(grey / 255)


@dataclass
class Canvas:
    """A scan in the making; its pixel centres lie at `rows` and `cols` of the reference frame."""

    rows: np.ndarray  # (H,)
    cols: np.ndarray  # (W,)
    bounds: np.ndarray  # (8, W) boundary rows
    u: np.ndarray  # (H, W) layer coordinate, -1 in the vitreous to 40 at the bottom
    log_r: np.ndarray  # (H, W) log of the linear reflectivity


def draw_scan(
    eye: Eye, subject: int, z: int, seed: int, size: tuple[int, int], wet: bool = True
) -> BScan:
    """Scan `z` of an eye, (height, width) = `size`, without its cysts unless `wet`."""
    height, width = size
    rng = default_rng([seed, subject, z, 1])
    grain_rng = default_rng([seed, subject, z, 2])  # only grain depends on the size

    # anatomy
    cysts = cut_cysts(eye.cysts, z) if wet else []
    thickness = layer_thickness(rng, eye, z, cysts)
    canvas = blank_canvas(eye, boundary_rows(rng, eye, z, thickness), size)
    add_texture(rng, canvas)
    add_disc(eye, z, canvas)
    add_vessels(rng, eye, z, canvas)
    add_foci(rng, eye, canvas)
    fluid = add_cysts(rng, cysts, canvas)

    # what the device makes of it
    from_side = np.minimum(canvas.cols, COLS - 1 - canvas.cols)
    dim = np.exp(-from_side / 4)
    add_shading(rng, eye, canvas, dim)
    frame_rows = canvas.rows[:, None] - frame_offset(rng, eye, canvas)
    noise_grey = eye.noise + rng.normal(0, 3)
    grey = detect(grain_rng, canvas, noise_grey, frame_rows)
    image = grey * (1 - 0.3 * dim)
    blank_outside(rng, image, frame_rows, canvas.cols)
    layers = (canvas.bounds + 0.5) * height / ROWS - 0.5
    return BScan(
        name=f"phantom_s{subject:02d}_b{z:02d}",
        image=np.round(image).astype(np.uint8),
        fluid=fluid,
        layers=layers.astype(np.float32),
        subject=subject,
        position=z,
        scale_um=(AXIAL_UM * ROWS / height, LATERAL_UM * COLS / width, SPACING_UM),
    )


# ---- anatomy ----------------------------------------------------------------------------------


def blank_canvas(eye: Eye, bounds: np.ndarray, size: tuple[int, int]) -> Canvas:
    """Plain layers: every pixel has the brightness of its layer coordinate. bounds: (8, 768)."""
    rows = _centres(size[0], ROWS)
    cols = _centres(size[1], COLS)
    bounds = np.stack([np.interp(cols, X, boundary) for boundary in bounds])

    # layer coordinate of every pixel, column by column
    bottom = bounds[7:] + 330 * eye.choroid
    knots = np.vstack([bounds[:1] - 10, bounds, bottom])  # (10, W)
    knot_u = [-1.0, *range(8), LOWEST_U]
    u = np.empty((len(rows), len(cols)), np.float32)
    for column, column_knots in enumerate(knots.T):
        u[:, column] = np.interp(rows, column_knots, knot_u)

    log_r = np.interp(u, LEVEL_U, log_level(LEVEL_GREY))
    return Canvas(rows, cols, bounds, u, log_r.astype(np.float32))


def _centres(count: int, full: int) -> np.ndarray:
    """Centres of `count` pixels in the coordinates of `full` ones over the same length."""
    return (np.arange(count) + 0.5) * full / count - 0.5


def row_at(bounds: np.ndarray, u: float) -> np.ndarray:
    """Row of layer coordinate `u` in every column of `bounds`."""
    upper = int(u)
    share = u % 1
    return bounds[upper] * (1 - share) + bounds[upper + 1] * share


def blobs(rng: Generator, canvas: Canvas, dy: float, dx: float) -> np.ndarray:
    """(H, W) noise of about unit variance, blobs of about 2 dy x 2 dx at every image size."""
    shape = (int(ROWS / dy) + 4, int(COLS / dx) + 4)
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = 2.5 * gaussian_filter(noise, 0.7)
    # linear interpolation, one axis after the other
    for place in (canvas.rows / dy + 1, canvas.cols / dx + 1):
        low = place.astype(np.int64).clip(0, len(noise) - 2)  # frames of devices reach beyond
        share = (place - low).astype(np.float32).clip(0, 1)[:, None]
        noise = (noise[low] * (1 - share) + noise[low + 1] * share).T
    return noise


def add_texture(rng: Generator, canvas: Canvas) -> None:
    """Uneven tissue; in the choroid dark vessel lumens, small below the RPE, larger deeper.

    They are gone 90 px below it.
    """
    fine = blobs(rng, canvas, 3.5, 5)
    coarse = blobs(rng, canvas, 7, 10)
    deep = rising(canvas.u, 7.8, 2)
    lumens = 0.5 * coarse - 2.2 * np.clip(coarse - 0.3, 0, 1)
    choroid = (0.55 - 0.33 * deep) * fine + (0.25 + 0.75 * deep) * lumens
    below_rpe = np.clip((canvas.u - 7) * 3, 0, 1)
    canvas.log_r += choroid * below_rpe * falling(canvas.u, 16, 6)
    wide = blobs(rng, canvas, 7, 18)
    canvas.log_r += 0.2 * wide * (canvas.u > 0)


def add_disc(eye: Eye, z: float, canvas: Canvas) -> None:
    """In the disc nerve tissue fades into shadow, without layers; the RPE ends in a streak."""
    reach = columns_from(eye.disc, canvas.cols, z)
    near = np.flatnonzero(reach < eye.disc_radius + 12)
    inside = eye.disc_radius - columns_from(eye.disc, canvas.cols[near], z)
    depth = canvas.rows[:, None] - canvas.bounds[0, near]
    tissue = log_level(105) - np.clip(depth, 0, 200) / 20
    share = np.clip(inside / 16 + 0.5, 0, 1) * (depth > 2)
    streak = 1.2 * hill(inside + 3, 4) * (depth > 60)
    layers = canvas.log_r[:, near]
    canvas.log_r[:, near] += share * (tissue - layers) + streak


def add_vessels(rng: Generator, eye: Eye, z: float, canvas: Canvas) -> None:
    """Retinal vessels, denser towards the disc, none at the fovea: bright, with a shadow below."""
    for _ in range(rng.poisson(11)):
        nasal = rng.beta(1.6, 1)
        depth = rng.uniform(0.5, 1.3)
        strength = rng.uniform(0.3, 1.7)
        x = COLS / 2 + eye.side * (nasal - 0.5) * COLS
        sigma = rng.uniform(0.8, 2.2) * (1 + 0.6 * nasal)
        if columns_from(eye.fovea, x, z) <= 45:
            continue
        near = np.flatnonzero(np.abs(canvas.cols - x) < 3 * sigma)
        u = canvas.u[:, near]
        shadow = rising(u, depth, 0.4) * falling(u, 16, 9)
        wall = 0.5 * hill(u - depth, 0.3)
        across = (canvas.cols[near] - x) / sigma
        profile = np.exp(-0.5 * across**2)
        canvas.log_r[:, near] += (wall - strength * shadow) * profile


def add_cysts(rng: Generator, cysts: Sequence[Cyst], canvas: Canvas) -> np.ndarray:
    """Paint the cysts dark with a thin rim; return their mask, uint8 (H, W).

    It holds the pixels whose centre is in a cyst, and at the least the one nearest to the largest
    cyst's centre, so that coarse sampling makes no scan dry.
    """
    fluid = np.zeros(canvas.u.shape, np.uint8)
    level = log_level(rng.uniform(36, 51))
    fade_px = max(1.3, canvas.rows[1] - canvas.rows[0])
    for cyst in cysts:
        reach = cyst.radius_x + 4
        near = np.flatnonzero(np.abs(canvas.cols - cyst.x) < reach)
        inside_px = _depth_in_cyst(cyst, canvas, near)
        share = np.clip(inside_px / fade_px + 0.5, 0, 1)
        rim = 0.4 * hill(inside_px + 1.4, 1)
        tissue = canvas.log_r[:, near]
        canvas.log_r[:, near] += share * (level - tissue) + rim
        fluid[:, near] |= inside_px > 0
    if cysts and not fluid.any():
        largest = cysts[-1]
        column = np.abs(canvas.cols - largest.x).argmin()
        middle = (largest.top + largest.bottom) / 2
        row = np.abs(canvas.u[:, column] - middle).argmin()
        fluid[row, column] = 1
        canvas.log_r[row, column] = level
    return fluid


def _depth_in_cyst(cyst: Cyst, canvas: Canvas, columns: np.ndarray) -> np.ndarray:
    """About how many px the pixels of these columns lie inside a cyst, below 0 outside.

    A cyst is a slightly wavy superellipse within the retina, at most 2.6 times as tall as wide.
    """
    bounds = canvas.bounds[:, columns]
    rows = canvas.rows[:, None]
    top = row_at(bounds, cyst.top)
    bottom = row_at(bounds, cyst.bottom)
    across = (canvas.cols[columns] - cyst.x) / cyst.radius_x
    power = 2.1 + cyst.x % 0.8
    radius_y = np.minimum((bottom - top) / 2, 7.6 * cyst.radius_x)  # 2.6 times as tall in um
    wave = 0.1 * radius_y * np.sin(3 * across + cyst.x)
    centre = (top + bottom) / 2 + wave
    down = (rows - centre) / radius_y
    norm = np.abs(across) ** power + np.abs(down) ** power
    inside_px = (1 - norm ** (1 / power)) * np.minimum(cyst.radius_x, radius_y)
    in_retina_px = np.minimum(rows - bounds[0] - 2, bounds[6] - 1 - rows)
    return np.minimum(inside_px, in_retina_px)


def add_foci(rng: Generator, eye: Eye, canvas: Canvas) -> None:
    """Hyper-reflective foci around the oedema, some in clusters (exudates): dots of 1-3 px."""
    for _ in range(rng.poisson(eye.foci)):
        cluster_x = rng.normal(eye.oedema[0], 0.8 * eye.oedema_radius[0])
        cluster_u = rng.uniform(1.5, 4.2)
        more = rng.poisson(3)
        clustered = rng.random() < 0.15
        for _ in range(1 + more if clustered else 1):
            x = cluster_x + rng.normal(0, 5)
            u = cluster_u + rng.normal(0, 0.2)
            grey = rng.uniform(125, 190)
            sigma_y = rng.uniform(0.9, 2.2)
            sigma_x = rng.uniform(0.8, 1.7)
            near = np.flatnonzero(np.abs(canvas.cols - x) < 3 * sigma_x)
            row = row_at(canvas.bounds[:, near], u)
            dy = (canvas.rows[:, None] - row) / sigma_y
            dx = (canvas.cols[near] - x) / sigma_x
            dot = log_level(grey) - 0.9 * (dy**2 + dx**2)
            tissue = canvas.log_r[:, near]
            canvas.log_r[:, near] = np.maximum(tissue, dot)


# ---- what the device makes of it --------------------------------------------------------------


def add_shading(rng: Generator, eye: Eye, canvas: Canvas, dim: np.ndarray) -> None:
    """Shadows of capillaries, uneven gain, and `dim` (W,) first and last columns."""
    fine = 0.16 * smooth_noise(rng, 1.5)
    coarse = 0.2 * smooth_noise(rng, 6)
    shadows = np.interp(canvas.cols, X, fine + coarse)
    canvas.log_r += shadows * rising(canvas.u, 1, 2) * falling(canvas.u, 20, 12)

    level = log_level(eye.gain + rng.normal(0, 6))
    gain = level - log_level(160) + 0.25 * smooth_noise(rng, 70)
    canvas.log_r += np.interp(canvas.cols, X, gain) - 1.3 * dim


def frame_offset(rng: Generator, eye: Eye, canvas: Canvas) -> np.ndarray:
    """(W,) px by which registration sheared the frame; the retina never leaves the frame.

    They are whole pixels of the scan.
    """
    tilt_px = eye.frame_tilt_px + rng.normal(0, 12)
    slope = tilt_px * (canvas.cols / COLS - 0.5)
    least = (canvas.bounds[7] + 20 - ROWS - slope).max()
    most = (canvas.bounds[0] - 12 - slope).min()
    pixel = canvas.rows[1] - canvas.rows[0]
    offset = np.clip(rng.normal(5, 23), least, most) + slope
    return np.round(offset / pixel) * pixel


def grain(
    rng: Generator, shape: tuple[int, int], sigmas: Sequence[tuple[float, float]]
) -> np.ndarray:
    """(H, W) Gaussian noise of unit variance, correlated as a sum of blurs (px, columns)."""
    white = rng.standard_normal(shape, dtype=np.float32)
    scale = np.array(shape) / (ROWS, COLS)
    total = sum(gaussian_filter(white, sigma * scale, truncate=3) for sigma in sigmas)
    return total / total.std()


def detect(
    rng: Generator, canvas: Canvas, noise_grey: float, frame_rows: np.ndarray
) -> np.ndarray:
    """Grey levels 0-255 (H, W): speckled signal plus noise less its floor, their fourth root.

    frame_rows (H, W): row in the frame as acquired; the noise falls with it as
    exp(-3.7 (row / 496) ** 1.7).
    """
    shape = canvas.u.shape

    # a coarse pixel averages several grains
    size = canvas.u.size / (ROWS * COLS)
    averaged = min(1.0, 1.6 * np.sqrt(size))
    speckle_sd = averaged * SPECKLE_SD
    speckle = speckle_sd * grain(rng, shape, SPECKLE_SIGMAS)
    signal = np.exp(canvas.log_r + speckle - 0.5 * speckle_sd**2)

    # gamma noise of mean 1 from Gaussian noise, after Wilson and Hilferty
    normal = averaged * grain(rng, shape, NOISE_SIGMAS)
    spread = normal / (3 * np.sqrt(NOISE_SHAPE))
    gamma = (1 - 1 / (9 * NOISE_SHAPE) + spread) ** 3
    depth = np.arange(ROWS) / ROWS
    fall = np.exp(-3.7 * depth**1.7)
    power = (noise_grey / 255) ** 4 * fall / (1 - NOISE_FLOOR)
    acquired = frame_rows.clip(0, ROWS - 1).astype(np.int64)
    noise = power.astype(np.float32)[acquired] * (gamma - NOISE_FLOOR)
    intensity = np.clip(signal + noise, 0, 1)
    return 255 * np.sqrt(np.sqrt(intensity))


def blank_outside(
    rng: Generator, image: np.ndarray, frame_rows: np.ndarray, cols: np.ndarray
) -> None:
    """What the frame does not cover is 255: wedges above or below, a few columns.

    At times a black margin lies beside these.
    """
    columns = rng.integers(-3, 4)
    margin = rng.exponential(10)
    black = margin if rng.random() < 0.3 else 0.0
    from_side = cols if columns > 0 else COLS - 1 - cols
    image[:, from_side < abs(columns) + black] = 0
    image[:, from_side < abs(columns)] = 255
    image[(frame_rows < -0.5) | (frame_rows > ROWS - 0.5)] = 255
