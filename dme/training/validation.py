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
from dme.common.tasks import TASKS, Task
from dme.data.cache import Cache
from dme.drawing.layers import draw_boundaries
from dme.drawing.overlays import CYAN, GREEN, overlay
from dme.drawing.panels import panel, typical
from dme.inference.scan import probabilities
from dme.inference.sizes import NATIVE, SIZES, STUDY
from dme.metrics import ConfusionMeter, scores
from dme.nets.folding import folded
from dme.nets.segmenter import Segmenter
from dme.retina.accuracy import boundary_errors_px, thickness_errors_px
from dme.retina.boundaries import boundaries_from_probabilities
from dme.retina.rows import BOUNDARIES, THICKNESSES
from dme.training.labelled import labels

TRUTHS = ("study", "native", "central")
BOUNDARY_ERRORS = len(BOUNDARIES) + 1  # of each, and their mean


@dataclass
class Validation:
    """Scores networks on the scans `indices` of a set, for `train`; under torchrun on all ranks.

    Three counts: "study", the labels at 256 x 256; "native", at the scans' own pixels; "central",
    the same within `Cache.central`. With layers also errors of the boundaries
    at native size.
    """

    small: Cache
    native: Cache
    indices: np.ndarray
    device: torch.device
    task: Task = TASKS["fluid"]
    flip: bool = False  # average over each scan and its mirror image
    # Of the last call: counts (N, C, C), errors of boundaries (N, 9) and of thickness (N, 2, 8),
    # absolute and with sign, and pictures
    counts: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    boundary_errors_px: np.ndarray | None = field(default=None, init=False)
    thickness_errors_px: np.ndarray | None = field(default=None, init=False)
    after: list[np.ndarray] = field(default_factory=list, init=False)

    @property
    def names(self) -> list[str]:
        return [self.small.names[i] for i in self.indices]

    @property
    def shown(self) -> list[int]:
        """Up to three: most fluid, the median, least; without fluid first, middle and last."""
        if self.task.finds_fluid:
            places = typical([self.small.fluid[i] for i in self.indices])
        else:
            last = len(self.indices) - 1
            places = dict.fromkeys((0, len(self.indices) // 2, last))
        return [int(self.indices[place]) for place in places]

    def predict(self, model: Segmenter, index: int) -> Tensor:
        """Probabilities (1, classes, H, W): 256 x 256 of a network of size "512", else native."""
        scans = self.small if SIZES[model.preprocess["size"]].of_study else self.native
        image = torch.tensor(scans.images[index], device=self.device)
        name = self.small.names[index]
        return probabilities(model, image, self.flip, name, self.native.scale_um)[None]

    def truths(self, index: int) -> dict[str, Tensor]:
        """Labels of a scan for each of TRUTHS, uint8 (H, W)."""
        study = labels(self.small, self.native, index, self.task, STUDY)
        native = labels(self.small, self.native, index, self.task, NATIVE)
        central = native.clone()
        central[:, ~torch.from_numpy(self.native.central(index))] = IGNORE
        return {"study": study, "native": native, "central": central}

    def boundaries(self, by_class: Tensor, index: int) -> np.ndarray:
        """Rows (8, W) at native size from probabilities (1, classes, H, W)."""
        native = _at(by_class, self.native.images[index].shape)[0]
        return boundaries_from_probabilities(native.float().cpu().numpy())

    def __call__(self, models: dict[str, Segmenter]) -> tuple[dict[str, float], np.ndarray]:
        """Scores of the one network given, and a picture.

        Dice and IoU are means over the classes but the first, pooled over the scans: for fluid its
        own. "score": Dice at 256 x 256; with layers minus the mean boundary error in px.
        """
        (model,) = models.values()
        model = folded(model)
        measured = self._count(model)
        if self.task.finds_layers:
            measured["boundary-error-px"] = float(np.nanmean(self.boundary_errors_px[:, -1]))
            score = -measured["boundary-error-px"]
        else:
            score = measured["study-dice"]
        self.after = self.drawn(model, CYAN)
        return {"score": score, **measured}, self.picture()

    def _count(self, model: Segmenter) -> dict[str, float]:
        """Fill counts, and with layers the errors; returns Dice and IoU of each count."""
        rank, world, _ = ranks.join()
        meters = {kind: ConfusionMeter(model.arch["num_classes"]) for kind in TRUTHS}
        # Each rank fills the rows of its scans
        shape = (len(self.indices), BOUNDARY_ERRORS + 2 * len(THICKNESSES))
        errors_px = torch.zeros(shape, dtype=torch.float64, device=self.device)
        places = range(rank, len(self.indices), world)

        # Each rank measures its share of the scans
        for place in tqdm(places, desc="validate", unit="scan", leave=False, disable=rank > 0):
            i = self.indices[place]
            by_class = self.predict(model, i)
            for kind, truth in self.truths(i).items():
                sized = _at(by_class, truth.shape)
                meters[kind].update(sized, truth[None].to(self.device), [self.small.names[i]])
            if self.task.finds_layers:
                errors_px[place] = self._layer_errors_px(by_class, i)

        # What all ranks found, put together
        if self.task.finds_layers:
            all_px = ranks.total(errors_px).cpu().numpy()
            self.boundary_errors_px = all_px[:, :BOUNDARY_ERRORS]
            of_thickness_px = all_px[:, BOUNDARY_ERRORS:]
            self.thickness_errors_px = of_thickness_px.reshape(-1, 2, len(THICKNESSES))

        # Scores pooled over the scans
        measured = {}
        for kind, meter in meters.items():
            meter.all_reduce()
            by_name = dict(zip(meter.names, meter.matrices(), strict=True))
            self.counts[kind] = np.stack([by_name[name] for name in self.names])
            pooled = scores(self.counts[kind].sum(0))
            for measure in ("dice", "iou"):
                measured[f"{kind}-{measure}"] = float(np.nanmean(pooled[measure][1:]))
        return measured

    def _layer_errors_px(self, by_class: Tensor, index: int) -> Tensor:
        """Of one scan: of boundaries, and of thickness, absolute and with sign, in a row."""
        rows = self.boundaries(by_class, index)
        truth = self.native.layers[index]
        absolute, bias = thickness_errors_px(rows, truth)
        errors_px = np.concatenate([boundary_errors_px(rows, truth), absolute, bias])
        return torch.from_numpy(errors_px)

    def drawn(self, model: Segmenter, colour: tuple[int, int, int]) -> list[np.ndarray]:
        """Pictures of the scans `shown` with what the network, in eval mode, finds."""
        pictures = []
        for i in self.shown:
            by_class = self.predict(model, i)
            rows = self.boundaries(by_class, i) if self.task.finds_layers else None
            fluid = None
            if self.task.finds_fluid:
                label = _at(by_class, self.native.images[i].shape)[0].argmax(0)
                fluid = label.cpu().numpy() == self.task.fluid_label
            pictures.append(self._draw(i, fluid, rows, colour))
        return pictures

    def _draw(
        self,
        index: int,
        fluid: np.ndarray | None,
        rows: np.ndarray | None,
        colour: tuple[int, int, int],
    ) -> np.ndarray:
        image = self.native.images[index]
        if fluid is not None:
            image = overlay(image, fluid, colour)
        return image if rows is None else draw_boundaries(image, rows)

    def picture(self, before: list[np.ndarray] | None = None) -> np.ndarray:
        """The study's Figure 6: B-scan, before and after fine-tuning (of the last call), truth."""
        # A row of pictures for each scan, at its own size: as high and wide as it was taken
        rows = []
        for place, i in enumerate(self.shown):
            fluid = self.native.fluid[i] if self.task.finds_fluid else None
            layers = self.native.layers[i] if self.task.finds_layers else None
            row = [self.native.images[i], self.after[place], self._draw(i, fluid, layers, GREEN)]
            if before is not None:
                row.insert(1, before[place])
            rows.append(row)

        # Their captions
        titles = ["B-scan", "after fine-tuning", f"truth ({self.task.name})"]
        if before is not None:
            titles.insert(1, "before")
        names = [self.small.names[i] for i in self.shown]
        return panel(rows, titles, names, 640 if self.task.finds_layers else 384)


def agreement(first: Validation, second: Validation) -> tuple[np.ndarray, np.ndarray | None]:
    """How two graders of the same scans differ, at native size.

    Returns counts (N, C, C), rows the first one's labels, and with layers boundary errors (N, 9)
    in px. Raises InputError when they annotated different scans.
    """
    if first.names != second.names:
        raise InputError(
            "the graders annotated different scans "
            f"({first.names[:3]}, ... and {second.names[:3]}, ...)"
        )
    meter = ConfusionMeter(len(first.task.classes))
    errors = []
    for i, j in zip(first.indices, second.indices, strict=True):
        truth = first.truths(i)["native"]
        other = second.truths(j)["native"]
        meter.update(other[None], truth[None])
        if first.task.finds_layers:
            errors.append(boundary_errors_px(second.native.layers[j], first.native.layers[i]))
    return meter.matrices(), np.stack(errors) if errors else None


def _at(by_class: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (1, C, H, W) at another size: averaged to a smaller, bilinear to a larger."""
    if by_class.shape[-2:] == tuple(size):
        return by_class
    return F.interpolate(by_class, tuple(size), mode="bilinear", antialias=True)
