"""Draws a training batch from scans held in memory, on their device.

Image and mask share one geometry (image bilinear, mask nearest), computed over the output crop
only. Without rotation and scaling it is an integer crop, flip and shift: pixels are copied bit for
bit. Everything random is a function of (seed, step, position in the global batch), so a resumed
run and one split over several ranks draw the same samples.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.ops.crops import sample_crops
from dme.training.settings import Augment

REDRAWS = 10  # of a crop that one class covers, before it is taken as it is
LARGEST_FRAME = 1.5  # of whole scans, times the median height and width

# OpenMMLab's PhotoMetricDistortion
LIGHT_RANGE = 32  # of 255
COLOUR_RANGE = 0.5  # of the factors of contrast and saturation
HUE_RANGE = 36 / 60  # in sextants: 18 of OpenCV's units of 2 degrees


@dataclass
class TrainingSet:
    """Scans in memory, on the device, and their names.

    images: uint8, grey (H, W) or RGB (3, H, W). masks: uint8 (H, W), of 0..C-1 and 255.
    fluid: the label that `Augment.on_fluid` looks for, None without fluid.
    unlabelled: scans that are learnt from beside these, whose masks are 0 throughout.
    chosen_by: the masks on the CPU, where crops are chosen: the host never waits for the device.
    """

    images: list[Tensor]
    masks: list[Tensor]
    names: list[str]
    fluid: int | None = 1
    unlabelled: "TrainingSet | None" = None
    chosen_by: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.chosen_by = [mask.cpu() for mask in self.masks]

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        """Heights and widths of the scans, each from the smallest to the largest."""
        shapes = [tuple(mask.shape) for mask in self.masks]
        return sorted(height for height, _ in shapes), sorted(width for _, width in shapes)

    def frame(self, crop: int) -> tuple[int, int]:
        """Height and width of every sample: the crop's, without one that of whole scans.

        Where scans differ that of the largest, of which smaller ones cover a part; none is more
        than half as large again as the median: of a scan beyond that a random part is taken.
        """
        if crop:
            return crop, crop
        height, width = (_common(sides) for sides in self.sides)
        return height, width

    def shares(self, num_classes: int) -> Tensor:
        """Of each class among annotated pixels, float32 (num_classes,).

        One pixel is added to each class: none has a share of 0.
        """
        counts = torch.ones(num_classes, dtype=torch.int64)
        for mask in self.chosen_by:
            counts += torch.bincount(mask.flatten(), minlength=256)[:num_classes]
        return counts / counts.sum()

    def fingerprint(self) -> str:
        """Tells whether two runs train on the same scans."""
        crc = zlib.crc32(" ".join(self.names).encode())
        for pixels in (*self.images, *self.chosen_by):
            crc = zlib.crc32(pixels.cpu().contiguous().numpy(), crc)
        text = f"{len(self.names)} scans, crc32 {crc:08x}"
        if self.unlabelled is None:
            return text
        return f"{text}; unlabelled: {self.unlabelled.fingerprint()}"


def batch_indices(num_scans: int, batch: int, step: int, seed: int) -> list[int]:
    """The scans of global batch `step` (from 0): consecutive pieces of endless shuffled epochs."""
    orders: dict[int, list[int]] = {}
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, num_scans)
        if epoch not in orders:
            generator = _generator(seed, epoch)
            orders[epoch] = torch.randperm(num_scans, generator=generator).tolist()
        indices.append(orders[epoch][place])
    return indices


def sample_batch(
    data: TrainingSet,
    indices: Sequence[int],
    augment: Augment,
    seed: int,
    step: int,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Augmented samples `indices`: image float32 (B, C, S, S), 0..255, and labels int64 (B, S, S).

    S is the crop, or (H, W) of the whole image (`TrainingSet.frame`). offset: position of
    indices[0] in the global batch. Pixels from outside the frame are 0 in the image and 255
    (ignored) in the labels. Speckle is drawn on the images' device: CPU and GPU draw different
    noise, everything else agrees. Which settings fit the scans `check_fit` says.
    """
    # of each sample its own draws
    frame = data.frame(augment.crop)
    crops = []
    parameters = []
    noise_seeds = []
    for place, index in enumerate(indices):
        generator = _generator(seed, step, offset + place)
        parameters.append(_draw_photometric(augment, generator))
        noise_seeds.append(int(torch.randint(1 << 62, (), generator=generator)))
        labels = data.chosen_by[index]
        crops.append(_draw_crop(labels, data.fluid, frame, augment, generator))

    # all of them at once
    images = [data.images[i] for i in indices]
    masks = [data.masks[i] for i in indices]
    geometry = torch.tensor(crops, dtype=torch.float64)
    x, labels, inside = sample_crops(images, masks, geometry, *frame)
    x = _photometric(x, inside, torch.tensor(parameters), augment)
    if augment.noise:
        _add_noise(x, augment.noise, noise_seeds)
    return x.clamp_(0, 255).mul_(inside[:, None]), labels.long()


