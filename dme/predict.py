"""One scan -> where its fluid is: what `./run.sh predict` and Python users call."""

import numpy as np
import torch

from dme.errors import InputError
from dme.infer import SIZES, probabilities
from dme.inputs import to_scan
from dme.model import Segmenter

FLUID = "fluid"


def check_model(model: Segmenter) -> None:
    """Raises InputError unless the network finds fluid and says how scans enter it."""
    name = getattr(model, "weights_name", "the network")
    if FLUID not in model.classes:
        raise InputError(
            f"{name} finds {', '.join(model.classes)}, expected a network with the class {FLUID}; "
            "fine-tune it (./run.sh finetune) or choose other weights"
        )
    size = model.preprocess.get("size")
    if size not in SIZES:
        raise InputError(
            f"{name} does not say at which size scans enter it (preprocess size is {size!r}, expected "
            f"{' or '.join(SIZES)}); save it again with the size it was trained at"
        )


def predict(
    model: Segmenter, image: np.ndarray, threshold: float = 0.5, tta: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Fluid of one B-scan of any size.

    image: (H, W) grey or (H, W, 3) colour; 8 or 16 bit, or float grey values 0..255. threshold: fluid is
    where its probability lies above, 0.5 being the likelier of two classes. tta: average with the mirrored
    scan. Returns the mask, uint8 (H, W) of 0 and 1, and the probability of fluid, float32 (H, W).
    Raises InputError for an image it cannot read and a network without fluid.
    """
    check_model(model)
    try:
        scan = to_scan(np.asarray(image))
    except ValueError as e:
        raise InputError(f"image: {e}") from e
    device = next(model.parameters()).device
    found = probabilities(model, torch.tensor(np.ascontiguousarray(scan), device=device), flip=tta)
    probability = found[model.classes.index(FLUID)].float().cpu().numpy()
    return (probability > threshold).astype(np.uint8), probability
