"""From images to logits: whole image, sliding window, flips, and the study's two test protocols."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from dme.blocks import ConvBN
from dme.layers import CLASSES
from dme.model import Segmenter, normalise
from dme.pixels import without_wedge
from dme.unet import STRIDE

# side to which a 256 x 256 scan is enlarged before the sliding window
PROTOCOLS = {"paper": 2336, "light": 512}
WINDOW, SLIDE_STRIDE = 256, 170


def folded(model: Segmenter) -> Segmenter:
    """A copy that predicts faster: batch norm folded into the convolutions, channels last, no auxiliary head.

    The same function as `model` in eval mode but for rounding (float32). It can be neither trained nor saved.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.aux_head = None  # only training needs it
    for block in model.modules():
        if isinstance(block, ConvBN):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity().eval()
    return model.to(memory_format=torch.channels_last)


def whole(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of a whole image of any size.

    x: normalised (N, C, H, W), padded as the network needs; the logits are cropped back, (N, classes, H, W).
    """
    height, width = x.shape[-2:]
    padded = pad(x)
    return resize(model(padded), padded.shape[-2:])[..., :height, :width]


def pad(x: Tensor) -> Tensor:
    """(N, C, H, W) with right and bottom padded to multiples of 16 by repeating the last pixel."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")


def sliding_window(
    model: nn.Module, x: Tensor, window: int = WINDOW, stride: int = SLIDE_STRIDE, batch: int | None = None
) -> Tensor:
    """Logits averaged over overlapping windows, as OpenMMLab's `slide_inference`.

    x: normalised (N, C, H, W) -> (N, classes, H, W). The last window of a row or column is moved back inside
    the image; an image smaller than the window is one window. batch: windows per forward pass (default 1 on a
    CPU, where more only overflow its caches, 32 on a GPU).
    """
    if not 0 < stride <= window:
        raise ValueError(
            f"stride {stride} must be between 1 and the window's {window} pixels, else pixels are skipped"
        )
    count, _, height, width = x.shape
    tall, wide = min(window, height), min(window, width)
    corners = [
        (i, top, left)
        for i in range(count)
        for top in _starts(height, window, stride)
        for left in _starts(width, window, stride)
    ]
    batch = batch or (32 if x.is_cuda else 1)
    total = coverage = None
    for chunk in (corners[i : i + batch] for i in range(0, len(corners), batch)):
        logits = whole(
            model, torch.stack([x[i, :, top : top + tall, left : left + wide] for i, top, left in chunk])
        )
        if total is None:
            total = logits.new_zeros(count, logits.shape[1], height, width)
            coverage = logits.new_zeros(count, 1, height, width)
        for (i, top, left), piece in zip(chunk, logits, strict=True):
            total[i, :, top : top + tall, left : left + wide] += piece
            coverage[i, :, top : top + tall, left : left + wide] += 1
    return total / coverage


def _starts(side: int, window: int, stride: int) -> list[int]:
    steps = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride + window, side) - window, 0) for i in range(steps)]


def flip_average(predict: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean of the softmax probabilities over an image and its mirror image, (N, classes, H, W).

    predict: normalised (N, C, H, W) -> logits (N, classes, H, W).
    """
    straight = predict(x).softmax(1)
    mirrored = predict(x.flip(-1)).softmax(1).flip(-1)
    return (straight + mirrored) / 2


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing: what OpenMMLab does to logits. x: (N, C, H, W)."""
    if x.shape[-2:] == tuple(size):
        return x
    # of two channels, channels last takes three times as long
    return F.interpolate(x.contiguous(), size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def run_protocol(model: Segmenter, images: Tensor, protocol: str) -> Tensor:
    """Logits of scans under one of the study's test pipelines ("paper" or "light", see PROTOCOLS).

    images: uint8 (N, H, W), square in the study (256 x 256). Each is enlarged to the protocol's side
    (bilinear, rounded to 8 bits, as in the study), normalised, slid over, and the logits are resized back.
    Returns (N, classes, H, W); the label map is their arg-max.
    """
    side = PROTOCOLS[protocol]
    enlarged = resize(images.unsqueeze(1).float(), (side, side)).round()
    logits = sliding_window(model, normalise(enlarged, model.preprocess))
    return resize(logits, images.shape[-2:])


SIZES = {  # how scans of any size enter a network; what it was trained with stands in its preprocess["size"]
    "512": "made 256 x 256 (bicubic) and enlarged to 512 x 512, as in the study",
    "native": "their own pixels",
    "half": "the mean of each 2 x 2 of their pixels",
}
STUDY_SIDE = 256


def entering(image: Tensor, size: str) -> Tensor:
    """A scan, uint8 (H, W), as a network trained with `size` (see SIZES) sees it: uint8 (H', W')."""
    if size == "native":
        return image
    if size == "half":
        height, width = image.shape
        halved = F.interpolate(image[None, None].float(), (-(-height // 2), -(-width // 2)), mode="area")
        return halved.round().byte()[0, 0]
    if image.shape != (STUDY_SIDE, STUDY_SIDE):
        pixels = Image.fromarray(image.cpu().numpy()).resize((STUDY_SIDE,) * 2, Image.Resampling.BICUBIC)
        image = torch.from_numpy(np.array(pixels)).to(image.device)
    side = PROTOCOLS["light"]
    return resize(image[None, None].float(), (side, side)).round().byte()[0, 0]


@torch.inference_mode()
def probabilities(model: Segmenter, image: Tensor, flip: bool = False) -> Tensor:
    """Probability of each class, float32 (classes, H, W), for one scan of any size, uint8 (H, W).

    The scan enters at the size the network was trained with, `model.preprocess["size"]` (see SIZES): of "512"
    a window of 256 slides over it with stride 170, as in the study, else it enters as a whole. flip: average
    with the mirrored scan. Networks that find layers see saturated wedges dark: their edges pass for layers.
    """
    size = model.preprocess["size"]
    if CLASSES[0] in model.classes:
        image = torch.from_numpy(without_wedge(image.cpu().numpy())).to(image.device)
    x = normalise(entering(image, size)[None], model.preprocess)
    logits = sliding_window if size == "512" else whole

    def predict(x: Tensor) -> Tensor:
        return resize(logits(model, x), image.shape)

    return (flip_average(predict, x) if flip else predict(x).softmax(1))[0]
