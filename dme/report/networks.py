"""Which networks a prediction takes, and what its results say of them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dme.common.errors import InputError
from dme.common.tasks import Task
from dme.inference.scan import network_for
from dme.inference.trust import TrustFit, load_fit
from dme.nets.folding import computes_fast, folded, precision_of
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter, require_arch

DEFAULT_WEIGHTS = {"fluid": "dme-fluid", "layers": "octlayers"}


def targets_of(task: Task) -> list[str]:
    """What is looked for: "fluid", "layers" or both."""
    targets = []
    if task.finds_fluid:
        targets.append("fluid")
    if task.finds_layers:
        targets.append("layers")
    return targets


def choose_networks(
    task: Task,
    weights: Sequence[str],
    backbone: str | None,
    device: torch.device,
    precision: str = "float32",
) -> dict[str, Segmenter]:
    """Target of the task -> the network that finds it, which may be one for both.

    weights: names or files, by default DEFAULT_WEIGHTS. backbone: what theirs must be, if given.
    precision: as of `folded`. Raises InputError if none of them finds what is looked for, if one
    of them is of no use, and for a precision that changes layers or that takes too long here.
    """
    if precision != "float32" and task.finds_layers:
        raise InputError(
            f"`precision` {precision} moves boundaries of layers by more than 0.05 px: leave it "
            "out, or look for fluid alone"
        )
    if not computes_fast(precision, device):
        raise InputError(
            f"this processor has no instructions for {precision}, which takes many times as long "
            "without them: leave out `precision`"
        )
    targets = targets_of(task)
    names = weights or [DEFAULT_WEIGHTS[target] for target in targets]
    models = []
    for name in names:
        model = folded(load_model(name, device), precision)
        require_arch(model, backbone=backbone)
        models.append(model)

    # a network that finds nothing which is looked for was named by mistake
    networks = {target: network_for(target, models) for target in targets}
    idle = [model.weights_name for model in models if model not in networks.values()]
    if idle:
        raise InputError(
            f"`task` {task.name} has no use for {', '.join(idle)}: leave it out of `weights`"
        )
    return networks


def network_settings(networks: dict[str, Segmenter]) -> dict[str, str]:
    """Name, sha256, input size and precision of every network, as keys of a results file."""
    # the keys of layers have a prefix, also where one network finds both
    settings = {}
    for target, model in networks.items():
        prefix = "layers_" if target == "layers" else ""
        settings[f"{prefix}weights"] = model.weights_name
        settings[f"{prefix}weights_sha256"] = model.weights_sha256
        settings[f"{prefix}size"] = model.preprocess["size"]
        settings[f"{prefix}precision"] = precision_of(model)
    return settings


def trust_for(path: Path | None, networks: dict[str, Segmenter]) -> TrustFit | None:
    """The fit in a file, if there is one, for the network that finds fluid. Raises InputError."""
    if path is None:
        return None
    if "fluid" not in networks:
        raise InputError("`trust` is about fluid, which `task` layers does not look for")
    return load_fit(path, networks["fluid"].weights_sha256)
