"""What a sample takes over of another scan: its noise, or its slow amplitudes.

Noise: of the singular values of a sample the first RANKS stay its own, all others are the other
scan's (SVDNA, Koch et al. 2022, arXiv 2203.11619), without its histogram matching: brightness is
matched on entry. Style: amplitudes of the lowest frequencies are mixed with the other scan's by a
random share (Fourier domain adaptation, Yang & Soatto 2020, arXiv 2004.05498).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dme.training.settings import Augment

RANKS = (0.04, 0.2)  # of the smaller side, drawn uniformly: 20 to 100 of 496 rows
LOWEST = 0.02  # of the frequencies, along each side
APART = 0x2545F4914F6CDD1D  # keeps these draws apart from those of other uses of a seed


def exchanged(
    x: Tensor,
    scans: list[Tensor],
    frame: tuple[int, int],
    augment: Augment,
    seeds: list[int],
) -> Tensor:
    """Samples x, grey float32 (B, 1, H, W) of 0..255, each changed by one of the scans.

    seeds: of each sample; the same seed gives the same scan and strength.
    """
    samples = []
    for sample, seed in zip(x, seeds, strict=True):
        generator = torch.Generator().manual_seed((seed ^ APART) % (1 << 62))
        draws = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        chosen, strength, with_noise, with_style, place = draws
        other = covering(scans[int(chosen * len(scans))], frame, place)
        plane = sample[0]
        if with_noise < augment.exchange_noise:
            plane = with_noise_of(other, plane, strength)
        if with_style < augment.exchange_style:
            plane = with_style_of(other, plane, strength)
        samples.append(plane[None])
    return torch.stack(samples).clamp_(0, 255)


def covering(scan: Tensor, frame: tuple[int, int], place: float) -> Tensor:
    """A part of a grey scan, float32, of the frame's size; a smaller scan is mirrored."""
    plane = scan.float()[None, None]
    while plane.shape[2] < frame[0] or plane.shape[3] < frame[1]:
        down = min(max(frame[0] - plane.shape[2], 0), plane.shape[2] - 1)
        right = min(max(frame[1] - plane.shape[3], 0), plane.shape[3] - 1)
        plane = F.pad(plane, (0, right, 0, down), mode="reflect")
    top = int(place * (plane.shape[2] - frame[0] + 1))
    left = int(place * (plane.shape[3] - frame[1] + 1))
    return plane[0, 0, top : top + frame[0], left : left + frame[1]]


def with_noise_of(other: Tensor, plane: Tensor, strength: float) -> Tensor:
    """plane (H, W), all but its first singular values those of `other`."""
    least, most = RANKS
    rank = round((least + (most - least) * strength) * min(plane.shape))
    u, s, v = torch.linalg.svd(plane, full_matrices=False)
    clean = u[:, :rank] * s[:rank] @ v[:rank]
    u, s, v = torch.linalg.svd(other, full_matrices=False)
    noise = other - u[:, :rank] * s[:rank] @ v[:rank]
    return clean + noise


def with_style_of(other: Tensor, plane: Tensor, strength: float) -> Tensor:
    """plane (H, W), its slow amplitudes mixed with those of `other`."""
    own = torch.fft.rfft2(plane)
    height, width = plane.shape
    rows = (torch.fft.fftfreq(height).abs() <= LOWEST)[:, None]
    columns = torch.fft.rfftfreq(width) <= LOWEST
    amplitude = own.abs()
    mixed = torch.lerp(amplitude, torch.fft.rfft2(other).abs(), strength)
    amplitude = torch.where(rows & columns, mixed, amplitude)
    return torch.fft.irfft2(torch.polar(amplitude, own.angle()), plane.shape)
