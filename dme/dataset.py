"""From the cache to training and validation: scans and labels at a network's size, scores on the rest."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dme import layers, ranks
from dme.augment import TrainingSet
from dme.bscan import IGNORE
from dme.cache import Cache
from dme.errors import InputError
from dme.figures import CYAN, GREEN, overlay, panel, typical
from dme.infer import PROTOCOLS, STUDY_SIDE, entering, folded, probabilities
from dme.layer_figures import draw_boundaries
from dme.metrics import ConfusionMeter, scores
from dme.model import Segmenter
from dme.pixels import without_wedge

TASKS = {  # what a network tells apart, in label order
    "fluid": ["background", "fluid"],
    "layers": [*layers.CLASSES],
    "layers+fluid": [*layers.CLASSES, "fluid"],
}


def check_annotated(native: Cache, task: str) -> None:
    """Raises InputError for a set without the truth that the task needs."""
    if "fluid" in task and native.fluid is None:
        raise InputError(f"the scans of {native.description} have no fluid masks; training needs the truth")
    if "layers" in task:
        if native.layers is None:
            raise InputError(
                f"the scans of {native.description} have no layer boundaries; --task {task} needs them: "
                "boundaries/NAME.npy beside images/, or .mat files"
            )
        unknown = [
            name
            for name, rows in zip(native.names, native.layers, strict=True)
            if not np.isfinite(rows).all(0).any()
        ]
        if unknown:
            raise InputError(
                f"{', '.join(unknown[:5])}: no column has all 8 boundaries, every one holds NaN; leave "
                f"{'such scans' if len(unknown) > 1 else 'it'} out of the set"
            )


def training_set(
    small: Cache,
    native: Cache,
    indices: np.ndarray,
    task: str,
    size: str,
    ungraded: str,
    device: torch.device,
) -> TrainingSet:
    """Scans `indices` as a network of `size` (see dme.infer.SIZES) sees them, with labels to match.

    small, native: caches of one set, at 256 x 256 and at its own pixels. ungraded: "ignore" makes columns
    that nobody annotated unknown (255), "background" leaves them; without layer rows they always are unknown
    to a task with layers.
    """
    images, masks = [], []
    for i in indices:
        scan = (small if size == "512" else native).images[i]
        scan = without_wedge(scan) if "layers" in task else scan  # as dme.infer.probabilities does
        images.append(entering(torch.tensor(scan), size).to(device))
        mask = labels(small, native, i, task, size)
        if ungraded == "ignore":
            graded = torch.from_numpy(native.graded(i))[None, None, None].float()
            mask[:, F.interpolate(graded, (1, mask.shape[1]))[0, 0, 0] == 0] = IGNORE
        masks.append(mask.to(device))
    fluid = TASKS[task].index("fluid") if "fluid" in task else None
    return TrainingSet(images, masks, [small.names[i] for i in indices], fluid)


def labels(small: Cache, native: Cache, index: int, task: str, size: str) -> Tensor:
    """Truth of a scan, uint8 (H, W) of the classes of `task` and 255, at the pixels of `size`.

    size: as in dme.infer.SIZES, or "study", 256 x 256. Fluid: of "512" nearest from the mask of 256 x 256, as
    in the study; of "half" where it is at least half, unknown where any pixel is. Layers are drawn from rows
    at that size, below fluid.
    """
    fluid = None
    if "fluid" in task:
        held = small if size in ("512", "study") else native
        fluid = entering_mask(torch.tensor(held.fluid[index]), size)
    if task == "fluid":
        return fluid
    height, width = shape = native.images[index].shape[:2]
    side = {"study": STUDY_SIDE, "512": PROTOCOLS["light"]}.get(size)
    scaled = (side, side) if side else (-(-height // 2), -(-width // 2)) if size == "half" else shape
    rows = layers.scale_rows(native.layers[index], shape, scaled)
    return torch.from_numpy(layers.layer_labels(rows, scaled[0], None if fluid is None else fluid.numpy()))


def entering_mask(mask: Tensor, size: str) -> Tensor:
    """A mask uint8 (H, W) at the pixels that `dme.infer.entering` gives its scan."""
    if size in ("native", "study"):
        return mask
    if size == "512":
        return mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    halved = tuple(-(-side // 2) for side in mask.shape)
    fluid, unknown = (
        F.interpolate((mask == k)[None, None].float(), halved, mode="area")[0, 0] for k in (1, IGNORE)
    )
    return torch.where(unknown > 0, IGNORE, fluid >= 0.5).byte()


@dataclass
class Validation:
    """Scores networks on the scans `indices` of a set, for `dme.train.train`; under torchrun on all ranks.

    Three counts: "study", the labels at 256 x 256; "native", at the scans' own pixels; "graded", the same
    without the columns that nobody annotated. With layers also errors of the boundaries at native size.
    """

    small: Cache
    native: Cache
    indices: np.ndarray
    device: torch.device
    task: str = "fluid"
    flip: bool = False  # average over each scan and its mirror image
    counts: dict[str, np.ndarray] = field(default_factory=dict, init=False)  # (N, C, C) of the last call
    errors_px: np.ndarray | None = field(default=None, init=False)  # (N, 9), see boundary_errors_px
    thickness_px: np.ndarray | None = field(default=None, init=False)  # (N, 2, 8), see thickness_errors_um
    after: list[np.ndarray] = field(default_factory=list, init=False)  # pictures of the last call

    @property
    def names(self) -> list[str]:
        return [self.small.names[i] for i in self.indices]

    @property
    def shown(self) -> list[int]:
        """Three scans for pictures: most fluid, the median, least; without fluid first, middle and last."""
        if "fluid" in self.task:
            return [int(self.indices[i]) for i in typical([self.small.fluid[i] for i in self.indices])]
        return [int(self.indices[i]) for i in (0, len(self.indices) // 2, -1)]

    def predict(self, model: Segmenter, index: int) -> Tensor:
        """Probabilities (1, classes, H, W): 256 x 256 of a network of size "512", else native."""
        scans = self.small if model.preprocess["size"] == "512" else self.native
        return probabilities(model, torch.tensor(scans.images[index], device=self.device), self.flip)[None]

    def truths(self, index: int) -> dict[str, Tensor]:
        study, native = (labels(self.small, self.native, index, self.task, of) for of in ("study", "native"))
        graded = native.clone()
        graded[:, ~torch.from_numpy(self.native.graded(index))] = IGNORE
        return {"study": study, "native": native, "graded": graded}

    def boundaries(self, found: Tensor, index: int) -> np.ndarray:
        """Rows (8, W) at native size from probabilities (1, classes, H, W)."""
        return layers.boundaries_from_probabilities(_at(found, self.native.images[index].shape)[0])

    def __call__(self, models: dict[str, Segmenter]) -> tuple[dict[str, float], np.ndarray]:
        """Scores of the one network given, and a picture.

        Dice and IoU are means over the classes but the first, pooled over the scans: for fluid its own.
        "score": Dice at 256 x 256; with layers minus the mean boundary error in px.
        """
        (model,) = models.values()
        fast = folded(model)
        rank, world, _ = ranks.join()
        meters = {kind: ConfusionMeter(model.arch["num_classes"]) for kind in ("study", "native", "graded")}
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
                    layers.boundary_errors_px(rows, truth),
                    *layers.thickness_errors_um(rows, truth, 1),
                ]
                errors[place] = torch.from_numpy(np.concatenate(of_scan))
        measured = {}
        for kind, meter in meters.items():
            meter.all_reduce()
            found = dict(zip(meter.names, meter.matrices(), strict=True))
            self.counts[kind] = np.stack([found[name] for name in self.names])
            pooled = scores(self.counts[kind].sum(0))
            measured |= {f"{kind}-{of}": float(np.nanmean(pooled[of][1:])) for of in ("dice", "iou")}
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
        self, index: int, fluid: np.ndarray | None, rows: np.ndarray | None, colour: tuple[int, int, int]
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
        titles = ["B-scan", *["before"] * (before is not None), "after fine-tuning", f"truth ({self.task})"]
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
            errors.append(layers.boundary_errors_px(second.native.layers[j], first.native.layers[i]))
    return meter.matrices(), np.stack(errors) if errors else None


def _at(found: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (1, C, H, W) at another size: averaged to a smaller one, bilinear to a larger."""
    if found.shape[-2:] == tuple(size):
        return found
    return F.interpolate(found, tuple(size), mode="bilinear", antialias=True)
