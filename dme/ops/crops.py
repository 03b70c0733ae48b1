"""`dme::sample_crops`: the crops of a batch, each turned, scaled and mirrored on its own, in one launch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.ops import needing_triton

Crop = tuple[
    Tensor, Tensor, Tensor
]  # image (C, H, W), labels uint8 (H, W), inside the frame bool (H, W)


def sample_crops(
    images: list[Tensor], masks: list[Tensor], geometry: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A crop of height x width pixels of each of B scans, image bilinear and mask nearest, with one geometry.

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
        found = f"{len(images)} images, {len(masks)} masks and geometry {tuple(geometry.shape)}"
        raise InputError(f"{found}; wanted as many of each, at least 1, and geometry (B, 6)")
    for image, mask in zip(images, masks, strict=True):
        if image.dtype != torch.uint8 or mask.dtype != torch.uint8:
            raise InputError(
                f"found an image of {image.dtype} and a mask of {mask.dtype}; wanted uint8"
            )
        if mask.ndim != 2 or image.shape[-2:] != mask.shape or image.ndim not in (2, 3):
            found = f"found an image {tuple(image.shape)} and its mask {tuple(mask.shape)}"
            raise InputError(f"{found}; wanted (H, W) or (C, H, W), and (H, W)")


def crops_by_pytorch(
    images: list[Tensor], masks: list[Tensor], geometry: Tensor, height: int, width: int
) -> Crop:
    """What the operator does on a CPU, on any device: scan by scan, by slicing what is not interpolated."""
    crops = []
    for image, mask, (*box, angle, mirrored) in zip(images, masks, geometry.tolist(), strict=True):
        if angle == 0 and box[2:] == [1, 1]:
            crop = _copy(image, mask, int(box[0]), int(box[1]), height, width)
        else:
            crop = _warp(image, mask, *box, angle, height, width)
        crops.append([part.flip(-1) for part in crop] if mirrored else crop)
    x, labels, inside = (torch.stack(parts) for parts in zip(*crops, strict=True))
    return x.float(), labels, inside


_sample = torch.library.custom_op(
    "dme::sample_crops", crops_by_pytorch, mutates_args=(), device_types="cpu"
)


def _copy(image: Tensor, mask: Tensor, top: int, left: int, out_h: int, out_w: int) -> Crop:
    y0, y1 = (min(max(y, 0), mask.shape[0]) for y in (top, top + out_h))
    x0, x1 = (min(max(x, 0), mask.shape[1]) for x in (left, left + out_w))
    rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
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
    """(yy, yx, centre_y, xy, xx, centre_x) of y = yy dy + yx dx + centre_y, x = xy dy + xx dx + centre_x.

    dy, dx: from the crop's centre to the centre of one of its pixels. y, x: in the source, whose
    pixel i covers i to i + 1, as in `F.interpolate(align_corners=False)`.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    centre_y, centre_x = (top + height / 2) * step_y, (left + width / 2) * step_x
    return cos * step_y, -sin * step_y, centre_y, sin * step_x, cos * step_x, centre_x


def inverse_maps(geometry: Tensor, height: int, width: int) -> list[list[float]]:
    """Of each crop its `inverse_map`, and 1 where it is mirrored."""
    return [[*inverse_map(*box, height, width), mirrored] for *box, mirrored in geometry.tolist()]


def _warp(
    image: Tensor,
    mask: Tensor,
    top: float,
    left: float,
    step_y: float,
    step_x: float,
    angle: float,
    out_h: int,
    out_w: int,
) -> Crop:
    height, width = mask.shape
    yy, yx, centre_y, xy, xx, centre_x = inverse_map(
        top, left, step_y, step_x, angle, out_h, out_w
    )
    dy = (torch.arange(out_h, device=mask.device) + (0.5 - out_h / 2))[:, None]
    dx = (torch.arange(out_w, device=mask.device) + (0.5 - out_w / 2))[None, :]
    y = yy * dy + yx * dx + centre_y  # (out_h, out_w)
    x = xy * dy + xx * dx + centre_x
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    labels = mask[y.long().clamp_(0, height - 1), x.long().clamp_(0, width - 1)].masked_fill_(
        ~inside, IGNORE
    )

    # Only the source pixels under the crop's bounding box become float.
    half_y, half_x = ((abs(a) * out_h + abs(b) * out_w) / 2 for a, b in ((yy, yx), (xy, xx)))
    y0, y1 = _cover(centre_y - half_y, centre_y + half_y, height)
    x0, x1 = _cover(centre_x - half_x, centre_x + half_x, width)
    grid = torch.stack([2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1], dim=-1)
    source = image[None, :, y0:y1, x0:x1].float()
    return (
        F.grid_sample(source, grid[None], padding_mode="border", align_corners=False)[0],
        labels,
        inside,
    )


def _cover(low: float, high: float, size: int) -> tuple[int, int]:
    """Integer range over [low, high] with a pixel to spare, within 0..size and never empty."""
    start = min(max(math.floor(low) - 1, 0), size - 1)
    return start, max(min(math.ceil(high) + 1, size), start + 1)


def _empty(images: list[Tensor], masks: list[Tensor], height: int, width: int) -> Crop:
    shape = (len(images), height, width)
    x = masks[0].new_empty((len(images), images[0].shape[0], height, width), dtype=torch.float32)
    return x, masks[0].new_empty(shape), masks[0].new_empty(shape, dtype=torch.bool)


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
