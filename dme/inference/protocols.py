"""The study's two test protocols."""

import torch
from torch import Tensor

from dme.inference.windows import resize, sliding_window
from dme.nets.segmenter import Segmenter, normalise

# side to which a 256 x 256 scan is enlarged before the sliding window
PROTOCOLS = {"paper": 2336, "light": 512}


@torch.inference_mode()
def run_protocol(model: Segmenter, images: Tensor, protocol: str) -> Tensor:
    """Logits of scans under one of the study's test pipelines ("paper" or "light", see PROTOCOLS).

    images: uint8 (N, H, W), square in the study (256 x 256). Each is enlarged to the protocol's
    side (bilinear, rounded to 8 bits, as in the study), normalised, slid over, and the logits are
    resized back. Returns (N, classes, H, W); the label map is their arg-max.
    """
    side = PROTOCOLS[protocol]
    enlarged = resize(images.unsqueeze(1).float(), (side, side)).round()
    logits = sliding_window(model, normalise(enlarged, model.preprocess))
    return resize(logits, images.shape[-2:])
