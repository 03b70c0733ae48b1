"""Which scans to label next: those a network is unsure of that also stand for the others.

The rule is suggestive annotation (Yang, Zhang, Chen, Zhang, Chen, MICCAI 2017): of the most
uncertain scans those are taken, one after the other, whose encoder features together are most
similar to all scans (greedy maximum coverage). Uncertainty is how much predictions differ between
views of a scan, mirrored and shifted (test-time augmentation: Wang et al., Neurocomputing 2019),
as mutual information between class and view (BALD: Houlsby et al. 2011). Two changes: no eye gives
more than its share, and a scan stands less for other eyes and for distant B-scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dme.inference.entry import enter
from dme.inference.scan import class_probabilities
from dme.inference.windows import pad
from dme.nets.segmenter import Segmenter, normalise

SHIFTED = 2  # views that are shifted, beside the scan as it is and mirrored
MOST_SHIFT = 16  # px down and across
CANDIDATES = 2  # times as many uncertain scans as are chosen among them, as of Yang et al.
LEAST = 1e-12  # of a probability whose logarithm is taken
# of 1: how much a scan stands for one that looks the same, in another eye, or far away in its own
ELSEWHERE = 0.5
NEAR = 0.1  # of the volume: distance in which that falls to 1/e of the way


@dataclass(frozen=True)
class Look:
    """What a network makes of a scan."""

    disagreement: float  # nats per pixel, 0 where all views agree
    picture: np.ndarray  # the same of every pixel, float32 (H, W)
    features: np.ndarray  # what its encoder sees, float32 (C,)


@dataclass(frozen=True)
class Spot:
    """Where a scan was taken: scans of one eye are near copies. None is unknown."""

    eye: str | None
    position: float | None = None  # B-scan in the eye's volume


def draw_shifts(seed: int) -> list[tuple[int, int]]:
    """SHIFTED shifts, down and across in px, none of them 0; the same for the same seed."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, MOST_SHIFT, (SHIFTED, 2), endpoint=True)
    signs = generator.choice((-1, 1), (SHIFTED, 2))
    return [(int(down), int(across)) for down, across in sizes * signs]


def look_at(
    model: Segmenter,
    image: np.ndarray,
    shifts: Sequence[tuple[int, int]],
    scale_um: Sequence[float] | None = None,
) -> Look:
    """How much the network contradicts itself on a scan uint8 (H, W), and what it sees there.

    shifts: of `draw_shifts`, the same for all scans that are compared. Every second is mirrored.
    scale_um: axial and lateral um per pixel, as of `dme.predict`; None where unknown.
    """

    def by_class(view: np.ndarray) -> Tensor:
        return class_probabilities(model, view, scale_um=scale_um)

    views = [by_class(image)]
    mirrored = np.ascontiguousarray(image[:, ::-1])
    views.append(by_class(mirrored).flip(-1))
    for number, shift in enumerate(shifts):
        flipped = number % 2 == 1
        moved = _moved(mirrored if flipped else image, shift)
        back = _moved_back(by_class(moved), shift)
        views.append(back.flip(-1) if flipped else back)

    # pixels that a shift lost have NaN in that view, and are measured in the others
    stacked = torch.stack(views).double()  # (views, classes, H, W)
    mean = stacked.nanmean(0)
    spread = _entropy(mean) - _entropy(stacked).nanmean(0)  # (H, W)
    picture = spread.clamp(min=0).float().cpu().numpy()
    return Look(float(picture.mean(dtype=np.float64)), picture, _features(model, image, scale_um))


