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
    hit, truth, guess = np.diag(cm), cm.sum(1), cm.sum(0)  # (C,) each
    per_class = {
        "iou": _ratio(hit, truth + guess - hit),
        "dice": _ratio(2 * hit, truth + guess),
        "precision": _ratio(hit, guess),
        "recall": _ratio(hit, truth),
    }
    means = {f"mean_{name}": _mean(values) for name, values in per_class.items()}
    all_accuracy = float(_ratio(hit.sum(), cm.sum()))
    return (
        per_class
        | means
        | {"all_accuracy": all_accuracy, "absent": int((truth + guess == 0).sum())}
    )


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
            f"positive={positive}; wanted a class, 0..{cms.shape[-1] - 1}; 1 is fluid"
        )
    hit = cms[:, positive, positive]  # (N,)
    both = cms[:, positive].sum(1) + cms[:, :, positive].sum(
        1
    )  # pixels in truth + pixels in prediction
    dice, iou = (
        np.where(both == 0, empty, s) for s in (_ratio(2 * hit, both), _ratio(hit, both - hit))
    )
    means = {"mean_dice": _mean(dice), "mean_iou": _mean(iou)}
    return {"dice": dice, "iou": iou} | means | {"empty": int((both == 0).sum())}


def table1_measure(cms: Tensor | np.ndarray) -> float:
    """The "mIoU" of the study's Table 1: mean over scans (N, C, C) of class 1's IoU, 0 if empty."""
    return per_scan(cms, positive=1, empty=0.0)["mean_iou"]


class ConfusionMeter:
    """Confusion matrices of scans, in order, from which every pooled or per-scan score follows.

    Updating does not wait for the device; `matrices` and `compute` do.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.num_classes, self.ignore_index = num_classes, ignore_index
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
        self._batches.append(
            confusion_matrix(pred, target, self.num_classes, self.ignore_index, per_image=True)
        )
        self.names += names

    def matrices(self) -> np.ndarray:
        """int64 (N, C, C), one per scan in the order of `names`.

        Raises InputError when labels were out of range (CUDA finds out here), or a named scan was
        counted twice, as happens when a distributed sampler pads its last round.
        """
        cms = self._gathered()
        wrong = [name or f"number {i}" for i, name in enumerate(self.names) if cms[i].min() < 0]
        if wrong:
            wanted = f"0..{self.num_classes - 1} or {self.ignore_index} (ignored)"
            raise InputError(
                f"labels out of range in scan {', '.join(wrong[:5])}; wanted {wanted}; relabel them"
            )
        twice = [
            name for name, times in Counter(self.names).items() if name is not None and times > 1
        ]
        if twice:
            raise InputError(
                f"scan {', '.join(twice[:5])} counted more than once; wanted each once; shard without padding"
            )
        return cms

    def compute(self) -> dict[str, np.ndarray | float | int]:
        """`scores` pooled over all scans."""
        return scores(self.matrices().sum(0))

    def all_reduce(self) -> None:
        """Take in the scans of all ranks, in rank order (collective; one process alone does nothing)."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        if self._reduced:
            raise ValueError("this meter already holds the scans of all ranks; reduce once")
        parts = [None] * dist.get_world_size()
        # Unchecked: an error on one rank alone would leave the others waiting. All raise when
        # reading.
        dist.all_gather_object(parts, (self.names, self._gathered()))
        self.names = [name for names, _ in parts for name in names]
        self._batches = [torch.from_numpy(cms) for _, cms in parts]
        self._reduced = True

    def _gathered(self) -> np.ndarray:
        none = np.zeros((0, self.num_classes, self.num_classes), np.int64)
        return np.concatenate([none, *(batch.cpu().numpy() for batch in self._batches)])


def _counts(cm: Tensor | np.ndarray, ndim: int) -> np.ndarray:
    cm = cm.cpu().numpy() if isinstance(cm, Tensor) else np.asarray(cm)
    if cm.ndim != ndim or cm.shape[-1] != cm.shape[-2] or cm.dtype.kind not in "iu":
        wanted = f"integers {'(C, C)' if ndim == 2 else '(N, C, C)'}"
        raise InputError(
            f"confusion matrix is {cm.dtype} {cm.shape}; wanted {wanted}; use confusion_matrix"
        )
    if cm.size and cm.min() < 0:
        found = f"confusion matrix holds {cm.min()}, the mark of labels out of range on CUDA"
        raise InputError(
            f"{found}; wanted counts; run the same batch on the CPU to see which labels"
        )
    return cm.astype(np.int64)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole in float64, NaN for 0 / 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
