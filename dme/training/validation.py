"""Scores of networks on held-out scans, and their pictures."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dme.common import ranks
from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.data.cache import Cache
from dme.drawing.layers import draw_boundaries
from dme.drawing.overlays import CYAN, GREEN, overlay
from dme.drawing.panels import panel, typical
from dme.inference.scan import probabilities
from dme.metrics import ConfusionMeter, scores
from dme.nets.folding import folded
from dme.nets.segmenter import Segmenter
from dme.retina.accuracy import boundary_errors_px, thickness_errors_um
from dme.retina.boundaries import boundaries_from_probabilities
from dme.training.tasks import TASKS, labels


@dataclass
class Validation:
    """Scores networks on the scans `indices` of a set, for `train`; under torchrun on all ranks.

    Three counts: "study", the labels at 256 x 256; "native", at the scans' own pixels; "graded", the same
    without the columns that nobody annotated. With layers also errors of the boundaries at native size.
    """

    small: Cache
    native: Cache
    indices: np.ndarray
    device: torch.device
    task: str = "fluid"
    flip: bool = False  # average over each scan and its mirror image
    counts: dict[str, np.ndarray] = field(
        default_factory=dict, init=False
    )  # (N, C, C) of the last call
    errors_px: np.ndarray | None = field(
        default=None, init=False
    )  # (N, 9), see boundary_errors_px
    thickness_px: np.ndarray | None = field(
        default=None, init=False
    )  # (N, 2, 8), see thickness_errors_um
    after: list[np.ndarray] = field(default_factory=list, init=False)  # pictures of the last call

    @property
    def names(self) -> list[str]:
        return [self.small.names[i] for i in self.indices]

    @property
    def shown(self) -> list[int]:
        """Three scans for pictures: most fluid, the median, least; without fluid first, middle and last."""
        if "fluid" in self.task:
            return [
                int(self.indices[i]) for i in typical([self.small.fluid[i] for i in self.indices])
            ]
        return [int(self.indices[i]) for i in (0, len(self.indices) // 2, -1)]

    def predict(self, model: Segmenter, index: int) -> Tensor:
        """Probabilities (1, classes, H, W): 256 x 256 of a network of size "512", else native."""
        scans = self.small if model.preprocess["size"] == "512" else self.native
        return probabilities(
            model, torch.tensor(scans.images[index], device=self.device), self.flip
        )[None]

    def truths(self, index: int) -> dict[str, Tensor]:
        study, native = (
            labels(self.small, self.native, index, self.task, of) for of in ("study", "native")
        )
        graded = native.clone()
        graded[:, ~torch.from_numpy(self.native.graded(index))] = IGNORE
        return {"study": study, "native": native, "graded": graded}

    def boundaries(self, found: Tensor, index: int) -> np.ndarray:
        """Rows (8, W) at native size from probabilities (1, classes, H, W)."""
        native = _at(found, self.native.images[index].shape)[0]
        return boundaries_from_probabilities(native.float().cpu().numpy())

    def __call__(self, models: dict[str, Segmenter]) -> tuple[dict[str, float], np.ndarray]:
        """Scores of the one network given, and a picture.

        Dice and IoU are means over the classes but the first, pooled over the scans: for fluid its own.
        "score": Dice at 256 x 256; with layers minus the mean boundary error in px.
        """
        (model,) = models.values()
        fast = folded(model)
        rank, world, _ = ranks.join()
        meters = {
            kind: ConfusionMeter(model.arch["num_classes"])
            for kind in ("study", "native", "graded")
        }
        errors = torch.zeros(len(self.indices), 25, dtype=torch.float64, device=self.device)
        mine = range(rank, len(self.indices), world)
        for place in tqdm(mine, desc="validate", unit="scan", leave=False, disable=rank > 0):
            i = self.indices[place]
            found = self.predict(fast, i)
            for kind, truth in self.truths(i).items():
                meters[kind].update(
                    _at(found, truth.shape), truth[None].to(self.device), [self.small.names[i]]
                )
            if "layers" in self.task:
                rows, truth = self.boundaries(found, i), self.native.layers[i]
                of_scan = [
                    boundary_errors_px(rows, truth),
                    *thickness_errors_um(rows, truth, 1),
                ]
                errors[place] = torch.from_numpy(np.concatenate(of_scan))
        measured = {}
        for kind, meter in meters.items():
            meter.all_reduce()
            found = dict(zip(meter.names, meter.matrices(), strict=True))
            self.counts[kind] = np.stack([found[name] for name in self.names])
            pooled = scores(self.counts[kind].sum(0))
            measured |= {
                f"{kind}-{of}": float(np.nanmean(pooled[of][1:])) for of in ("dice", "iou")
            }
        score = measured["study-dice"]
        if "layers" in self.task:
            self.errors_px, thickness = np.split(ranks.total(errors).cpu().numpy(), [9], axis=1)
            self.thickness_px = thickness.reshape(-1, 2, 8)
            measured["boundary-error-px"] = float(np.nanmean(self.errors_px[:, -1]))
            score = -measured["boundary-error-px"]
        self.after = self.drawn(fast, CYAN)
        return {"score": score, **measured}, self.picture()

    def drawn(self, model: Segmenter, colour: tuple[int, int, int]) -> list[np.ndarray]:
        """Pictures of the scans `shown` with what the network, in eval mode, finds."""
        pictures = []
        for i in self.shown:
            found, fluid, rows = self.predict(model, i), None, None
            if "layers" in self.task:
                rows = self.boundaries(found, i)
            if "fluid" in self.task:
                shape = (self.small if rows is None else self.native).images[i].shape
                fluid = _at(found, shape)[0].argmax(0).cpu().numpy() == len(TASKS[self.task]) - 1
            pictures.append(self._draw(i, fluid, rows, colour))
        return pictures

    def _draw(
        self,
        index: int,
        fluid: np.ndarray | None,
        rows: np.ndarray | None,
        colour: tuple[int, int, int],
    ) -> np.ndarray:
        image = (self.small if rows is None else self.native).images[index]
        image = image if fluid is None else overlay(image, fluid, colour)
        return image if rows is None else draw_boundaries(image, rows)

    def picture(self, before: list[np.ndarray] | None = None) -> np.ndarray:
        """The study's Figure 6: B-scan, before and after fine-tuning (of the last call), truth."""
        held = self.small if self.task == "fluid" else self.native
        rows = []
        for row, i in enumerate(self.shown):
            truth = self._draw(
                i,
                held.fluid[i] if "fluid" in self.task else None,
                held.layers[i] if "layers" in self.task else None,
                GREEN,
            )
            earlier = [before[row]] if before else []
            rows.append([held.images[i], *earlier, self.after[row], truth])
        titles = [
            "B-scan",
            *["before"] * (before is not None),
            "after fine-tuning",
            f"truth ({self.task})",
        ]
        cell_width = 256 if self.task == "fluid" else 640
        return panel(rows, titles, [self.small.names[i] for i in self.shown], cell_width)


def agreement(first: Validation, second: Validation) -> tuple[np.ndarray, np.ndarray | None]:
    """How two graders of the same scans differ, at native size.

    Returns counts (N, C, C), rows the first one's labels, and with layers boundary errors (N, 9) in px.
    Raises InputError when they annotated different scans.
    """
    if first.names != second.names:
        raise InputError(
            f"the graders annotated different scans ({first.names[:3]}, ... and {second.names[:3]}, ...)"
        )
    meter, errors = ConfusionMeter(len(TASKS[first.task])), []
    for i, j in zip(first.indices, second.indices, strict=True):
        truth, other = first.truths(i)["native"], second.truths(j)["native"]
        meter.update(other[None], truth[None])
        if "layers" in first.task:
            errors.append(boundary_errors_px(second.native.layers[j], first.native.layers[i]))
    return meter.matrices(), np.stack(errors) if errors else None


def _at(found: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (1, C, H, W) at another size: averaged to a smaller one, bilinear to a larger."""
    if found.shape[-2:] == tuple(size):
        return found
    return F.interpolate(found, tuple(size), mode="bilinear", antialias=True)
