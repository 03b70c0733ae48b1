"""One scan -> where its fluid and its layers are: what `predict` and Python users call."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.tasks import FLUID, LAYER_CLASSES
from dme.inference.arguments import (
    as_fluid,
    as_network,
    as_scale,
    as_scan,
    as_scans,
    as_threshold,
)
from dme.inference.entry import enter
from dme.inference.sizes import SIZES, size_of
from dme.inference.windows import (
    flip_average,
    require_finite,
    resize,
    sliding_window,
    whole,
)
from dme.nets.segmenter import Segmenter, normalise
from dme.retina.boundaries import boundaries_from_probabilities, with_fluid
from dme.retina.wedge import columns_with_data, mirrored_ends, shows_retina

NEEDED = {  # what is looked for -> the network it takes, and how to get one
    "fluid": ("a network with the class fluid", "./run.sh finetune"),
    "layers": ("a network with the nine classes of the layers", "./run.sh finetune --task layers"),
}


def network_for(target: str, models: Sequence[Segmenter]) -> Segmenter:
    """The first network that finds the target, a key of NEEDED; its classes tell.

    Layers are the nine of `dme.common.tasks.LAYER_CLASSES` in that order; fluid may follow as the
    tenth. Raises InputError if there is none, and if it does not say how scans enter it.
    """
    model = next((model for model in models if _finds(model, target)), None)
    if model is None:
        offered = "; ".join(f"{_name(other)} finds {', '.join(other.classes)}" for other in models)
        network, command = NEEDED[target]
        raise InputError(
            f"{offered}, expected {network}; fine-tune one ({command}) or choose other weights"
        )
    size = model.preprocess.get("size")
    if size not in SIZES:
        raise InputError(
            f"{_name(model)} does not say at which size scans enter it (preprocess size is "
            f"{size!r}, expected {' or '.join(SIZES)}); save it again with the size it was "
            "trained at"
        )
    return model


def _finds(model: Segmenter, target: str) -> bool:
    if target == "fluid":
        return FLUID in model.classes
    return tuple(model.classes) in (LAYER_CLASSES, (*LAYER_CLASSES, FLUID))


def _name(model: Segmenter) -> str:
    return getattr(model, "weights_name", "the network")


def predict(
    model: Segmenter | str | Path,
    image: Any,
    threshold: float = 0.5,
    tta: bool = False,
    scale_um: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fluid of one B-scan of any size.

    model: a network, or a name or file as `load_model` takes it (for many scans load it once).
    image: array or tensor (H, W), or (H, W, 3) with three equal channels, grey values 0..255 or 16
    bits as `dme.data.images.to_scan` takes them; a Pillow image; the path of a picture.
    threshold: fluid is where its probability lies above, 0.5 being the likelier of two classes.
    tta: average with the mirrored scan. scale_um: axial and lateral um per pixel, which networks
    that learnt at a physical scale heed; None where unknown: then the height of the retina
    decides. Returns the mask, uint8 (H, W) of 0 and 1, and the probability of fluid, float32
    (H, W), at the scan's own pixels. Raises InputError for an image it cannot read, a scale that
    no scan has (`dme.common.scale.PLAUSIBLE_UM`) and a network without fluid.
    """
    model = as_network(model)
    network_for("fluid", [model])
    threshold = as_threshold(threshold)
    scale_um = as_scale(scale_um)
    by_class = class_probabilities(model, as_scan(image), tta, scale_um)
    return fluid_mask(model, by_class, threshold)