def _generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose seed is a hash of the numbers."""
    content = struct.pack(f"<{len(numbers)}q", *numbers)
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def check_fit(data: TrainingSet, augment: Augment) -> None:
    """Raise InputError for a crop larger than every scan, and for `colour` with grey scans."""
    sets = {"scan": data}
    if data.unlabelled is not None:
        sets["unlabelled scan"] = data.unlabelled
    for noun, scans in sets.items():
        heights, widths = scans.sides
        if augment.crop > max(heights[-1], widths[-1]):
            raise InputError(
                f"crop {augment.crop} is larger than every {noun}, of at most "
                f"{heights[-1]} x {widths[-1]} pixels: choose a smaller crop"
            )
    if augment.colour and any(image.ndim != 3 for image in data.images):
        raise InputError(
            "colour augmentation needs RGB images, found grey: use brightness, contrast, gamma"
        )


def fit_note(data: TrainingSet, augment: Augment) -> str | None:
    """What is done to scans that do not fill a sample, or more; None if all do."""
    heights, widths = data.sides
    height, width = data.frame(augment.crop)
    smaller = heights[0] < height or widths[0] < width
    larger = not augment.crop and (heights[-1] > height or widths[-1] > width)
    if not (smaller or larger):
        return None
    sizes = f"{heights[0]} to {heights[-1]} px high, {widths[0]} to {widths[-1]} px wide"
    parts = []
    if smaller:
        parts.append("what they do not cover is unknown and teaches nothing")
    if larger:
        parts.append("of larger scans a part is drawn each time")
    return f"training scans are {sizes}, samples {height} x {width} px: {'; '.join(parts)}"


def _common(sides: list[int]) -> int:
    """The side of a frame for scans of these sides, in rising order; see `TrainingSet.frame`."""
    median = sides[len(sides) // 2]
    return min(sides[-1], int(LARGEST_FRAME * median))


# Geometry. A box is (top, left, height, width) in pixels of the scaled frame; it may reach beyond
# the frame.


def _draw_crop(
    labels: Tensor,
    fluid: int | None,
    frame: tuple[int, int],
    augment: Augment,
    generator: torch.Generator,
) -> list[float]:
    """A random crop of a scan with `labels` (H, W): a row of `sample_crops`' geometry.

    frame: height and width of the crop.
    """
    # the frame: its scale, turn and shift
    draws = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    zoom, turn, down, right, mirror = draws
    smallest, largest = augment.zoom_factors
    ratio = smallest + zoom * (largest - smallest)
    height = max(1, int(labels.shape[0] * ratio + 0.5))
    width = max(1, int(labels.shape[1] * ratio + 0.5))
    # source pixels per pixel of the scaled frame
    step = (labels.shape[0] / height, labels.shape[1] / width)
    angle = math.radians(augment.rotate) * (2 * turn - 1)
    shift_y = round(augment.shift * (2 * down - 1) * height)
    shift_x = round(augment.shift * (2 * right - 1) * width)

    # the crop in it, drawn again while one class covers too much
    out_h, out_w = frame
    beyond = round(augment.border * augment.crop)
    row, column = _draw_target(labels, fluid, step, augment.on_fluid, generator)
    redraws = REDRAWS if augment.crop and augment.max_class_share < 1 else 0
    for attempt in range(redraws + 1):
        top = _draw_origin(height, out_h, beyond, row, generator) - shift_y
        left = _draw_origin(width, out_w, beyond, column, generator) - shift_x
        if attempt < redraws:
            box = _box_labels(labels, (top, left, out_h, out_w), step)
            if _is_mixed(box, augment.max_class_share):
                break

    mirrored = augment.flip and mirror < 0.5
    return [top, left, *step, angle, mirrored]


def _draw_target(
    labels: Tensor,
    fluid: int | None,
    step: tuple[float, float],
    probability: float,
    generator: torch.Generator,
) -> tuple[int, int] | tuple[None, None]:
    """(row, column) in the scaled frame of a fluid pixel that the crop must hold.

    (None, None) without such a pixel, and where the crop is not to be placed on fluid.
    """
    pixel = _pixel_of(fluid, labels, generator) if probability else None
    if pixel is None or torch.rand((), generator=generator).item() >= probability:
        return None, None
    row, column = pixel
    return int((row + 0.5) / step[0]), int((column + 0.5) / step[1])


def _pixel_of(label: int | None, mask: Tensor, generator: torch.Generator) -> tuple | None:
    """(row, column) of a random pixel of that class, if there is one."""
    pixels = (mask.flatten() == label).nonzero()
    if not len(pixels):
        return None
    chosen = int(torch.randint(len(pixels), (), generator=generator))
    return divmod(int(pixels[chosen]), mask.shape[1])


def _draw_origin(
    size: int, crop: int, beyond: int, target: int | None, generator: torch.Generator
) -> int:
    """Uniform over the integers that keep the crop in the frame, or a smaller frame in the crop.

    beyond: drawn from a range longer by this at both ends, then moved back.
    target: the crop must hold it.
    """
    low, high = sorted((0, size - crop))
    first = low - beyond
    last = high + beyond
    if target is not None:
        first = max(first, target - crop + 1)
        last = min(last, target)
    origin = int(torch.randint(first, last + 1, (), generator=generator))
    return min(max(origin, low), high)


def _box_labels(mask: Tensor, box: tuple[int, int, int, int], step: tuple[float, float]) -> Tensor:
    """The labels in a box before its rotation; every n-th one where the frame is scaled down."""
    top, left, height, width = box
    rows = _source_range(top, height, step[0])
    columns = _source_range(left, width, step[1])
    return mask[rows, columns]


def _source_range(start: int, length: int, step: float) -> slice:
    """The source pixels of a range of the scaled frame."""
    first = max(0, round(start * step))
    end = max(0, round((start + length) * step))
    return slice(first, end, max(1, int(step)))


def _is_mixed(labels: Tensor, max_class_share: float) -> bool:
    """Whether the largest class covers less than this share (below 1) of the valid pixels."""
    # mostly class 0 is the largest by far, and counting zeros takes half the time
    if labels.numel() - labels.count_nonzero() >= max_class_share * labels.numel():
        return False
    counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
    largest, total = torch.stack([counts.max(), counts.sum()]).tolist()
    return largest < max_class_share * total


# Grey values and colours.


class Photometric(NamedTuple):
    """What happens to a sample's values; the last five belong to `colour`."""

    brightness: float  # added
    contrast: float  # factor about the mean
    gamma: float  # exponent
    light: float  # added
    contrast_first: float  # factor before saturation and hue
    contrast_last: float  # factor after them
    saturation: float  # factor
    hue: float  # added, in sextants of the circle


