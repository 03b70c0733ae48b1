"""`dme::sample_crops`: a batch's crops, each turned, scaled, mirrored by itself, in one launch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.ops import needing_triton

# image (C, H, W), labels uint8 (H, W), inside the frame bool (H, W)
Crop = tuple[Tensor, Tensor, Tensor]


def sample_crops(
    images: list[Tensor], masks: list[Tensor], geometry: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A crop of height x width pixels of each of B scans: image bilinear, mask nearest.

    images: uint8 (H, W), or (C, H, W) with one C; masks: uint8 (H, W); sizes may differ, any
        strides, all on one device.
    geometry: float64 (B, 6) on the CPU, per scan: top and left of the crop in pixels of the scaled
        frame, beyond which it may reach; source pixels per scaled pixel along y and x; angle in
        radians by which the crop is turned about its centre; 1 to mirror it left to right.
    Not differentiable.

    Returns image float32 (B, C, height, width) on the scale 0..255, labels uint8 (B, height,
    width), and bool (B, height, width): inside the frame. Elsewhere labels are 255 and the image
    holds any value. A crop neither scaled nor turned is copied bit for bit. Scaling down aliases a
    little, as OpenCV's default does. Raises InputError for lists that do not fit and other types.
    """
    _check(images, masks, geometry)
    images = [image if image.ndim == 3 else image[None] for image in images]
    return torch.ops.dme.sample_crops(images, masks, geometry, height, width)


def _check(images: list[Tensor], masks: list[Tensor], geometry: Tensor) -> None:
    if not len(images) == len(masks) == len(geometry) >= 1 or geometry.shape[1:] != (6,):
        raise InputError(
            f"{len(images)} images, {len(masks)} masks and geometry {tuple(geometry.shape)}; "
            "expected as many of each, at least 1, and geometry (B, 6)"
        )
    for image, mask in zip(images, masks, strict=True):
        if image.dtype != torch.uint8 or mask.dtype != torch.uint8:
            raise InputError(
                f"found an image of {image.dtype} and a mask of {mask.dtype}; expected uint8"
            )
        if mask.ndim != 2 or image.shape[-2:] != mask.shape or image.ndim not in (2, 3):
            raise InputError(
                f"found an image {tuple(image.shape)} and its mask {tuple(mask.shape)}; "
                "expected (H, W) or (C, H, W), and (H, W)"
            )


def crops_by_pytorch(
    images: list[Tensor], masks: list[Tensor], geometry: Tensor, height: int, width: int
) -> Crop:
    """What the operator does on a CPU, on any device; what needs no warping is copied."""
    crops = []
    for image, mask, row in zip(images, masks, geometry.tolist(), strict=True):
        top, left, step_y, step_x, angle, mirrored = row
        if angle == 0 and step_y == step_x == 1:
            crop = _copy(image, mask, int(top), int(left), height, width)
        else:
            maps = inverse_map(top, left, step_y, step_x, angle, height, width)
            crop = _warp(image, mask, maps, height, width)
        if mirrored:
            crop = [part.flip(-1) for part in crop]
        crops.append(crop)
    x, labels, inside = zip(*crops, strict=True)
    return torch.stack(x).float(), torch.stack(labels), torch.stack(inside)


_sample = torch.library.custom_op(
    "dme::sample_crops", crops_by_pytorch, mutates_args=(), device_types="cpu"
)


def _copy(image: Tensor, mask: Tensor, top: int, left: int, out_h: int, out_w: int) -> Crop:
    """A crop neither turned nor scaled: pixels of the frame's part of it are copied."""
    height, width = mask.shape
    y0 = min(max(top, 0), height)
    y1 = min(max(top + out_h, 0), height)
    x0 = min(max(left, 0), width)
    x1 = min(max(left + out_w, 0), width)
    rows = slice(y0 - top, y1 - top)
    columns = slice(x0 - left, x1 - left)

    x = image.new_zeros(image.shape[0], out_h, out_w)
    labels = mask.new_full((out_h, out_w), IGNORE)
    inside = mask.new_zeros((out_h, out_w), dtype=torch.bool)
    x[:, rows, columns] = image[:, y0:y1, x0:x1]
    labels[rows, columns] = mask[y0:y1, x0:x1]
    inside[rows, columns] = True
    return x, labels, inside


