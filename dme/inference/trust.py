"""How far a scan's fluid can be believed: a predicted Dice, and an interval of its true area.

A network is asked again with the scan mirrored, shifted and scaled. How much its answers differ,
how many pixels it is unsure of and how much fluid there is were measured, on eyes it had not
learnt from, beside the Dice it reached there (`experiments/studies/trust.py`): a `TrustFit` goes
from these quantities to a Dice and an interval.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dme.common.errors import InputError
from dme.common.tasks import FLUID

if TYPE_CHECKING:  # who only fits does not wait for torch
    from dme.nets.segmenter import Segmenter

QUANTITIES = ("log_area", "flip", "shift", "scale", "unsure")
SHIFT_PX = (12, 20)  # down, right
FACTORS = (0.9, 1.1)
SOME = 0.1  # probability from which on a pixel may be fluid
NOTHING_PX = 1.0  # fluid of less is none
AREA_UNIT = 1e-4  # share of the scan from which on areas count
LEAST_WIDTH = 5e-4  # share of the scan; no interval is narrower than what this brings
RIDGE = 1.0
LOW_DICE = 0.5  # what is to be flagged
MOST_FALSE = 0.15  # alarms, of the fitted scans with a higher Dice: other eyes bring some more
WITHIN = 0.95  # of the fitted scans lie within their intervals: other eyes bring some less


@dataclass(frozen=True)
class Sample:
    """A scan of an eye that the network did not learn from."""

    eye: int
    quantities: np.ndarray  # of QUANTITIES
    found_share: float  # fluid, as a share of the scan's pixels
    true_share: float
    dice: float  # 1 where neither has any, 0 where only one has


@dataclass(frozen=True)
class Trust:
    """What is believed of a scan; areas are shares of its pixels."""

    dice: float
    low_share: float
    high_share: float
    flagged: bool


@dataclass(frozen=True)
class TrustFit:
    """Goes from quantities to `Trust`; a file of these fields is what the study leaves."""

    weights_sha256: str  # of the network that it judges
    mean: Sequence[float]  # of the quantities
    spread: Sequence[float]
    slopes: Sequence[float]  # Dice per spread
    dice: float  # at the mean
    flag_below: float  # predicted Dice
    low: float  # quantiles of (true - found) / width
    high: float

    def judge(self, quantities: np.ndarray, found_share: float) -> Trust:
        """quantities: of QUANTITIES. found_share: fluid, as a share of the scan's pixels."""
        x = (quantities - np.asarray(self.mean)) / np.asarray(self.spread)
        dice = float(np.clip(self.dice + x @ np.asarray(self.slopes), 0, 1))
        width = width_of(quantities, found_share)
        low = max(0.0, found_share + self.low * width)
        high = max(low, found_share + self.high * width)
        return Trust(dice, low, high, dice < self.flag_below)


def quantities_of(
    model: "Segmenter",
    scan: np.ndarray,
    probability: np.ndarray,
    scale_um: Sequence[float] | None = None,
) -> np.ndarray:
    """The QUANTITIES of a scan uint8 (H, W) of which the network gave this probability (H, W).

    scale_um: as it was given for the probability; a view keeps it, so that one that is scaled
    looks larger or smaller to the network. Takes as many predictions again as `views` has.
    """
    from dme.inference.scan import class_probabilities

    differences: dict[str, list[float]] = {name: [] for name in ("flip", "shift", "scale")}
    for name, view, back in views(scan):
        by_class = class_probabilities(model, view, scale_um=scale_um)
        again = back(by_class[model.classes.index(FLUID)].float().cpu().numpy())
        differences[name].append(difference(probability, again))

    share = float((probability > 0.5).mean())
    some = probability[probability > SOME]
    unsure = 4 * float((some * (1 - some)).sum())  # 1 for each pixel of probability 0.5
    return np.array(
        [
            np.log10(share / AREA_UNIT + 1),
            *(float(np.mean(values)) for values in differences.values()),
            unsure / max(some.size, NOTHING_PX),
        ]
    )


