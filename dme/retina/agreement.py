"""How well two measurements of the fluid in the same scans agree: overlap, presence and area.

Everything follows from sums over scans (`confusion`, `moments`), so that
`dme.common.by_eye.interval_by_eye` gives an interval for each number.
"""

from collections.abc import Callable

import numpy as np

LIMIT_SD = 1.96  # limits of agreement, in standard deviations
LIMITS = (
    "Limits of agreement: mean difference ± 1.96 standard deviations over the scans (Bland and "
    "Altman), as if the scans of an eye were independent; other seeds, networks and "
    "graders are left out."
)
# places of the sums in `moments`
SCANS, TRUTH, OTHER, TRUTH2, OTHER2, PRODUCT, ABSOLUTE, BOTH, MISSED, FALSE, NEITHER = range(11)

Statistic = Callable[[np.ndarray], np.ndarray]  # of sums (..., 11), numbers (...)


# ---- overlap


def confusion(truth: np.ndarray, other: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Pixels of two masks in counts, int64 (2, 2): rows truth, columns other.

    truth, other: bool (H, W), where fluid is. known: bool (H, W), the pixels that count (default:
    all). Raises ValueError for masks of other types or of different shapes.
    """
    known = np.ones_like(truth) if known is None else known
    masks = [truth, other, known]
    if any(mask.dtype != bool or mask.shape != truth.shape for mask in masks):
        types = ", ".join(f"{mask.dtype} {mask.shape}" for mask in masks)
        raise ValueError(f"masks are {types}; expected bool of one shape")
    pairs = 2 * truth[known] + other[known]
    return np.bincount(pairs, minlength=4).reshape(2, 2)


def dice(counts: np.ndarray, label: int = -1) -> np.ndarray:
    """Dice of a class, float64 (...), NaN where it is in neither truth nor prediction.

    counts: pixels (..., C, C), rows truth, columns prediction. label: the class, by default the
    last one, which fluid is.
    """
    counts = np.asarray(counts)
    truth = counts[..., label, :].sum(-1)
    predicted = counts[..., :, label].sum(-1)
    with np.errstate(invalid="ignore"):
        return 2 * counts[..., label, label] / (truth + predicted)


# ---- sums of presence and area


def moments(truth: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What is summed over scans, float64 (scans, 11), from two areas of each, (scans,).

    1, truth, other, their squares, their product, the absolute difference; and whether fluid is in
    both, in the truth alone, in the other alone, in neither.
    """
    truth = np.asarray(truth, np.float64)
    other = np.asarray(other, np.float64)
    if truth.shape != other.shape or truth.ndim != 1:
        raise ValueError(f"areas are {truth.shape} and {other.shape}; expected one per scan each")
    wet = truth > 0
    called = other > 0
    columns = [
        np.ones_like(truth),
        truth,
        other,
        truth**2,
        other**2,
        truth * other,
        abs(other - truth),
        wet & called,
        wet & ~called,
        ~wet & called,
        ~wet & ~called,
    ]
    return np.stack(columns, axis=-1).astype(np.float64)


# ---- presence


def sensitivity(sums: np.ndarray) -> np.ndarray:
    """Share of the scans with fluid in the truth in which the other finds some, too."""
    return sums[..., BOTH] / (sums[..., BOTH] + sums[..., MISSED])


def specificity(sums: np.ndarray) -> np.ndarray:
    """Share of the scans without fluid in the truth in which the other finds none either."""
    return sums[..., NEITHER] / (sums[..., NEITHER] + sums[..., FALSE])


def kappa(sums: np.ndarray) -> np.ndarray:
    """Cohen's kappa of presence: agreement beyond what chance would give, 1 at best."""
    scans = sums[..., SCANS]
    agreed = (sums[..., BOTH] + sums[..., NEITHER]) / scans
    wet = (sums[..., BOTH] + sums[..., MISSED]) / scans
    called = (sums[..., BOTH] + sums[..., FALSE]) / scans
    chance = wet * called + (1 - wet) * (1 - called)
    return (agreed - chance) / (1 - chance)


# ---- area


def icc(sums: np.ndarray) -> np.ndarray:
    """Intraclass correlation of the areas, ICC(2,1) of Shrout and Fleiss 1979.

    Two-way random effects, absolute agreement, single measurement: a constant difference between
    the two counts against them.
    """
    # mean squares of two-way analysis of variance: between scans, between raters, the rest
    scans = sums[..., SCANS]
    total = sums[..., TRUTH] + sums[..., OTHER]
    squares = sums[..., TRUTH2] + sums[..., OTHER2]
    mean_square = total**2 / (2 * scans)
    all_ss = squares - mean_square
    scans_ss = (squares + 2 * sums[..., PRODUCT]) / 2 - mean_square
    raters_ss = (sums[..., TRUTH] - sums[..., OTHER]) ** 2 / (2 * scans)
    between_scans = scans_ss / (scans - 1)
    rest = (all_ss - scans_ss - raters_ss) / (scans - 1)
    return (between_scans - rest) / (between_scans + rest + 2 * (raters_ss - rest) / scans)


def bias(sums: np.ndarray) -> np.ndarray:
    """Mean of other minus truth."""
    return (sums[..., OTHER] - sums[..., TRUTH]) / sums[..., SCANS]


def relative_bias(sums: np.ndarray) -> np.ndarray:
    """How much larger the other's area is than the truth's, all scans together, as a share."""
    return sums[..., OTHER] / sums[..., TRUTH] - 1


def mean_absolute_error(sums: np.ndarray) -> np.ndarray:
    return sums[..., ABSOLUTE] / sums[..., SCANS]


def limits_of_agreement(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper, as LIMITS says."""
    scans = sums[..., SCANS]
    squares = sums[..., TRUTH2] + sums[..., OTHER2] - 2 * sums[..., PRODUCT]
    variance = (squares - scans * bias(sums) ** 2) / (scans - 1)
    half = LIMIT_SD * np.sqrt(np.maximum(variance, 0))
    return bias(sums) - half, bias(sums) + half