def inverse_map(
    top: float, left: float, step_y: float, step_x: float, angle: float, height: int, width: int
) -> tuple[float, ...]:
    """(yy, yx, centre_y, xy, xx, centre_x) of a map from a crop to its source.

    y = yy dy + yx dx + centre_y, x = xy dy + xx dx + centre_x.

    dy, dx: from the crop's centre to the centre of one of its pixels. y, x: in the source, whose
    pixel i covers i to i + 1, as in `F.interpolate(align_corners=False)`.
    """
    cos = math.cos(angle)
    sin = math.sin(angle)
    centre_y = (top + height / 2) * step_y
    centre_x = (left + width / 2) * step_x
    return cos * step_y, -sin * step_y, centre_y, sin * step_x, cos * step_x, centre_x


def inverse_maps(geometry: Tensor, height: int, width: int) -> list[list[float]]:
    """Of each crop its `inverse_map`, and 1 where it is mirrored."""
    maps = []
    for *box, mirrored in geometry.tolist():
        maps.append([*inverse_map(*box, height, width), mirrored])
    return maps


def _warp(image: Tensor, mask: Tensor, maps: tuple[float, ...], out_h: int, out_w: int) -> Crop:
    """A crop of out_h x out_w pixels, looked up where its `inverse_map` says."""
    height, width = mask.shape
    yy, yx, centre_y, xy, xx, centre_x = maps
    dy = (torch.arange(out_h, device=mask.device) + (0.5 - out_h / 2))[:, None]
    dx = (torch.arange(out_w, device=mask.device) + (0.5 - out_w / 2))[None, :]
    y = yy * dy + yx * dx + centre_y  # (out_h, out_w)
    x = xy * dy + xx * dx + centre_x

    # labels of the nearest pixels
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    row = y.long().clamp_(0, height - 1)
    column = x.long().clamp_(0, width - 1)
    labels = mask[row, column].masked_fill_(~inside, IGNORE)

    # only the source pixels under the crop's bounding box become float
    half_y = (abs(yy) * out_h + abs(yx) * out_w) / 2
    half_x = (abs(xy) * out_h + abs(xx) * out_w) / 2
    y0, y1 = _cover(centre_y - half_y, centre_y + half_y, height)
    x0, x1 = _cover(centre_x - half_x, centre_x + half_x, width)
    source = image[None, :, y0:y1, x0:x1].float()

    # -1..1 over that box, as grid_sample has it
    across = 2 * (x - x0) / (x1 - x0) - 1
    down = 2 * (y - y0) / (y1 - y0) - 1
    grid = torch.stack([across, down], dim=-1)[None]
    sampled = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
    return sampled[0], labels, inside


def _cover(low: float, high: float, size: int) -> tuple[int, int]:
    """Integer range over [low, high] with a pixel to spare, within 0..size and never empty."""
    start = min(max(math.floor(low) - 1, 0), size - 1)
    end = max(min(math.ceil(high) + 1, size), start + 1)
    return start, end


def _empty(images: list[Tensor], masks: list[Tensor], height: int, width: int) -> Crop:
    shape = (len(images), height, width)
    mask = masks[0]
    channels = images[0].shape[0]
    x = mask.new_empty((len(images), channels, height, width), dtype=torch.float32)
    return x, mask.new_empty(shape), mask.new_empty(shape, dtype=torch.bool)


@_sample.register_kernel("cuda")
def _sample_cuda(
    images: list[Tensor], masks: list[Tensor], geometry: Tensor, height: int, width: int
) -> Crop:
    with needing_triton():
        from dme.ops.crops_triton import sample
    crops = _empty(images, masks, height, width)
    maps = inverse_maps(geometry, height, width)
    with torch.cuda.device(masks[0].device):
        sample(images, masks, maps, *crops)
    return crops


@_sample.register_fake
def _sample_fake(
    images: list[Tensor], masks: list[Tensor], geometry: Tensor, height: int, width: int
) -> Crop:
    return _empty(images, masks, height, width)