def _draw_photometric(augment: Augment, generator: torch.Generator) -> Photometric:
    draws = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    signed = [2 * u - 1 for u in draws[:7]]  # -1..1
    brightness, contrast, gamma, light, colour_contrast, saturation, hue = signed
    coins = [u < 0.5 for u in draws[7:]]
    with_light, with_contrast, contrast_comes_first, with_saturation, with_hue = coins

    factor = 1 + COLOUR_RANGE * colour_contrast if with_contrast else 1.0
    return Photometric(
        brightness=255 * augment.brightness * brightness,
        contrast=1 + augment.contrast * contrast,
        gamma=(1 + augment.gamma) ** gamma,
        light=LIGHT_RANGE * light if with_light else 0.0,
        contrast_first=factor if contrast_comes_first else 1.0,
        contrast_last=1.0 if contrast_comes_first else factor,
        saturation=1 + COLOUR_RANGE * saturation if with_saturation else 1.0,
        hue=HUE_RANGE * hue if with_hue else 0.0,
    )


def _photometric(x: Tensor, inside: Tensor, parameters: Tensor, augment: Augment) -> Tensor:
    """x float32 (B, C, H, W) changed by `parameters`, a row of them a Photometric.

    inside: (B, H, W), the pixels whose mean counts. Every step clamps to 0..255.
    """
    parameters = parameters.to(x.device, non_blocking=True)
    of = Photometric(*parameters.T[..., None, None, None])  # (B, 1, 1, 1) each
    if augment.brightness:
        x = (x + of.brightness).clamp_(0, 255)
    if augment.contrast:
        valid = inside[:, None]
        count = (valid.sum((1, 2, 3), keepdim=True) * x.shape[1]).clamp_min(1)
        mean = (x * valid).sum((1, 2, 3), keepdim=True) / count
        x = torch.lerp(mean, x, of.contrast).clamp_(0, 255)
    if augment.gamma:
        x = (x / 255).pow_(of.gamma).mul_(255)
    if augment.colour:
        x = (x + of.light).clamp_(0, 255)
        x = (x * of.contrast_first).clamp_(0, 255)
        x = _saturate_and_turn(x, of.saturation, of.hue)
        x = (x * of.contrast_last).clamp_(0, 255)
    return x


def _saturate_and_turn(rgb: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """RGB (B, 3, H, W): HSV saturation times `saturation` (at most 1), hue plus `hue` sextants."""
    # to hue, saturation and value; (B, 1, H, W) each
    red, green, blue = rgb.split(1, dim=1)
    value = rgb.amax(1, keepdim=True)
    chroma = value - rgb.amin(1, keepdim=True)
    from_red = (green - blue) / chroma
    from_green = (blue - red) / chroma + 2
    from_blue = (red - green) / chroma + 4
    sextant = torch.where(value == green, from_green, from_blue).where(value != red, from_red)
    sextant = sextant.where(chroma > 0, 0)  # grey has no hue

    # and back
    chroma = torch.minimum(chroma * saturation, value)
    offsets = torch.tensor([5.0, 3.0, 1.0], device=rgb.device).view(1, 3, 1, 1)
    k = (sextant + hue + offsets).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)  # (B, 3, H, W)


def _add_noise(x: Tensor, strength: float, seeds: list[int]) -> None:
    """Multiply each sample of x (B, C, H, W), in place, by noise alike in all its channels."""
    for sample, seed in zip(x, seeds, strict=True):
        generator = torch.Generator(x.device).manual_seed(seed)
        noise = torch.randn(x.shape[2:], generator=generator, device=x.device)
        sample *= 1 + strength * noise
