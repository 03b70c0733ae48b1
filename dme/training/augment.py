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

import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.ops.crops import sample_crops
from dme.training.settings import Augment


@dataclass
class TrainingSet:
    """Scans in memory, on the device, and their names.

    images: uint8, grey (H, W) or RGB (3, H, W). masks: uint8 (H, W), of 0..C-1 and 255.
    fluid: the label that `Augment.on_fluid` looks for, None without fluid.
    chosen_by: the masks on the CPU, where crops are chosen: the host never waits for the device.
    """

    images: list[Tensor]
    masks: list[Tensor]
    names: list[str]
    fluid: int | None = 1
    chosen_by: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.chosen_by = [mask.cpu() for mask in self.masks]

    def shares(self, num_classes: int) -> Tensor:
        """Of each class among annotated pixels, float32 (num_classes,); one pixel is added to each."""
        counts = sum(
            torch.bincount(mask.flatten(), minlength=256)[:num_classes] for mask in self.chosen_by
        )
        return (counts + 1) / (counts + 1).sum()

    def fingerprint(self) -> str:
        """Tells whether two runs train on the same scans."""
        crc = zlib.crc32(" ".join(self.names).encode())
        for pixels in (*self.images, *self.chosen_by):
            crc = zlib.crc32(pixels.cpu().contiguous().numpy(), crc)
        return f"{len(self.names)} scans, crc32 {crc:08x}"


def batch_indices(num_scans: int, batch: int, step: int, seed: int) -> list[int]:
    """The scans of global batch `step` (from 0): consecutive pieces of endless shuffled epochs."""
    orders: dict[int, list[int]] = {}
    indices = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, num_scans)
        if epoch not in orders:
            orders[epoch] = torch.randperm(num_scans, generator=_generator(seed, epoch)).tolist()
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

    S is the crop, or (H, W) of the whole image. offset: position of indices[0] in the global
    batch. Pixels from outside the frame are 0 in the image and 255 (ignored) in the labels.
    Speckle is drawn on the images' device: CPU and GPU draw different noise, everything else
    agrees.

    Raises InputError when a crop is larger than its image, when sizes differ and there is no crop,
    and when `colour` meets grey images.
    """
    crops, parameters, noise_seeds = [], [], []
    for place, index in enumerate(indices):
        generator = _generator(seed, step, offset + place)
        check_sample(data.images[index], data.masks[index], data.masks[indices[0]], augment)
        parameters.append(_draw_photometric(augment, generator))
        noise_seeds.append(int(torch.randint(1 << 62, (), generator=generator)))
        crops.append(_draw_crop(data.chosen_by[index], data.fluid, augment, generator))
    images, masks = ([scans[i] for i in indices] for scans in (data.images, data.masks))
    size = (augment.crop, augment.crop) if augment.crop else masks[0].shape
    x, labels, inside = sample_crops(
        images, masks, torch.tensor(crops, dtype=torch.float64), *size
    )
    x = _photometric(x, inside, torch.tensor(parameters), augment)
    if augment.noise:
        for sample, noise_seed in zip(x, noise_seeds, strict=True):
            noise = torch.Generator(x.device).manual_seed(noise_seed)
            sample *= 1 + augment.noise * torch.randn(
                x.shape[2:], generator=noise, device=x.device
            )
    return x.clamp_(0, 255).mul_(inside[:, None]), labels.long()


def _generator(*numbers: int) -> torch.Generator:
    """A CPU generator whose seed is a hash of the numbers."""
    digest = hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def check_sample(image: Tensor, mask: Tensor, first_mask: Tensor, augment: Augment) -> None:
    """Raise InputError for a scan that cannot be drawn from, or not beside the first."""
    size = f"{mask.shape[0]} x {mask.shape[1]}"
    if augment.crop > min(mask.shape):
        raise InputError(
            f"crop {augment.crop} is larger than a scan of {size} pixels: choose a smaller crop"
        )
    if not augment.crop and mask.shape != first_mask.shape:
        first = f"{first_mask.shape[0]} x {first_mask.shape[1]}"
        raise InputError(f"scans of {first} and {size} pixels cannot share a batch: choose a crop")
    if augment.colour and image.ndim != 3:
        raise InputError(
            "colour augmentation needs RGB images, found grey: use brightness, contrast, gamma"
        )


# Geometry. A box is (top, left, height, width) in pixels of the scaled frame; it may reach beyond
# the frame.


def _draw_crop(
    chosen_by: Tensor, fluid: int | None, augment: Augment, generator: torch.Generator
) -> list[float]:
    """A random crop of a scan with labels `chosen_by` (H, W): a row of `sample_crops`' geometry."""
    frame = chosen_by.shape
    out = (augment.crop, augment.crop) if augment.crop else frame
    u = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    smallest, largest = augment.zoom_factors
    ratio = smallest + u[0] * (largest - smallest)
    angle = math.radians(augment.rotate) * (2 * u[1] - 1)
    scaled = [max(1, int(size * ratio + 0.5)) for size in frame]
    shift = [
        round(augment.shift * (2 * v - 1) * size) for v, size in zip(u[2:4], scaled, strict=True)
    ]
    step = (
        frame[0] / scaled[0],
        frame[1] / scaled[1],
    )  # source pixels per pixel of the scaled frame

    target = _pixel_of(fluid, chosen_by, generator) if augment.on_fluid else None
    if target and torch.rand((), generator=generator).item() >= augment.on_fluid:
        target = None
    if target:
        target = [int((place + 0.5) / one) for place, one in zip(target, step, strict=True)]
    beyond = round(augment.border * augment.crop)
    redraws = 10 if augment.crop and augment.max_class_share < 1 else 0
    for attempt in range(redraws + 1):
        top, left = (
            _draw_origin(scaled[i], out[i], beyond, target and target[i], generator) - shift[i]
            for i in (0, 1)
        )
        box = (top, left, *out)
        if attempt < redraws and _is_mixed(
            _box_labels(chosen_by, box, step), augment.max_class_share
        ):
            break

    return [top, left, *step, angle, augment.flip and u[4] < 0.5]


