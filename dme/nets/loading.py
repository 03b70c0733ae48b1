"""Networks from names, our files and OpenMMLab's files."""

from pathlib import Path

import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.files import user_path
from dme.nets import openmmlab
from dme.nets.checkpoint import (
    HASH_IN_NAME,
    build_for,
    check_description,
    first_ten,
    load_strict,
    read_checkpoint,
    rebuild,
)
from dme.nets.segmenter import BACKBONES, HEADS, Segmenter
from dme.nets.zoo import known, path_of

# sigmoid(x) is the second of softmax(0, x)
ONE_CHANNEL = (
    "{path} has one output channel; dme's networks have one for each class, the background first: "
    "put a channel of zeros before it: for k in (the names that end in conv_seg.weight and "
    "conv_seg.bias): state[k] = torch.cat([torch.zeros_like(state[k]), state[k]])"
)


def load_model(name_or_path: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """A network in eval mode from a name (see `known`), a file of ours or an OpenMMLab file.

    For result files it carries `weights_name` (the name, or the file's), `weights_sha256` (of the
    file read) and `weights_extra` (what `save_model` was given; of an OpenMMLab file its name and
    sha256). Raises InputError for an unknown name, a name not downloaded yet, and a file that is
    absent, damaged, altered or does not fit.
    """
    name = str(name_or_path)
    path = user_path(name)
    entry = known().get(name, {})
    surely_a_name = path.name == name and not path.suffix and not path.exists()
    if entry or surely_a_name:
        path = path_of(name)
    if "url" in entry and not path.is_file():
        raise InputError(f"{name} is not downloaded (no {path}); run ./run.sh weights {name}")
    if "file" in entry and not path.is_file():  # too large for the installed package
        raise InputError(
            f"{path} is not there: {name} comes with a clone of the project; give its file"
        )

    # a shipped file must be the one that was shipped
    expected = entry["sha256"] if "file" in entry else None
    content, digest = read_checkpoint(path, expected)
    if "format" in content:
        model = rebuild(content, path)
    else:
        model = _convert(content, path, digest)
    model.weights_name = name if entry else path.name
    model.weights_sha256 = digest
    return model.to(device).eval()


def load_openmmlab(model: Segmenter, path: str | Path) -> None:
    """Load an OpenMMLab checkpoint (or its plain state_dict) into a network, strictly.

    BN and SyncBN have the same names. Raises InputError for a file that is absent, damaged, holds
    code, does not have the sha256 its name ends in (`-<8 hex>.pth`), or differs from the network
    in any name or shape.
    """
    content, digest = read_checkpoint(path)
    state, _ = openmmlab.without_preprocessor(_openmmlab_state(content, path, digest))
    load_strict(model, state, path)


def convert_openmmlab(path: str | Path) -> Segmenter:
    """The network of an OpenMMLab checkpoint with a backbone of ours; raises as `load_openmmlab`.

    The architecture is read off the tensors; class names, mean and std off the meta data where it
    has them. Input is in RGB order; a checkpoint whose configuration says BGR is refused.
    """
    content, digest = read_checkpoint(path)
    return _convert(content, path, digest)


def _convert(content: dict, path: str | Path, digest: str) -> Segmenter:
    """The network of an OpenMMLab checkpoint."""
    path = Path(path)
    state, preprocessor = openmmlab.without_preprocessor(_openmmlab_state(content, path, digest))
    arch = openmmlab.read_arch(state)
    if arch is None:
        raise InputError(
            f"{path} is neither a dme checkpoint (no 'format') nor one of OpenMMLab's with a "
            f"backbone ({', '.join(BACKBONES)}) and a head ({', '.join(HEADS)}) of dme; "
            f"it has {first_ten(list(state))}"
        )
    if arch["num_classes"] == 1:
        raise InputError(ONE_CHANNEL.format(path=path))
    model = build_for(arch, state, path)
    load_strict(model, state, path)
    try:
        classes, preprocess = openmmlab.read_meta(content.get("meta"), path)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"{path}: its meta data cannot be read ({e}); remove 'meta' from it"
        ) from e
    model.classes = classes or model.classes
    model.preprocess |= preprocess | preprocessor
    model.weights_extra = {"source": Path(path).name, "source_sha256": digest}
    check_description(model, path)
    return model


def _openmmlab_state(content: dict, path: str | Path, digest: str) -> dict[str, Tensor]:
    """The tensors of an OpenMMLab checkpoint under our names."""
    named = HASH_IN_NAME.search(Path(path).name)
    if named and not digest.startswith(named[1]):
        raise InputError(
            f"{path} has sha256 {digest[:8]}, its name says {named[1]}; damaged: fetch it again"
        )
    state = content.get("state_dict", content)
    return openmmlab.rename(state) if isinstance(state, dict) else {}
