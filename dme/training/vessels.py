"""Vessels in fundus photographs: how well several networks find them, side by side."""

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dme.common import ranks
from dme.data.cache import Cache
from dme.drawing.overlays import CYAN, GREEN, overlay
from dme.drawing.panels import panel
from dme.inference.windows import require_finite, resize, sliding_window
from dme.metrics import scores
from dme.nets.segmenter import Segmenter, normalise
from dme.ops.confusion import confusion_matrix

CLASSES = ["background", "vessel"]
CELL_PX = 560  # width of a photograph in the picture
SCALES = ("scale", "full")  # of the truth: the networks' input, and the photograph itself

Counts = dict[str, np.ndarray]  # scale of the truth -> confusion matrix (2, 2)


class SideBySide(nn.Module):
    """Several networks' logits, at the input's size, concatenated along the channels.

    A backbone they share runs once.
    """

    def __init__(self, models: list[Segmenter]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        features = {}  # by backbone
        logits = []
        for model in self.models:
            backbone = id(model.backbone)
            if backbone not in features:
                features[backbone] = model.backbone(x)
            logits.append(resize(model.head(features[backbone]), x.shape[-2:]))
        return torch.cat(logits, dim=1)  # (N, 2 per network, H, W)


@torch.inference_mode()
def vessel_counts(
    models: dict[str, Segmenter], cache: Cache, full: Cache, chosen: list[int]
) -> tuple[dict[str, Counts], np.ndarray | None]:
    """Confusion matrices per network, with the truth at each of SCALES.

    cache, full: the photographs at the networks' scale and at full size. Sliding window 256 / 170
    at the networks' scale; for the full size its logits are enlarged. Under torchrun every rank
    takes its share of the photographs and all get the sums. Also returns a picture of the first
    photograph (on rank 0).
    """
    rank, world, device = ranks.join()
    net = SideBySide(list(models.values())).to(device, memory_format=torch.channels_last).eval()
    preprocess = next(iter(models.values())).preprocess
    counts = {}  # network -> scale of the truth -> (2, 2), on the device
    for name in models:
        counts[name] = {
            scale: torch.zeros(2, 2, dtype=torch.int64, device=device) for scale in SCALES
        }

    # Every network sees a photograph at once, in the same windows
    picture = None
    for i in tqdm(chosen[rank::world], desc="validate", disable=rank > 0):
        x = normalise(channels_first(cache.images[i])[None].to(device), preprocess)
        logits = sliding_window(net, x.contiguous(memory_format=torch.channels_last))
        require_finite(logits, net, cache.names[i])
        for scale, truth in zip(SCALES, (cache.fluid[i], full.fluid[i]), strict=True):
            truth = torch.from_numpy(truth)[None].to(device)
            by_network = resize(logits, truth.shape[-2:]).split(2, dim=1)
            for name, network_logits in zip(models, by_network, strict=True):
                counts[name][scale] += confusion_matrix(network_logits, truth, 2)
        if i == chosen[0]:
            vessels = logits[0, :2].argmax(0).cpu().numpy()
            picture = _picture(cache, i, vessels, next(iter(models)))

    # What all ranks counted
    sums = {}
    for name, by_scale in counts.items():
        sums[name] = {scale: ranks.total(table).cpu().numpy() for scale, table in by_scale.items()}
    return sums, picture


def _picture(cache: Cache, index: int, vessels: np.ndarray, network: str) -> np.ndarray:
    """A photograph, the vessels found in it, the truth."""
    image = cache.images[index]
    views = [image, overlay(image, vessels, CYAN), overlay(image, cache.fluid[index], GREEN)]
    titles = ["photograph", f"vessels found ({network})", "truth"]
    return panel([views], titles, [cache.names[index]], CELL_PX)


def evaluate_some(
    cache: Cache, chosen: list[int], models: dict[str, Segmenter]
) -> tuple[dict[str, float], np.ndarray | None]:
    """Vessel Dice per network and their mean, the "score"; for `train`."""
    counts, picture = vessel_counts(models, cache, cache, chosen)
    dice = {f"dice-{name}": vessel_dice(counts[name]["scale"]) for name in models}
    return {"score": float(np.mean(list(dice.values()))), **dice}, picture


def vessel_dice(counts: np.ndarray) -> float:
    """From a confusion matrix (2, 2)."""
    return float(scores(counts)["dice"][1])


def channels_first(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
