"""From the cache to training: scans and labels of a task at a network's size."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.data.cache import Cache
from dme.inference.protocols import PROTOCOLS
from dme.inference.sizes import STUDY_SIDE, entering
from dme.retina.rows import CLASSES, layer_labels, scale_rows
from dme.retina.wedge import without_wedge
from dme.training.augment import TrainingSet

TASKS = {  # what a network tells apart, in label order
    "fluid": ["background", "fluid"],
    "layers": [*CLASSES],
    "layers+fluid": [*CLASSES, "fluid"],
}


def check_annotated(native: Cache, task: str) -> None:
    """Raises InputError for a set without the truth that the task needs."""
    if "fluid" in task and native.fluid is None:
        raise InputError(
            f"the scans of {native.description} have no fluid masks; training needs the truth"
        )
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
    """Scans `indices` as a network of `size` (see dme.inference.sizes.SIZES) sees them, with labels to match.

    small, native: caches of one set, at 256 x 256 and at its own pixels. ungraded: "ignore" makes columns
    that nobody annotated unknown (255), "background" leaves them; without layer rows they always are unknown
    to a task with layers.
    """
    images, masks = [], []
    for i in indices:
        scan = (small if size == "512" else native).images[i]
        scan = (
            without_wedge(scan) if "layers" in task else scan
        )  # as dme.inference.scan.probabilities does
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

    size: as in dme.inference.sizes.SIZES, or "study", 256 x 256. Fluid: of "512" nearest from the mask of
    256 x 256, as in the study; of "half" where it is at least half, unknown where any pixel is. Layers are
    drawn from rows at that size, below fluid.
    """
    fluid = None
    if "fluid" in task:
        held = small if size in ("512", "study") else native
        fluid = entering_mask(torch.tensor(held.fluid[index]), size)
    if task == "fluid":
        return fluid
    height, width = shape = native.images[index].shape[:2]
    side = {"study": STUDY_SIDE, "512": PROTOCOLS["light"]}.get(size)
    scaled = (
        (side, side) if side else (-(-height // 2), -(-width // 2)) if size == "half" else shape
    )
    rows = scale_rows(native.layers[index], shape, scaled)
    return torch.from_numpy(
        layer_labels(rows, scaled[0], None if fluid is None else fluid.numpy())
    )


def entering_mask(mask: Tensor, size: str) -> Tensor:
    """A mask uint8 (H, W) at the pixels that `dme.inference.sizes.entering` gives its scan."""
    if size in ("native", "study"):
        return mask
    if size == "512":
        return mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    halved = tuple(-(-side // 2) for side in mask.shape)
    fluid, unknown = (
        F.interpolate((mask == k)[None, None].float(), halved, mode="area")[0, 0]
        for k in (1, IGNORE)
    )
    return torch.where(unknown > 0, IGNORE, fluid >= 0.5).byte()
