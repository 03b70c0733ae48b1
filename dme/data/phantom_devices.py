"""Synthetic B-scans of several device characters, with fluid in, under and below the retina.

IRF: cysts in the retina. SRF: between photoreceptors and pigment epithelium (RPE), both of which
it parts. PED: below the RPE, which it lifts off Bruch's membrane with all that lies above. No
device is copied: pixel sizes, grain, noise and contrast curves are spread as those of instruments
of the market are, and vary from eye to eye.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, default_rng
from scipy.ndimage import gaussian_filter

from dme.bscan import BScan
from dme.data.phantom_anatomy import (
    AXIAL_UM,
    COLS,
    LATERAL_UM,
    Eye,
    X,
    boundary_rows,
    cut_cysts,
    layer_thickness,
    smooth_noise,
)
from dme.data.phantom_picture import (
    LEVEL_GREY,
    LEVEL_U,
    LOWEST_U,
    Canvas,
    add_cysts,
    add_disc,
    add_foci,
    add_shading,
    add_texture,
    add_vessels,
    blobs,
    log_level,
)

# raise it when any pixel or label changes, in this file or those that it draws with
VERSION = 1
KINDS = ("irf", "srf", "ped")
FOVEAL = (22, 39)  # B-scans, of 61, through the macula
MARGIN_PX = 12  # rows of the reference frame above and below what is shown of the retina
LEAST_GAP_PX = 1.5  # rows; thinner clefts are not seen
PER_KIND = 12  # scans of the held-out device


@dataclass(frozen=True)
class Device:
    """What an instrument and its export make of an eye. Lengths are in its own pixels."""

    axial_um: float
    lateral_um: float
    height: int
    width: int
    speckle: float  # standard deviation of the log intensity
    grain: tuple[float, float]  # blur of speckle, down and across
    blur: tuple[float, float]  # of the optics, down and across
    noise_grey: float  # mean noise, as a grey value of the reference device
    decades: float  # dynamic range of a logarithmic display; 0: fourth root, as the reference
    roll_off: float  # natural logarithms of intensity lost from the top of the frame to its end
    motion: float  # px of the reference frame by which columns are out of place

    @property
    def span(self) -> tuple[float, float]:
        """Rows and columns of the reference frame that its frame covers."""
        return self.height * self.axial_um / AXIAL_UM, self.width * self.lateral_um / LATERAL_UM


DEVICES = (
    Device(3.87, 11.33, 496, 768, 0.47, (0.9, 0.7), (0.0, 0.0), 32, 0.0, 0.0, 0.0),
    Device(1.95, 11.7, 1024, 512, 0.95, (1.4, 0.6), (1.2, 0.4), 46, 3.6, 1.0, 0.8),
    Device(2.6, 11.7, 760, 512, 0.6, (1.2, 0.8), (0.8, 0.5), 40, 4.2, 1.6, 0.4),
    Device(5.5, 23.4, 380, 256, 0.8, (0.7, 0.5), (0.5, 0.3), 52, 3.2, 0.5, 0.6),
    Device(7.8, 23.4, 256, 256, 0.5, (0.6, 0.5), (0.4, 0.4), 44, 0.0, 0.8, 0.2),
)
# no training sees it: what a network finds in its scans is a measure of what it makes of others
HELD_OUT = Device(3.1, 15.6, 640, 384, 0.75, (1.0, 0.6), (0.9, 0.7), 48, 2.8, 1.2, 0.5)


def training_scans(count: int, seed: int = 0) -> Iterator[BScan]:
    """Scans of as many eyes, of DEVICES in turn; a fifth without fluid."""
    for number in range(count):
        rng = default_rng([seed, number, 11])
        kinds = tuple(kind for kind in KINDS if rng.random() < 0.5)
        if number % 5 == 4:
            kinds = ()
        elif not kinds:
            kinds = (KINDS[number % 3],)
        yield device_scan(rng, _varied(rng, DEVICES[number % len(DEVICES)]), kinds, number)


def held_out_scans() -> Iterator[BScan]:
    """Scans of HELD_OUT: PER_KIND with fluid of each of KINDS alone, a quarter without any.

    Each is of an eye of its own, subject 1 to PER_KIND of the first kind and so on.
    """
    for number in range(PER_KIND * len(KINDS)):
        rng = default_rng([1, number, 12])
        dry = number % 4 == 3
        kinds = () if dry else (KINDS[number // PER_KIND],)
        yield device_scan(rng, HELD_OUT, kinds, number)


def _varied(rng: Generator, device: Device) -> Device:
    """A device as it is with another eye, setting and export."""
    return Device(
        axial_um=device.axial_um,
        lateral_um=device.lateral_um,
        height=device.height,
        width=device.width,
        speckle=device.speckle * rng.uniform(0.6, 1.4),
        grain=tuple(sigma * rng.uniform(0.7, 1.4) for sigma in device.grain),
        blur=tuple(sigma * rng.uniform(0.3, 2.0) for sigma in device.blur),
        noise_grey=device.noise_grey * rng.uniform(0.8, 1.25),
        decades=device.decades * rng.uniform(0.85, 1.2),
        roll_off=device.roll_off * rng.uniform(0, 2),
        motion=device.motion * rng.uniform(0, 2),
    )


def device_scan(rng: Generator, device: Device, kinds: tuple[str, ...], number: int) -> BScan:
    """One scan of an eye of its own; its fluid is of these KINDS, at least a pixel of each."""
    eye = Eye(rng, rng.uniform(0.35, 1.0) if "irf" in kinds else rng.uniform(0, 0.5))
    z = int(rng.integers(*FOVEAL))
    cysts = []
    if "irf" in kinds:
        cysts = [cyst for cyst in cut_cysts(eye.cysts, z) if cyst.top < 5]

    # where the layers lie, lifted by what collects below them
    thickness = layer_thickness(rng, eye, z, cysts)
    rows = boundary_rows(rng, eye, z, thickness) + device.motion * smooth_noise(rng, 2)
    subretinal = _domes(rng, 1, (10, 75), (50, 190)) if "srf" in kinds else np.zeros(COLS)
    detached = np.zeros(COLS)
    if "ped" in kinds:
        detached = _domes(rng, int(rng.integers(1, 4)), (7, 70), (22, 110))
    lifted = Lifted(rows, subretinal, detached)
    canvas = _canvas(rng, device, lifted)

    # what lies in them
    add_texture(rng, canvas)
    add_disc(eye, z, canvas)
    add_vessels(rng, eye, z, canvas)
    add_foci(rng, eye, canvas)
    fluid = add_cysts(rng, cysts, canvas)
    fluid |= _fill(rng, canvas, *lifted.cleft(canvas.cols), cloudy=0.15)
    fluid |= _fill(rng, canvas, *lifted.below(canvas.cols), cloudy=0.5)
    _draw_bruch(canvas, lifted)
    add_shading(rng, eye, canvas, np.zeros(device.width))
    return BScan(
        name=f"device_{number:03d}_{'_'.join(kinds) or 'dry'}",
        image=_detect(rng, device, canvas),
        fluid=fluid,
        subject=number + 1,
        scale_um=(device.axial_um, device.lateral_um, 123.0),
    )


# ---- anatomy


@dataclass(frozen=True)
class Lifted:
    """Boundaries (8, 768) as without fluid, and by how many px it lifts what lies above it."""

    rows: np.ndarray
    subretinal: np.ndarray  # (768,) between photoreceptors and RPE
    detached: np.ndarray  # (768,) between RPE and Bruch's membrane

    def bounds(self) -> np.ndarray:
        """(8, 768): the last two are those of the RPE."""
        lifted = self.rows - self.detached
        lifted[:6] -= self.subretinal
        return lifted

    def cleft(self, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top and bottom (W,) of subretinal fluid."""
        bottom = self.rows[6] - self.detached
        return np.interp(cols, X, bottom - self.subretinal), np.interp(cols, X, bottom)

    def below(self, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Top and bottom (W,) of fluid below the RPE."""
        bruch = self.rows[7]
        return np.interp(cols, X, bruch - self.detached), np.interp(cols, X, bruch)


def _domes(
    rng: Generator, count: int, heights: tuple[float, float], radii: tuple[float, float]
) -> np.ndarray:
    """Height (768,) in px of `count` domes over the middle of the frame, slightly uneven."""
    total = np.zeros(COLS)
    for _ in range(count):
        radius = rng.uniform(*radii)
        height = min(rng.uniform(*heights), 0.8 * radius)
        centre = rng.normal(COLS / 2, 90)
        across = np.clip(1 - ((X - centre) / radius) ** 2, 0, None)
        total = np.maximum(total, height * across ** rng.uniform(0.6, 1.4))
    uneven = 1 + 0.08 * smooth_noise(rng, 12)
    return total * np.clip(uneven, 0.5, 1.5)


def _canvas(rng: Generator, device: Device, lifted: Lifted) -> Canvas:
    """The part of the eye that the device's frame covers, plain layers."""
    # the frame, so that it holds the retina where it can
    bounds = lifted.bounds()
    tall, wide = device.span
    left = rng.uniform(0, max(0.0, COLS - wide))
    cols = left + (np.arange(device.width) + 0.5) * device.lateral_um / LATERAL_UM - 0.5
    cols = cols.clip(0, COLS - 1)
    lowest = bounds[0].min() - MARGIN_PX
    highest = lifted.rows[7].max() + MARGIN_PX + 60 - tall
    top = rng.uniform(min(lowest, highest), max(lowest, highest))
    rows = top + (np.arange(device.height) + 0.5) * device.axial_um / AXIAL_UM - 0.5

    # layer coordinate of every pixel; where nothing is lifted, clefts are empty
    bottom = lifted.rows[7] + 330
    edges = [bounds[0] - 10, *bounds[:6], lifted.cleft(X)[0], bounds[6], bounds[7]]
    knots = np.stack([*edges, lifted.rows[7], bottom])
    knots = np.stack([np.interp(cols, X, knot) for knot in knots])
    knot_u = [-1.0, 0, 1, 2, 3, 4, 5, 5.95, 6, 7, 7.15, LOWEST_U]
    u = np.empty((device.height, device.width), np.float32)
    for column, column_knots in enumerate(knots.T):
        u[:, column] = np.interp(rows, column_knots, knot_u)
    log_r = np.interp(u, LEVEL_U, log_level(LEVEL_GREY)).astype(np.float32)
    return Canvas(rows, cols, np.stack([np.interp(cols, X, b) for b in bounds]), u, log_r)


def _fill(
    rng: Generator, canvas: Canvas, top: np.ndarray, bottom: np.ndarray, cloudy: float
) -> np.ndarray:
    """Paint fluid between two rows (W,), dark, or with a share `cloudy` of grey and texture.

    Returns its mask, uint8 (H, W).
    """
    rows = canvas.rows[:, None]
    inside_px = np.minimum(rows - top, bottom - rows)
    inside_px = np.where(bottom - top > LEAST_GAP_PX, inside_px, -1.0)
    pixel = canvas.rows[1] - canvas.rows[0]
    share = np.clip(inside_px / max(1.0, pixel) + 0.5, 0, 1) * (bottom - top > LEAST_GAP_PX)
    level = log_level(rng.uniform(32, 50))
    if rng.random() < cloudy:
        level = log_level(rng.uniform(60, 110)) + 0.5 * blobs(rng, canvas, 5, 8)
    canvas.log_r += (share * (level - canvas.log_r)).astype(np.float32)
    return (inside_px > 0).astype(np.uint8)


def _draw_bruch(canvas: Canvas, lifted: Lifted) -> None:
    """Bruch's membrane, a thin line where the RPE is off it."""
    top, bottom = lifted.below(canvas.cols)
    line = np.exp(-(((canvas.rows[:, None] - bottom) / 1.2) ** 2))
    canvas.log_r += (1.6 * line * np.clip((bottom - top - 3) / 3, 0, 1)).astype(np.float32)


# ---- what the device makes of it


def _detect(rng: Generator, device: Device, canvas: Canvas) -> np.ndarray:
    """Grey values, uint8 (H, W): blurred reflectivity, speckle, noise and a contrast curve."""
    shape = canvas.u.shape
    depth = np.arange(shape[0])[:, None] / shape[0]
    signal = np.exp(canvas.log_r - device.roll_off * depth)
    signal = gaussian_filter(signal, device.blur, truncate=3)

    speckle = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), device.grain)
    speckle *= device.speckle / speckle.std()
    noise = gaussian_filter(rng.exponential(size=shape).astype(np.float32), 0.4)
    power = (device.noise_grey / 255) ** 4
    intensity = signal * np.exp(speckle - 0.5 * device.speckle**2) + power * noise

    if device.decades:  # a logarithmic display
        level = 1 + np.log10(np.maximum(intensity, 1e-9) / 0.5) / device.decades
    else:
        level = np.sqrt(np.sqrt(intensity))
    return np.rint(255 * level.clip(0, 1)).astype(np.uint8)
