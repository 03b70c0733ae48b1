"""Whether probabilities of fluid mean what they say, and the rule that makes a mask of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dme.common.labels import IGNORE
from dme.retina.outlines import NEIGHBOURS

BINS = 10  # of probability, of one width
PIXELS, FLUID, PROBABILITY = range(3)  # places of the sums of a bin
MOST_BIAS = 0.05  # of the area of all fluid, which a chosen rule should not pass
LEAST = 1e-6  # probability that no pixel falls short of, so that its logit is finite

TEMPERATURES = tuple(round(0.5 + 0.1 * step, 1) for step in range(36))
THRESHOLDS = tuple(round(0.2 + 0.02 * step, 2) for step in range(36))
LOGIT_STEP = 0.01
SMALLEST_PX = (0, 10, 25, 50, 100, 200)


# ---- reliability


def reliability_counts(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sums over the pixels of each bin of probability, float64 (BINS, 3), which may be added up.

    Number of pixels, those that are fluid, sum of their probabilities. probability: float (H, W)
    of fluid. truth: (H, W) of 0, 1 and 255, which is left out. A bin holds its lower end; the last
    one both.
    """
    known = truth != IGNORE
    values = np.asarray(probability, np.float64)[known]
    fluid = truth[known] == 1
    places = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    sums = [np.bincount(places, weights, BINS) for weights in (None, fluid, values)]
    return np.stack(sums, axis=1).astype(np.float64)


def expected_calibration_error(counts: np.ndarray, first: int = 0) -> np.ndarray:
    """Mean over pixels of |share of fluid - mean probability| of their bin; counts (..., BINS, 3).

    first: the first bin that counts. Nearly all pixels are surely background and make the error of
    all of them look small; from bin 1 on it is that of pixels given 0.1 or more.
    """
    counts = np.asarray(counts)[..., first:, :]
    gap = abs(counts[..., FLUID] - counts[..., PROBABILITY]).sum(-1)
    with np.errstate(invalid="ignore"):
        return gap / counts[..., PIXELS].sum(-1)


# ---- from probability to mask


@dataclass(frozen=True)
class Rule:
    """How a mask is made of probabilities: sharpened or flattened, cut, small regions left out."""

    temperature: float = 1.0  # divides the logit; above 1 it makes a network less sure
    threshold: float = 0.5  # fluid is where the probability is above
    smallest_px: int = 0  # regions of fewer pixels are left out

    def probability(self, probability: np.ndarray) -> np.ndarray:
        """The probability (H, W) at this temperature, float64."""
        kept = np.clip(np.asarray(probability, np.float64), LEAST, 1 - LEAST)
        logit = np.log(kept / (1 - kept))
        return 1 / (1 + np.exp(-logit / self.temperature))

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """Where fluid is, bool (H, W)."""
        return without_small(self.probability(probability) > self.threshold, self.smallest_px)


def without_small(mask: np.ndarray, smallest_px: int) -> np.ndarray:
    """The mask without regions of fewer pixels, which touch at a side or a corner."""
    if smallest_px <= 1:
        return mask
    regions, _ = ndimage.label(mask, NEIGHBOURS)
    large = np.bincount(regions.ravel()) >= smallest_px
    large[0] = False
    return large[regions]


def choose_rule(probabilities: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> Rule:
    """The rule that suits these scans best; they must be none that it will be judged by.

    probabilities: float (H, W) of fluid of each scan. truths: (H, W) of 0, 1 and 255 (left out).
    The temperature has the least negative log-likelihood. Of threshold and smallest region those
    with the highest pooled Dice among the ones whose area of all fluid is wrong by at most
    MOST_BIAS; where none is, the least wrong one.
    """
    temperature = _temperature(probabilities, truths)
    best = Rule(temperature)
    best_merit = (-np.inf, -np.inf)
    scaled = [best.probability(probability) for probability in probabilities]
    fluid_px = sum(int((truth == 1).sum()) for truth in truths)
    for threshold in THRESHOLDS:
        # of all smallest regions at once: pixels found, and those of them that are fluid
        found_px = np.zeros(len(SMALLEST_PX), np.int64)
        hit_px = np.zeros(len(SMALLEST_PX), np.int64)
        for probability, truth in zip(scaled, truths, strict=True):
            of_scan = _kept_px(probability > threshold, truth)
            found_px += of_scan[0]
            hit_px += of_scan[1]
        dice = 2 * hit_px / np.maximum(fluid_px + found_px, 1)
        bias = abs(found_px / max(fluid_px, 1) - 1)
        for place, smallest_px in enumerate(SMALLEST_PX):
            merit = (-max(float(bias[place]), MOST_BIAS), float(dice[place]))
            if merit > best_merit:
                best_merit = merit
                best = Rule(temperature, threshold, smallest_px)
    return best


def _kept_px(mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What is left of a mask without regions below each of SMALLEST_PX, int64 (2, sizes).

    Pixels whose truth is known, and those of them that are fluid.
    """
    regions, _ = ndimage.label(mask, NEIGHBOURS)
    names = regions[mask]
    of_mask = truth[mask]
    sizes = np.bincount(names)
    known = np.bincount(names, of_mask != IGNORE, len(sizes))
    fluid = np.bincount(names, of_mask == 1, len(sizes))
    kept = np.array([sizes >= smallest_px for smallest_px in SMALLEST_PX])  # (sizes, regions)
    return np.stack([kept @ known, kept @ fluid]).astype(np.int64)


def _temperature(probabilities: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """The one of TEMPERATURES with the least negative log-likelihood over all known pixels."""
    # pixels of each logit, to LOGIT_STEP, signed by the truth: above 0 where it is right
    end = -np.log(LEAST) + LOGIT_STEP
    edges = np.arange(-end, end + LOGIT_STEP, LOGIT_STEP)
    pixels = np.zeros(len(edges) - 1)
    for probability, truth in zip(probabilities, truths, strict=True):
        known = truth != IGNORE
        kept = np.clip(np.asarray(probability, np.float64)[known], LEAST, 1 - LEAST)
        signed = np.log(kept / (1 - kept)) * np.where(truth[known] == 1, 1.0, -1.0)
        pixels += np.histogram(signed, edges)[0]

    middles = (edges[:-1] + edges[1:]) / 2
    losses = [(pixels * np.logaddexp(0.0, -middles / t)).sum() for t in TEMPERATURES]
    return TEMPERATURES[int(np.argmin(losses))]