def predict_volume(
    model: Segmenter | str | Path,
    volume: Any,
    threshold: float = 0.5,
    tta: bool = False,
    scale_um: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fluid of the B-scans of one volume, all on one grey scale.

    volume: array or tensor (N, H, W) or (N, H, W, 3), N at most H and W. The rest is as of
    `predict`; returns masks, uint8 (N, H, W), and probabilities, float32 (N, H, W).
    """
    model = as_network(model)
    network_for("fluid", [model])
    threshold = as_threshold(threshold)
    scale_um = as_scale(scale_um)
    scans = as_scans(volume)
    masks = np.empty((len(scans), *scans[0].shape), np.uint8)
    probability = np.empty(masks.shape, np.float32)
    for i, scan in enumerate(scans):
        by_class = class_probabilities(model, scan, tta, scale_um)
        masks[i], probability[i] = fluid_mask(model, by_class, threshold)
    return masks, probability


def predict_layers(
    model: Segmenter | str | Path,
    image: Any,
    tta: bool = False,
    fluid: np.ndarray | None = None,
    scale_um: Sequence[float] | None = None,
) -> np.ndarray:
    """Boundary rows of one B-scan of any size, float32 (8, W), ordered, in pixels of the scan.

    model, image, tta, scale_um: as of `predict`. fluid: the probability (H, W), 0 to 1, of fluid
    that `predict` gives, of use to a network that finds layers alone: fluid lies within the
    retina. The rows are those of `dme.retina.rows.BOUNDARIES`, counted from 0 at the centre of the
    first pixel, NaN in columns that do not show the retina: beyond the frame, or under a saturated
    wedge. Raises InputError for an image it cannot read and a network without layers.
    """
    model = as_network(model)
    network_for("layers", [model])
    scale_um = as_scale(scale_um)
    scan = as_scan(image)
    fluid = as_fluid(fluid, scan.shape)
    by_class = class_probabilities(model, scan, tta, scale_um)
    return layer_rows(model, scan, by_class, fluid)


def layer_rows(
    model: Segmenter, scan: np.ndarray, by_class: Tensor, fluid: np.ndarray | None
) -> np.ndarray:
    """Rows, as of `predict_layers`, of a scan uint8 (H, W) with the probabilities (classes, H, W)
    of all classes.
    """
    layers = by_class.float().cpu().numpy()
    if fluid is not None and FLUID not in model.classes:
        layers = with_fluid(layers, fluid)
    rows = boundaries_from_probabilities(layers)
    rows[:, ~shows_retina(scan, rows)] = np.nan
    return rows


def fluid_mask(
    model: Segmenter, by_class: Tensor, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and probability of fluid, as of `predict`, from the probabilities (classes, H, W)."""
    probability = by_class[model.classes.index(FLUID)].float().cpu().numpy()
    return (probability > threshold).astype(np.uint8), probability


def class_probabilities(
    model: Segmenter, scan: np.ndarray, tta: bool = False, scale_um: Sequence[float] | None = None
) -> Tensor:
    """Probability of each class at a scan's pixels, (classes, H, W), from uint8 (H, W).

    scale_um: as it is, also of a scan that was resampled beyond what instruments have.
    """
    finds_layers = LAYER_CLASSES[0] in model.classes
    if finds_layers:
        empty = ~columns_with_data(scan)
        scan = mirrored_ends(scan)
    device = next(model.parameters()).device
    pixels = torch.tensor(np.ascontiguousarray(scan), device=device)

    # dropout and batch statistics of a network that is being trained stay out
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    by_class = probabilities(model, pixels, flip=tta, scale_um=scale_um)
    for module in training:
        module.training = True
    # what is mirrored into columns without data is no fluid
    if finds_layers and FLUID in model.classes and empty.any():
        columns = torch.from_numpy(empty).to(device)
        with torch.inference_mode():
            by_class[model.classes.index(FLUID)][:, columns] = 0
    return by_class


def scale_note(model: Segmenter, image: np.ndarray, scale_um: Sequence[float] | None) -> str:
    """What is to be said of the scale at which a scan uint8 (H, W) enters; "" for nothing."""
    return size_of(model.preprocess).fit(torch.tensor(image), scale_um).note


def scale_lines(notes: Iterable[str]) -> list[str]:
    """What `scale_note` said of many scans, a line for each kind, with how many they are."""
    lines = []
    for note, count in Counter(filter(None, notes)).items():
        scans = "1 scan" if count == 1 else f"{count} scans"
        lines.append(f"{scans}: {note} with `scale`")
    return lines


@torch.inference_mode()
def probabilities(
    model: Segmenter,
    image: Tensor,
    flip: bool = False,
    name: str | None = None,
    scale_um: Sequence[float] | None = None,
) -> Tensor:
    """Probability of each class, float32 (classes, H, W), for one scan of any size, uint8 (H, W).

    The scan enters as the network's `preprocess` states (`dme.inference.entry.enter`): of size
    "512" a window of 256 slides over it with stride 170, as in the study, else it enters as a
    whole. flip: average with the mirrored scan. name: the scan's, for messages. scale_um: axial
    and lateral um per pixel, None where unknown. Raises InputError where the network makes NaN or
    infinity.
    """
    entered = enter(image, model.preprocess, model.classes, scale_um)
    x = normalise(entered.image[None], model.preprocess)  # (1, C, H', W')
    logits = sliding_window if entered.size.slides else whole

    def at_scan(x: Tensor) -> Tensor:
        return resize(logits(model, x), image.shape)

    found = (flip_average(at_scan, x) if flip else at_scan(x).softmax(1))[0]
    require_finite(found, model, name)
    return found
