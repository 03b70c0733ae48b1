"""Scans with labels: from the cache to a training set, at a network's size and of a task."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.common.labels import IGNORE
from dme.common.tasks import Task
from dme.data import phantom_cysts, phantom_devices
from dme.data.cache import Cache
from dme.inference.entry import enter
from dme.inference.sizes import InputSize, size_of
from dme.retina.rows import layer_labels
from dme.training.augment import TrainingSet

EDGE_PX = 2  # pixels above and below an edge of synthetic layers that are unknown


def check_annotated(native: Cache, task: Task) -> None:
    """Raises InputError for a set without the truth that the task needs."""
    if task.finds_fluid and native.fluid is None:
        raise InputError(
            f"the scans of {native.description} have no fluid masks; training needs the truth"
        )
    if not task.finds_layers:
        return
    if native.layers is None:
        raise InputError(
            f"the scans of {native.description} have no layer boundaries; `task` {task.name} "
            "needs them: boundaries/NAME.npy beside images/, or .mat files"
        )
    # A scan all of whose columns are unknown teaches nothing
    unknown = []
    for name, rows in zip(native.names, native.layers, strict=True):
        if not np.isfinite(rows).all(0).any():
            unknown.append(name)
    if unknown:
        scans = "such scans" if len(unknown) > 1 else "it"
        raise InputError(
            f"{', '.join(unknown[:5])}: no column has all 8 boundaries, every one holds NaN; "
            f"leave {scans} out of the set"
        )


def training_set(
    small: Cache,
    native: Cache,
    indices: np.ndarray,
    task: Task,
    preprocess: dict,
    ungraded: str,
    device: torch.device,
) -> TrainingSet:
    """Scans `indices` as a network with this `preprocess` sees them, with labels to match.

    small, native: caches of one set, at 256 x 256 and at its own pixels. ungraded: "ignore" makes
    the columns beside `Cache.central` unknown (255), "background" leaves them; without layer rows
    they always are unknown to a task with layers.
    """
    of_study = size_of(preprocess).of_study
    images, masks = [], []
    for i in indices:
        # As dme.inference.scan.probabilities shows a scan to the network
        scan = small.images[i] if of_study else native.images[i]
        entered = enter(torch.tensor(scan), preprocess, task.classes, native.scale_um)
        size = entered.size
        images.append(entered.image.to(device))

        # Its truth, without what nobody looked at
        mask = labels(small, native, i, task, size)
        if ungraded == "ignore":
            central = torch.from_numpy(native.central(i))[None, None, None].float()  # (1, 1, 1, W)
            central = F.interpolate(central, (1, mask.shape[1]))[0, 0, 0]
            mask[:, central == 0] = IGNORE
        masks.append(mask.to(device))
    return TrainingSet(images, masks, [small.names[i] for i in indices], task.fluid_label)


def with_synthetic(
    data: TrainingSet, count: int, task: Task, preprocess: dict, device: torch.device
) -> TrainingSet:
    """A training set and beside it `count` synthetic scans, all of it known.

    Of several devices, with fluid in, under and below the retina; of a task with layers, which
    those do not have, of the phantom's device, with a large cyst under the ILM. The edges of these
    layers are unknown, but for the ILM over the cyst: where they lie to the pixel is for the
    data's annotation to say.
    """
    scans = phantom_cysts if task.finds_layers else phantom_devices
    images, masks, names = [*data.images], [*data.masks], [*data.names]
    for scan in scans.training_scans(count):
        entered = enter(torch.tensor(scan.image), preprocess, task.classes, scan.scale_um)
        images.append(entered.image.to(device))
        fluid = scan.fluid if task.finds_fluid else None
        rows = scan.layers if task.finds_layers else None
        truth = labels_of(fluid, rows, scan.image.shape, entered.size)
        if task.finds_layers:
            large = torch.tensor(phantom_cysts.over_large_cysts(scan.fluid, scan.layers))
            large = F.interpolate(large[None, None].float(), truth.shape[1])[0, 0] > 0
            truth = without_edges(truth, large, task.fluid_label)
        masks.append(truth.to(device))
        names.append(scan.name)
    return TrainingSet(images, masks, names, data.fluid)


def without_edges(labels: Tensor, over_cysts: Tensor, fluid_label: int | None) -> Tensor:
    """Labels (H, W), unknown (255) up to EDGE_PX from the edges between layers.

    over_cysts: columns, bool (W,), in which the ILM stays known. fluid_label: of what stays too.
    """
    upper = labels[:-1]
    lower = labels[1:]
    edge = upper != lower
    if fluid_label is not None:
        edge &= (upper != fluid_label) & (lower != fluid_label)
    ilm = (upper == 0) & (lower != 0) & over_cysts
    unknown = _beside(edge, EDGE_PX) & ~_beside(ilm, EDGE_PX + 1)
    if fluid_label is not None:
        unknown &= labels != fluid_label
    return labels.masked_fill(unknown, IGNORE)


def _beside(edge: Tensor, px: int) -> Tensor:
    """Pixels (H, W) at most so many above or below an edge.

    edge: bool (H - 1, W), its row i lies between pixels i and i + 1.
    """
    near = F.max_pool2d(edge[None, None].float(), (2 * px, 1), stride=1, padding=(px, 0))
    return near[0, 0] > 0


def labels(small: Cache, native: Cache, index: int, task: Task, size: InputSize) -> Tensor:
    """Truth of a scan of the caches, as of `labels_of`."""
    fluid = rows = None
    if task.finds_fluid:
        fluid = (small if size.of_study else native).fluid[index]
    if task.finds_layers:
        rows = native.layers[index]
    return labels_of(fluid, rows, native.images[index].shape, size)


def labels_of(
    fluid: np.ndarray | None,
    rows: np.ndarray | None,
    shape: tuple[int, int],
    size: InputSize,
) -> Tensor:
    """Truth of a scan (H, W), uint8 of a task's classes and 255, at the pixels of `size`.

    fluid: its mask, or None. rows: its boundaries (8, W), or None: layers lie between them, which
    are scaled before they are drawn, below fluid.
    """
    mask = None if fluid is None else size.mask(torch.tensor(fluid))
    if rows is None:
        return mask
    height, width = shape
    drawn = layer_labels(
        size.rows(rows, height, width),
        size.shape(height, width)[0],
        None if mask is None else mask.numpy(),
    )
    return torch.from_numpy(drawn)
