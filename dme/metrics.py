"""Confusion matrices to scores, pooled over a set and per scan; counts int64, scores float64."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dme.common.errors import InputError
from dme.ops.confusion import confusion_matrix


def scores(cm: Tensor | np.ndarray) -> dict[str, np.ndarray | float | int]:
    """Scores of one confusion matrix (C, C), rows truth, columns prediction.

    Per class, float64 (C,): `iou`, `dice`, `precision`, `recall` (OpenMMLab's `Acc`). Their means
    over the
    classes, float: `mean_iou`, `mean_dice`, `mean_precision`, `mean_recall`; and `all_accuracy`. A
    class in neither truth nor prediction is NaN everywhere; `absent` says how many those are. As
    in OpenMMLab, precision is also NaN for a class never predicted, and recall for a class never
    in the truth (IoU and Dice are 0 there). NaN is never averaged; a mean over nothing is NaN.

    Raises InputError for anything but a square matrix of non-negative integers.
    """
    cm = _counts(cm, ndim=2)
    hit = np.diag(cm)  # (C,) each
    truth = cm.sum(1)
    guess = cm.sum(0)
    per_class = {
        "iou": _ratio(hit, truth + guess - hit),
        "dice": _ratio(2 * hit, truth + guess),
        "precision": _ratio(hit, guess),
        "recall": _ratio(hit, truth),
    }
    means = {f"mean_{name}": _mean(values) for name, values in per_class.items()}
    of_all = {
        "all_accuracy": float(_ratio(hit.sum(), cm.sum())),
        "absent": int((truth + guess == 0).sum()),
    }
    return per_class | means | of_all


def per_scan(
    cms: Tensor | np.ndarray, positive: int = 1, empty: float = float("nan")
) -> dict[str, np.ndarray | float | int]:
    """Dice and IoU of class `positive` for each scan, from confusion matrices (N, C, C).

    empty: the score of a scan with the class in neither truth nor prediction. NaN (default) leaves
        it out of the means; 1.0 calls it right; 0.0 is what the study's Table 1 does. Say which
        beside every figure.

    Returns float64 (N,) `dice`, `iou`; floats `mean_dice`, `mean_iou`; and `empty`, the number of
    such scans.
    """
    cms = _counts(cms, ndim=3)
    if not 0 <= positive < cms.shape[-1]:
        raise InputError(
            f"positive={positive}; expected a class, 0..{cms.shape[-1] - 1}; 1 is fluid"
        )
    hit = cms[:, positive, positive]  # (N,) each
    truth = cms[:, positive].sum(1)
    guess = cms[:, :, positive].sum(1)
    nowhere = truth + guess == 0
    dice = np.where(nowhere, empty, _ratio(2 * hit, truth + guess))
    iou = np.where(nowhere, empty, _ratio(hit, truth + guess - hit))
    return {
        "dice": dice,
        "iou": iou,
        "mean_dice": _mean(dice),
        "mean_iou": _mean(iou),
        "empty": int(nowhere.sum()),
    }


# Five answers to what a scan without the class scores, by key: how each is called in tables
CONVENTIONS = {
    "pooled": "pooled over all pixels",
    "positives": "mean over scans with fluid in the truth",
    "empty_left_out": "mean over scans with fluid in truth or prediction (false alarm: 0)",
    "empty_counts_1": "mean over all scans, no fluid in both: 1",
    "empty_counts_0": "mean over all scans, no fluid in both: 0",
}


def by_convention(cms: Tensor | np.ndarray, positive: int = 1) -> dict[str, dict]:
    """Dice and IoU of class `positive` over scans (N, C, C), by each of CONVENTIONS.

    Of every key floats `mean_dice`, `mean_iou` and int `scans`, how many they rest on; of all but
    "pooled" also float64 (N,) `dice` and `iou`, NaN where a scan is left out.
    """
    cms = _counts(cms, ndim=3)
    left_out = per_scan(cms, positive)
    in_truth = cms[:, positive].sum(1) > 0
    pooled = scores(cms.sum(0))
    found = {
        "pooled": {
            "mean_dice": float(pooled["dice"][positive]),
            "mean_iou": float(pooled["iou"][positive]),
            "scans": len(cms),
        }
    }
    for key, values in {
        "positives": {
            name: np.where(in_truth, left_out[name], np.nan) for name in ("dice", "iou")
        },
        "empty_left_out": left_out,
        "empty_counts_1": per_scan(cms, positive, empty=1.0),
        "empty_counts_0": per_scan(cms, positive, empty=0.0),
    }.items():
        dice = values["dice"]
        iou = values["iou"]
        found[key] = {
            "mean_dice": _mean(dice),
            "mean_iou": _mean(iou),
            "scans": int((~np.isnan(dice)).sum()),
            "dice": dice,
            "iou": iou,
        }
    return found


def table1_measure(cms: Tensor | np.ndarray) -> float:
    """The "mIoU" of the study's Table 1, of scans (N, C, C): mean IoU of class 1, 0 if empty."""
    return per_scan(cms, positive=1, empty=0.0)["mean_iou"]


class ConfusionMeter:
    """Confusion matrices of scans, in order, from which every pooled or per-scan score follows.

    Updating does not wait for the device; `matrices` and `compute` do.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.names: list[str | None] = []  # one per scan, None when not given
        self._batches: list[Tensor] = []  # (N, C, C) each, on the device of its batch
        self._reduced = False

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor, names: Sequence[str] | None = None) -> None:
        """Count a batch: arguments as `confusion_matrix`; `names` of its N scans, if known."""
        if self._reduced:
            raise ValueError(
                "this meter holds the scans of all ranks; count the next ones with a new meter"
            )
        names = [None] * len(target) if names is None else list(names)
        if len(names) != len(target):
            raise ValueError(f"{len(names)} names for a batch of {len(target)}; give one per scan")
        counts = confusion_matrix(
            pred, target, self.num_classes, self.ignore_index, per_image=True
        )
        self._batches.append(counts)
        self.names += names

    def matrices(self) -> np.ndarray:
        """int64 (N, C, C), one per scan in the order of `names`.

        Raises InputError when labels were out of range (CUDA finds out here), or a named scan was
        counted twice, as happens when a distributed sampler pads its last round.
        """
        cms = self._gathered()
        wrong = [name or f"number {i}" for i, name in enumerate(self.names) if cms[i].min() < 0]
        if wrong:
            raise InputError(
                f"labels out of range in scan {', '.join(wrong[:5])}; "
                f"expected 0..{self.num_classes - 1} or {self.ignore_index} (ignored); "
                "relabel them"
            )
        times = Counter(name for name in self.names if name is not None)
        twice = [name for name in times if times[name] > 1]
        if twice:
            raise InputError(
                f"scan {', '.join(twice[:5])} counted more than once; expected each once; "
                "shard without padding"
            )
        return cms

    def compute(self) -> dict[str, np.ndarray | float | int]:
        """`scores` pooled over all scans."""
        return scores(self.matrices().sum(0))

    def all_reduce(self) -> None:
        """Take in the scans of all ranks, in rank order (collective). One rank does nothing."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        if self._reduced:
            raise ValueError("this meter already holds the scans of all ranks; reduce once")
        parts = [None] * dist.get_world_size()
        # Unchecked: an error on one rank alone would leave the others waiting. All raise when
        # reading.
        dist.all_gather_object(parts, (self.names, self._gathered()))
        self.names = []
        self._batches = []
        for names, cms in parts:
            self.names += names
            self._batches.append(torch.from_numpy(cms))
        self._reduced = True

    def _gathered(self) -> np.ndarray:
        cms = [np.zeros((0, self.num_classes, self.num_classes), np.int64)]
        for batch in self._batches:
            cms.append(batch.cpu().numpy())
        return np.concatenate(cms)


def _counts(cm: Tensor | np.ndarray, ndim: int) -> np.ndarray:
    """Confusion matrices as int64, one or many. Raises InputError for what is none."""
    cm = cm.cpu().numpy() if isinstance(cm, Tensor) else np.asarray(cm)
    if cm.ndim != ndim or cm.shape[-1] != cm.shape[-2] or cm.dtype.kind not in "iu":
        shape = "(C, C)" if ndim == 2 else "(N, C, C)"
        raise InputError(
            f"confusion matrix is {cm.dtype} {cm.shape}; expected integers {shape}; "
            "use confusion_matrix"
        )
    if cm.size and cm.min() < 0:
        raise InputError(
            f"confusion matrix holds {cm.min()}, the mark of labels out of range on CUDA; "
            "expected counts; run the same batch on the CPU to see which labels"
        )
    return cm.astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64, NaN for 0 / 0."""
    part = np.asarray(part, np.float64)
    whole = np.asarray(whole, np.float64)
    undefined = np.full(whole.shape, np.nan)
    return np.divide(part, whole, out=undefined, where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """Mean of those that are not NaN, NaN of none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