def _pixel_of(label: int | None, mask: Tensor, generator: torch.Generator) -> list[int] | None:
    """(row, column) of a random pixel of that class, if there is one."""
    found = (mask.flatten() == label).nonzero()
    if not len(found):
        return None
    return list(
        divmod(int(found[int(torch.randint(len(found), (), generator=generator))]), mask.shape[1])
    )


def _draw_origin(
    size: int, crop: int, beyond: int, target: int | None, generator: torch.Generator
) -> int:
    """Uniform over the integers that keep the crop in the frame, or a smaller frame in the crop.

    beyond: drawn from a range longer by this at both ends, then moved back. target: the crop must
        hold it.
    """
    low, high = sorted((0, size - crop))
    first, last = low - beyond, high + beyond
    if target is not None:
        first, last = max(first, target - crop + 1), min(last, target)
    return min(max(int(torch.randint(first, last + 1, (), generator=generator)), low), high)


def _box_labels(mask: Tensor, box: tuple[int, int, int, int], step: tuple[float, float]) -> Tensor:
    """The labels in a box before its rotation; every n-th one where the frame is scaled down."""
    start = [max(0, round(box[i] * step[i])) for i in (0, 1)]
    stop = [max(0, round((box[i] + box[i + 2]) * step[i])) for i in (0, 1)]
    rows, columns = (slice(start[i], stop[i], max(1, int(step[i]))) for i in (0, 1))
    return mask[rows, columns]


def _is_mixed(labels: Tensor, max_class_share: float) -> bool:
    """Whether the largest class covers less than this share (below 1) of the valid pixels."""
    # mostly class 0 is the largest by far, and counting zeros takes half the time
    if labels.numel() - labels.count_nonzero() >= max_class_share * labels.numel():
        return False
    counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
    largest, total = torch.stack([counts.max(), counts.sum()]).tolist()
    return largest < max_class_share * total


# Grey values and colours.


def _draw_photometric(augment: Augment, generator: torch.Generator) -> list[float]:
    """Brightness, contrast, gamma; of `colour`: brightness, two contrasts, saturation, hue in sextants."""
    u = torch.rand(12, generator=generator, dtype=torch.float64).tolist()
    signed = [2 * v - 1 for v in u[:7]]
    on = [v < 0.5 for v in u[7:]]
    contrast = 1 + 0.5 * signed[4] if on[1] else 1.0
    return [
        255 * augment.brightness * signed[0],
        1 + augment.contrast * signed[1],
        (1 + augment.gamma) ** signed[2],
        32 * signed[3] if on[0] else 0.0,
        contrast if on[2] else 1.0,
        1.0 if on[2] else contrast,
        1 + 0.5 * signed[5] if on[3] else 1.0,
        36 / 60 * signed[6] if on[4] else 0.0,
    ]


def _photometric(x: Tensor, inside: Tensor, parameters: Tensor, augment: Augment) -> Tensor:
    """x float32 (B, C, H, W), inside (B, H, W), parameters (B, 8); every step clamps to 0..255."""
    columns = parameters.to(x.device, non_blocking=True).T[
        ..., None, None, None
    ]  # (8, B, 1, 1, 1)
    brightness, contrast, gamma, light, contrast_first, contrast_last, saturation, hue = columns
    if augment.brightness:
        x = (x + brightness).clamp_(0, 255)
    if augment.contrast:
        valid = inside[:, None]
        count = (valid.sum((1, 2, 3), keepdim=True) * x.shape[1]).clamp_min(1)
        x = torch.lerp((x * valid).sum((1, 2, 3), keepdim=True) / count, x, contrast).clamp_(
            0, 255
        )
    if augment.gamma:
        x = (x / 255).pow_(gamma).mul_(255)
    if augment.colour:
        x = (x + light).clamp_(0, 255)
        x = (x * contrast_first).clamp_(0, 255)
        x = _saturate_and_turn(x, saturation, hue)
        x = (x * contrast_last).clamp_(0, 255)
    return x


def _saturate_and_turn(rgb: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """RGB (B, 3, H, W): HSV saturation times `saturation` (at most 1), hue plus `hue` sextants."""
    red, green, blue = rgb.split(1, dim=1)
    value = rgb.amax(1, keepdim=True)
    chroma = value - rgb.amin(1, keepdim=True)
    from_green = (blue - red) / chroma + 2
    from_blue = (red - green) / chroma + 4
    sextant = torch.where(value == green, from_green, from_blue).where(
        value != red, (green - blue) / chroma
    )
    sextant = sextant.where(chroma > 0, 0)  # grey has no hue
    chroma = torch.minimum(chroma * saturation, value)
    k = (
        sextant + hue + torch.tensor([5.0, 3.0, 1.0], device=rgb.device).view(1, 3, 1, 1)
    ).remainder_(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)  # (B, 3, H, W)
