"""What other devices make of a sample: blur, fewer pixels, coarse speckle."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dme.training.settings import Augment

LARGEST_GRAIN = 3.0  # pixels
APART = 0x5DEECE66D  # keeps these draws apart from those of the noise of the same seed


def seen_by_devices(x: Tensor, augment: Augment, seeds: list[int]) -> Tensor:
    """Samples x, float32 (B, C, H, W), each as a device of its own sees it.

    seeds: of each sample; the same seed gives the same device.
    """
    samples = []
    for sample, seed in zip(x, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed ^ APART)
        blur, coarser, strength, size = torch.rand(4, generator=generator).tolist()
        sample = blurred(sample, augment.blur * blur)
        sample = coarsened(sample, 1 + augment.resolution * coarser)
        if augment.grain:
            pixels = 1 + (LARGEST_GRAIN - 1) * size
            grains = speckle(sample.shape[1:], pixels, generator).to(sample.device)
            sample = sample * (1 + augment.grain * strength * grains).clamp_min(0)
        samples.append(sample)
    return torch.stack(samples)


def blurred(sample: Tensor, sigma: float) -> Tensor:
    """(C, H, W) blurred by a Gaussian of `sigma` pixels; one under a quarter changes nothing."""
    if sigma < 0.25:
        return sample
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=sample.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    planes = sample.unsqueeze(1)  # (C, 1, H, W)
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="replicate"), kernel)
    planes = F.pad(planes, (0, 0, reach, reach), mode="replicate")
    return F.conv2d(planes, kernel.transpose(2, 3)).squeeze(1)


def coarsened(sample: Tensor, factor: float) -> Tensor:
    """(C, H, W) made smaller by a factor, and as large again."""
    height, width = sample.shape[1:]
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    if size == (height, width):
        return sample
    small = F.interpolate(sample[None], size, mode="bilinear", antialias=True)
    return F.interpolate(small, (height, width), mode="bilinear")[0]


def speckle(shape: torch.Size, pixels: float, generator: torch.Generator) -> Tensor:
    """(H, W) normal noise of mean 0 and variance 1, its grains about so many pixels large."""
    height, width = shape
    size = (math.ceil(height / pixels), math.ceil(width / pixels))
    coarse = torch.randn(1, 1, *size, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bicubic")[0, 0]
    return (fine - fine.mean()) / fine.std().clamp_min(1e-6)