def views(scan: np.ndarray) -> Iterator[tuple]:
    """Quantity, the scan uint8 (H, W) seen in another way, and what brings a probability back."""
    yield "flip", scan[:, ::-1], lambda p: p[:, ::-1]

    # what is shifted in repeats the border
    height, width = scan.shape
    down, right = SHIFT_PX
    for sign in (-1, 1):
        rows = (np.arange(height) - sign * down).clip(0, height - 1)
        columns = (np.arange(width) - sign * right).clip(0, width - 1)
        rows_back = (np.arange(height) + sign * down).clip(0, height - 1)
        columns_back = (np.arange(width) + sign * right).clip(0, width - 1)
        shifted = scan[np.ix_(rows, columns)]
        yield "shift", shifted, lambda p, i=rows_back, j=columns_back: p[np.ix_(i, j)]

    for factor in FACTORS:
        size = (round(width * factor), round(height * factor))
        picture = Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC)
        yield "scale", np.asarray(picture), lambda p: _resized(p, (width, height))


def _resized(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(probability, np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """One less the Dice of two probabilities, pixel by pixel the smaller being what they share."""
    total = float(a.sum() + b.sum())
    if total < NOTHING_PX:
        return 0.0
    return 1 - 2 * float(np.minimum(a, b).sum()) / total


def width_of(quantities: np.ndarray, found_share: float) -> float:
    """By what the errors of areas are measured: the share of pixels that is in doubt."""
    values = dict(zip(QUANTITIES, quantities, strict=True))
    doubt = max(values["flip"], values["shift"], values["scale"], 0.1)
    return LEAST_WIDTH + doubt * found_share


# ---- fitting ------------------------------------------------------------------------------------
def fit_trust(samples: Sequence[Sample], weights_sha256: str = "") -> TrustFit:
    """Ridge regression of the Dice, and quantiles of the errors of areas; each eye weighs alike.

    Raises InputError below two eyes.
    """
    eyes = np.array([sample.eye for sample in samples])
    if len(set(eyes.tolist())) < 2:
        raise InputError(f"samples of {len(set(eyes.tolist()))} eyes, expected at least two")
    weight = 1 / np.array([(eyes == eye).sum() for eye in eyes])
    weight /= weight.sum()

    # the Dice
    x = np.stack([sample.quantities for sample in samples])  # (scans, quantities)
    dice = np.array([sample.dice for sample in samples])
    mean = weight @ x
    spread = np.sqrt(weight @ (x - mean) ** 2).clip(1e-6)
    z = (x - mean) / spread
    middle = float(weight @ dice)
    normal = (z.T * weight) @ z + RIDGE / len(samples) * np.eye(len(mean))
    slopes = np.linalg.solve(normal, (z.T * weight) @ (dice - middle))

    # flagged is what keeps the false alarms few
    predicted = (middle + z @ slopes).clip(0, 1)
    good = dice >= LOW_DICE
    flag_below = weighted_quantile(predicted[good], weight[good], MOST_FALSE) if good.any() else 1

    # how far areas were wrong
    errors = []
    for sample in samples:
        width = width_of(sample.quantities, sample.found_share)
        errors.append((sample.true_share - sample.found_share) / width)
    errors = np.array(errors)
    low = weighted_quantile(errors, weight, (1 - WITHIN) / 2)
    high = weighted_quantile(errors, weight, (1 + WITHIN) / 2)
    return TrustFit(
        weights_sha256,
        mean.tolist(),
        spread.tolist(),
        slopes.tolist(),
        middle,
        float(flag_below),
        min(float(low), 0.0),
        max(float(high), 0.0),
    )


def weighted_quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The value below which that share of the weight lies, between samples linearly."""
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    places = (total - weight[order] / 2) / total[-1]
    return float(np.interp(share, places, values[order]))


def judge_left_out(samples: Sequence[Sample]) -> list[Trust]:
    """Of every sample what a fit to the other eyes says."""
    fits = {}
    for eye in {sample.eye for sample in samples}:
        fits[eye] = fit_trust([sample for sample in samples if sample.eye != eye])
    return [fits[sample.eye].judge(sample.quantities, sample.found_share) for sample in samples]


def load_fit(path: Path, weights_sha256: str) -> TrustFit:
    """A fit that the study left, for the network with this checksum. Raises InputError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))["fit"]
        fit = TrustFit(**{field.name: content[field.name] for field in fields(TrustFit)})
    except (OSError, ValueError, KeyError, TypeError) as e:
        expected = "expected a file that experiments/studies/trust.py wrote, with its fit"
        raise InputError(f"{path}: not readable ({e}), {expected}") from e
    if fit.weights_sha256 != weights_sha256:
        found = f"{path}: is of the network with sha256 {fit.weights_sha256[:12]}"
        raise InputError(f"{found}, expected {weights_sha256[:12]}: fit it again for this one")
    return fit


def as_written(fit: TrustFit) -> dict:
    """The fit as it stands in a file."""
    return asdict(fit)
