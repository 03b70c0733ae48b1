"""From the cache to training and validation: scans at a network's size, scores on held-out ones."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dme import ranks
from dme.bscan import IGNORE
from dme.cache import Cache
from dme.figures import CYAN, GREEN, RED, overlay, panel, typical
from dme.infer import STUDY_SIDE, entering, probabilities
from dme.metrics import ConfusionMeter, scores
from dme.model import Segmenter
from dme.train import TrainingSet


def training_set(
    small: Cache, native: Cache, indices: np.ndarray, size: str, ungraded: str, device: torch.device
) -> TrainingSet:
    """Scans `indices` as a network of `size` (see dme.infer.SIZES) sees them, with masks to match.

    small, native: caches of one set, at 256 x 256 and at its own pixels. Masks: of "512" nearest from those
    of 256 x 256, as in the study; of "half" fluid where it is at least half, unknown where any pixel is.
    ungraded: "ignore" makes columns that nobody annotated unknown (255), "background" leaves them.
    """
    images, masks = [], []
    for i in indices:
        scan = torch.tensor((small if size == "512" else native).images[i])
        images.append(entering(scan, size).to(device))
        mask = torch.tensor((small if size == "512" else native).fluid[i])
        if ungraded == "ignore":
            graded = torch.from_numpy(native.graded(i))[None, None, None].float()
            mask[:, F.interpolate(graded, (1, mask.shape[1]))[0, 0, 0] == 0] = IGNORE
        masks.append(entering_mask(mask, size).to(device))
    return TrainingSet(images, masks, [small.names[i] for i in indices])


def entering_mask(mask: Tensor, size: str) -> Tensor:
    """A mask uint8 (H, W) at the pixels that `dme.infer.entering` gives its scan."""
    if size == "native":
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

    Three counts: "study", the masks of 256 x 256; "native", the masks at the scans' own pixels; "graded", the
    same without the columns that nobody annotated.
    """

    small: Cache
    native: Cache
    indices: np.ndarray
    device: torch.device
    flip: bool = False  # average over each scan and its mirror image
    counts: dict[str, np.ndarray] = field(default_factory=dict, init=False)  # (N, 2, 2) of the last call

    @property
    def names(self) -> list[str]:
        return [self.small.names[i] for i in self.indices]

    @property
    def shown(self) -> list[int]:
        return [int(self.indices[i]) for i in typical(self.small.fluid[self.indices])]

    def predict(self, model: Segmenter, index: int) -> Tensor:
        """Probabilities (1, classes, H, W): 256 x 256 of a network of size "512", else native."""
        scans = self.small if model.preprocess["size"] == "512" else self.native
        return probabilities(model, torch.tensor(scans.images[index], device=self.device), self.flip)[None]

    def truths(self, index: int) -> dict[str, Tensor]:
        native = torch.tensor(self.native.fluid[index])
        graded = native.clone()
        graded[:, ~torch.from_numpy(self.native.graded(index))] = IGNORE
        return {"study": torch.tensor(self.small.fluid[index]), "native": native, "graded": graded}

    def labels(self, model: Segmenter, indices: list[int]) -> list[np.ndarray]:
        """Label maps uint8 (256, 256)."""
        model = model.to(self.device, memory_format=torch.channels_last).eval()
        side = (STUDY_SIDE, STUDY_SIDE)
        return [_at(self.predict(model, i), side)[0].argmax(0).byte().cpu().numpy() for i in indices]

    def __call__(self, models: dict[str, Segmenter]) -> tuple[dict[str, float], np.ndarray]:
        """Pooled fluid Dice and IoU of the one network given ("score": Dice at 256 x 256), and a picture."""
        (model,) = models.values()
        rank, world, _ = ranks.join()
        meters = {kind: ConfusionMeter(model.arch["num_classes"]) for kind in ("study", "native", "graded")}
        for i in tqdm(self.indices[rank::world], desc="validate", unit="scan", leave=False, disable=rank > 0):
            found = self.predict(model, i)
            for kind, truth in self.truths(i).items():
                meters[kind].update(
                    _at(found, truth.shape), truth[None].to(self.device), [self.small.names[i]]
                )
        measured = {}
        for kind, meter in meters.items():
            meter.all_reduce()
            found = dict(zip(meter.names, meter.matrices(), strict=True))
            self.counts[kind] = np.stack([found[name] for name in self.names])
            pooled = scores(self.counts[kind].sum(0))
            measured |= {f"{kind}-{of}": float(pooled[of][1]) for of in ("dice", "iou")}
        return {"score": measured["study-dice"], **measured}, self.picture(self.labels(model, self.shown))

    def picture(self, after: list[np.ndarray], before: list[np.ndarray] | None = None) -> np.ndarray:
        """The study's Figure 6: B-scan, before and after fine-tuning, truth."""
        lines = []
        for row, i in enumerate(self.shown):
            image = self.small.images[i]
            earlier = [overlay(image, before[row], RED)] if before else []
            lines.append(
                [
                    image,
                    *earlier,
                    overlay(image, after[row], CYAN),
                    overlay(image, self.small.fluid[i], GREEN),
                ]
            )
        titles = ["B-scan", *["before"] * (before is not None), "after fine-tuning", "truth (fluid)"]
        return panel(lines, titles, [self.small.names[i] for i in self.shown], cell_width=256)


def _at(found: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (1, C, H, W) at another size: averaged to a smaller one, bilinear to a larger."""
    if found.shape[-2:] == tuple(size):
        return found
    return F.interpolate(found, tuple(size), mode="bilinear", antialias=True)