def _moved(image: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """The image moved down and across, its border repeated."""
    height, width = image.shape
    rows = np.clip(np.arange(height) - shift[0], 0, height - 1)
    columns = np.clip(np.arange(width) - shift[1], 0, width - 1)
    return image[rows][:, columns]


def _moved_back(by_class: Tensor, shift: tuple[int, int]) -> Tensor:
    """Probabilities (classes, H, W) moved the other way, NaN where nothing is left."""
    down, across = shift
    back = torch.roll(by_class, (-down, -across), (1, 2))
    lost_rows = slice(-down, None) if down > 0 else slice(0, -down)
    lost_columns = slice(-across, None) if across > 0 else slice(0, -across)
    back[:, lost_rows] = torch.nan
    back[:, :, lost_columns] = torch.nan
    return back


def _entropy(probabilities: Tensor) -> Tensor:
    """In nats, over the classes, the last dimension but two."""
    return -(probabilities * probabilities.clamp(min=LEAST).log()).sum(-3)


@torch.inference_mode()
def _features(model: Segmenter, image: np.ndarray, scale_um: Sequence[float] | None) -> np.ndarray:
    """Channel means of the encoder's deepest feature map."""
    pixels = torch.tensor(image, device=next(model.parameters()).device)
    entered = enter(pixels, model.preprocess, model.classes, scale_um)
    features = model.backbone(pad(normalise(entered.image[None], model.preprocess)))
    deepest = min(features, key=lambda feature: feature.shape[-1] * feature.shape[-2])
    return deepest[0].mean((1, 2)).float().cpu().numpy()


@dataclass(frozen=True)
class Suggestion:
    """A scan to label next, and the two numbers that decided for it."""

    index: int  # among all scans
    disagreement: float  # as of its Look: what made it a candidate
    stands_for: float  # scans, itself among them, that those before it do not stand for
    candidate: bool  # False: taken in place of one of an eye that had too few


@dataclass(frozen=True)
class Choice:
    """The scans to label next, the most useful first, and among how many they were found."""

    suggestions: list[Suggestion]
    candidates: int  # the most uncertain scans
    unlabelled: int

    @property
    def indices(self) -> list[int]:
        return [suggestion.index for suggestion in self.suggestions]


def choose(
    looks: Sequence[Look], spots: Sequence[Spot], count: int, labelled: Sequence[int] = ()
) -> list[int]:
    """Indices of the scans to label next, as of `choose_with_reasons`."""
    return choose_with_reasons(looks, spots, count, labelled).indices


def choose_with_reasons(
    looks: Sequence[Look], spots: Sequence[Spot], count: int, labelled: Sequence[int] = ()
) -> Choice:
    """The scans to label next, the most useful first; at most `count`.

    looks, spots: of all scans. labelled: those that have labels already, which are not chosen, and
    stand for the others as if they had been. Ties go to the earlier scan.
    """
    similarity = _similarity(looks, spots)
    chosen = list(labelled)
    eyes = [spot.eye for spot in spots]
    quota = -(-(count + len(chosen)) // len(set(eyes)))  # rounded up
    candidates = _candidates(looks, eyes, CANDIDATES * count, quota, chosen)

    # one after the other, the scan that adds most to what the chosen ones stand for
    suggested: list[Suggestion] = []
    while len(suggested) < count:
        open_eyes = {eye for eye in eyes if _given(eye, eyes, chosen) < quota}
        possible = [i for i in candidates if i not in chosen and eyes[i] in open_eyes]
        if not possible:  # eyes with few scans leave their share to the others
            possible = [i for i in range(len(looks)) if i not in chosen]
        if not possible:
            break
        covered = similarity[chosen].max(axis=0, initial=0)
        gains = np.maximum(similarity[possible], covered).sum(axis=1)
        best = possible[int(gains.argmax())]
        gain = float(gains.max() - covered.sum())
        suggested.append(Suggestion(best, looks[best].disagreement, gain, best in candidates))
        chosen.append(best)
    return Choice(suggested, len(candidates), len(looks) - len(labelled))


def _given(eye: str | None, eyes: Sequence[str | None], chosen: Sequence[int]) -> int:
    return sum(eyes[i] == eye for i in chosen)


def _candidates(
    looks: Sequence[Look],
    eyes: Sequence[str | None],
    most: int,
    quota: int,
    chosen: Sequence[int],
) -> list[int]:
    """At most so many of the most uncertain scans, CANDIDATES for each that an eye may give."""
    candidates: list[int] = []
    for i in sorted(range(len(looks)), key=lambda i: -looks[i].disagreement):
        left = CANDIDATES * (quota - _given(eyes[i], eyes, chosen))
        if i not in chosen and _given(eyes[i], eyes, candidates) < left:
            candidates.append(i)
    return sorted(candidates[:most])


def _similarity(looks: Sequence[Look], spots: Sequence[Spot]) -> np.ndarray:
    """How much each scan stands for each other, (N, N), from 0 to 1."""
    # cosine of what differs from the mean scan; what all share would make them all alike
    features = np.stack([look.features for look in looks]).astype(np.float64)
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + LEAST)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + LEAST
    alike = np.clip(features @ features.T, 0, 1)
    np.fill_diagonal(alike, 1)

    # less for other eyes, and for B-scans far away
    extents = _extents(spots)
    nearness = np.ones_like(alike)
    for i, first in enumerate(spots):
        for j, second in enumerate(spots):
            if first.eye != second.eye:
                nearness[i, j] = ELSEWHERE
            elif first.position is not None and second.position is not None:
                distance = abs(first.position - second.position) / extents[first.eye]
                nearness[i, j] = ELSEWHERE + (1 - ELSEWHERE) * np.exp(-distance / NEAR)
    return alike * nearness


def _extents(spots: Sequence[Spot]) -> dict[str | None, float]:
    """From the first B-scan of each eye to its last, at least 1."""
    positions: dict[str | None, list[float]] = {}
    for spot in spots:
        if spot.position is not None:
            positions.setdefault(spot.eye, []).append(spot.position)
    return {eye: max(max(own) - min(own), 1.0) for eye, own in positions.items()}
