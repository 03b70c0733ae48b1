"""OpenMMLab's checkpoints in our terms: names of tensors, architecture, classes, preprocessing."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.nets.segmenter import BACKBONES

# patterns of their names, and ours; those of a backbone are in its own file
HEADS = (
    (r"^decode_head\.convs\.0\.", r"head.conv."),
    (r"^decode_head\.convs\.1\.", r"head.second."),
    (r"^decode_head\.conv_cat\.", r"head.joined."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"head.pools.\1."),
    (r"^decode_head\.image_pool\.1\.", r"head.image_pool."),
    (r"^decode_head\.aspp_modules\.", r"head.branches."),
    (r"^decode_head\.bottleneck\.", r"head.bottleneck."),
    (r"^decode_head\.aspp_conv\.", r"head.gated."),
    (r"^decode_head\.conv_up_input\.", r"head.mix."),
    (r"^decode_head\.convs\.conv(\d)\.", r"head.skips.\1."),
    (r"^decode_head\.conv_ups\.conv_up(\d)\.", r"head.joins.\1."),
    (r"^decode_head\.conv_seg\.", r"head.classifier."),
    (r"^auxiliary_head\.convs\.0\.", r"aux_head.conv."),
    (r"^auxiliary_head\.conv_seg\.", r"aux_head.classifier."),
)
WRAPPERS = ("module.", "_orig_mod.", "model.")
PREPROCESSOR = "data_preprocessor."
MOST_CHANNELS = 64  # of an image
TELLTALES = {
    "psp": "head.pools.0.",
    "deeplabv3": "head.branches.0.",
    "lraspp": "head.skips.0.",
    "fcn": "head.conv.",
}


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names; a name that stands for no part of ours stays as it is."""
    unwrapped = {_unwrapped(str(name)): value for name, value in state.items()}
    if len(unwrapped) == len(state):  # no two of one name
        state = unwrapped
    state = _substitute(state, HEADS)
    for kind in BACKBONES.values():
        pairs = [(rf"^backbone\.{theirs}", f"backbone.{ours}") for theirs, ours in kind.OPENMMLAB]
        renamed = _substitute(state, pairs)
        if f"backbone.{kind.FIRST}" in renamed:
            return renamed
    return state


def _unwrapped(name: str) -> str:
    """The name without what DistributedDataParallel, torch.compile and trainers put before it."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def without_preprocessor(
    state: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """The tensors of the network, and mean and std where mmengine's data_preprocessor has them.

    Both in the order of the network's channels.
    """
    weights = {name: value for name, value in state.items() if not name.startswith(PREPROCESSOR)}
    preprocess = {}
    for key in ("mean", "std"):
        value = state.get(PREPROCESSOR + key)
        if isinstance(value, Tensor) and value.numel() <= MOST_CHANNELS:
            preprocess[key] = value.double().flatten().tolist()
    return weights, preprocess


def _substitute(state: dict[str, Tensor], pairs: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        for pattern, ours in pairs:
            name = re.sub(pattern, ours, str(name))
        renamed[name] = value
    return renamed


def read_arch(state: dict[str, Tensor]) -> dict | None:
    """build_model's arguments read off tensors under our names; None for another network's."""
    heads = [head for head, start in TELLTALES.items() if _has(state, start)]
    classifier = _kernel_shape(state, "head.classifier.weight")
    aux_classifier = _kernel_shape(state, "aux_head.classifier.weight")
    if not heads or classifier is None:
        return None

    for backbone, kind in BACKBONES.items():
        widest_name, width_1 = kind.WIDEST
        first = _kernel_shape(state, f"backbone.{kind.FIRST}")
        widest = _kernel_shape(state, f"backbone.{widest_name}")
        if first is not None and widest is not None:
            return {
                "backbone": backbone,
                "head": heads[0],
                "num_classes": classifier[0],
                "width": type(kind.WIDTH)(widest[0] / width_1),
                "in_channels": first[1],
                "head_channels": classifier[1],
                "aux": _has(state, "aux_head."),
                "aux_channels": aux_classifier[1] if aux_classifier else 0,
            }
    return None


def _has(state: dict[str, Tensor], start: str) -> bool:
    return any(name.startswith(start) for name in state)


def _kernel_shape(state: dict[str, Tensor], name: str) -> torch.Size | None:
    """Shape of a convolution's kernel, None without a tensor of that name and four sides."""
    value = state.get(name)
    return value.shape if getattr(value, "ndim", None) == 4 else None


def read_meta(meta: object, path: object) -> tuple[list[str], dict[str, list[float]]]:
    """Class names, and mean and std where the configuration has them, of a checkpoint's meta data.

    Raises InputError for a configuration of BGR images; `path` is for the message.
    """
    meta = meta if isinstance(meta, dict) else {}
    data = meta.get("dataset_meta")  # mmengine's; mmcv has it in meta itself
    if not isinstance(data, dict):
        data = meta
    classes = [str(name) for name in data.get("CLASSES") or data.get("classes") or ()]
    config = str(meta.get("config") or meta.get("cfg"))
    if re.search(r"to_rgb\s*=\s*False", config):
        raise InputError(f"{path} was trained on BGR images, dme's networks take RGB")
    preprocess = {}
    for key in ("mean", "std"):
        values = re.search(rf"\b{key}\s*=\s*\[([-+.\d\s,e]+)\]", config)
        if values:
            preprocess[key] = [float(value) for value in values[1].split(",") if value.strip()]
    return classes, preprocess
