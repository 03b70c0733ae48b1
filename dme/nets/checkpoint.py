"""Our checkpoint file: written, read, and its network rebuilt.

It is a torch archive of KEYS that rebuilds its network without further arguments. Everything is
read with `weights_only=True` and loaded strictly.
"""

import json
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.files import atomic_path, load_archive, sha256_file
from dme.nets import openmmlab
from dme.nets.segmenter import Segmenter, build_model, normalise

FORMAT = 1
KEYS = ("format", "arch", "preprocess", "classes", "extra", "state_dict")
# BN's step counter has no use at a fixed momentum, and old checkpoints lack it: never stored,
# never read
COUNTER = ".num_batches_tracked"


def save_model(
    model: Segmenter, path: str | Path, dtype: torch.dtype | None = None, extra: dict | None = None
) -> None:
    """Write a network into our checkpoint file, atomically; the same network gives the same bytes.

    dtype: None keeps float32; torch.float16 halves the convolution kernels (BN and biases stay
    float32: they are small, and a variance may not fit). extra: anything JSON can hold, such as
    where the weights come from. Raises InputError naming a tensor that is not finite, or that
    `dtype` cannot hold to 0.1 % of its largest value.
    """
    # JSON's own types only: a TypeError here, rather than a file that weights_only refuses
    extra = json.loads(json.dumps(extra or {}))
    state = {k: v.cpu().contiguous() for k, v in _without_counters(model.state_dict()).items()}
    _refuse_non_finite(state, f"{path} not written")
    for name, value in state.items():
        if dtype is None or value.ndim == 1:
            continue
        state[name] = value.to(dtype)
        if not (state[name].float() - value).abs().max() <= 1e-3 * value.abs().max():
            raise InputError(
                f"{path} not written: {name} (largest value {value.abs().max():.3g}) does not fit {dtype}; "
                "save it in float32"
            )
    content = (FORMAT, model.arch, model.preprocess, model.classes, extra, state)
    # given a path instead of a file, torch.save would write the temporary name into the archive
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        torch.save(dict(zip(KEYS, content, strict=True)), f)


def read_checkpoint(path: str | Path, sha256: str | None = None) -> tuple[dict, str]:
    """The content of a torch file, of which nothing is run, and its sha256.

    sha256: what the latter must be, None for anything. Raises InputError for a file that is
    absent, altered, damaged, holds code or no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}; give a checkpoint file"
        )
    digest = sha256_file(path)
    if sha256 not in (None, digest):
        raise InputError(
            f"{path} was altered: its sha256 is {digest}, expected {sha256}; restore it"
        )
    try:
        content = load_archive(path)
    except Exception as e:  # a damaged or hostile file can raise anything from an unpickler
        code = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(e))
        if not isinstance(e, pickle.UnpicklingError) or code is None:
            raise InputError(
                f"{path} is no torch checkpoint, or damaged or cut short; fetch it again"
            ) from e
        advice = "get the weights from a source you trust"
        # what a training run logs beside its weights
        if code[1].startswith(("mmengine.", "mmcv.", "numpy.")):
            advice = (
                "if you trust it, strip it where it was trained: c = torch.load(FILE, weights_only=False); "
                "torch.save({'state_dict': c['state_dict']}, NEW)"
            )
        raise InputError(f"{path} contains code ({code[1]}), refused; {advice}") from e
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, expected a checkpoint's dictionary"
        )
    return content, digest


def rebuild(content: dict, path: Path) -> Segmenter:
    """The network of a checkpoint of ours."""
    if content["format"] != FORMAT:
        raise InputError(
            f"{path} has format {content['format']!r}, this version reads {FORMAT}; update dme"
        )
    if missing := [key for key in KEYS if key not in content]:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; it was not written by dme.nets.checkpoint.save_model"
        )
    try:
        model = build_model(**content["arch"])
    except (TypeError, RuntimeError, InputError) as e:
        raise InputError(f"{path} describes no network of this version: {e}") from e
    model.preprocess, model.classes = content["preprocess"], content["classes"]
    model.weights_extra = content["extra"]
    check_description(model, path)
    load_strict(model, content["state_dict"], path)
    return model


def check_description(model: Segmenter, path: str | Path) -> None:
    channels, classes = model.arch["in_channels"], model.arch["num_classes"]
    try:
        sample = normalise(torch.ones(1, channels, 1, 1), model.preprocess)
        fits = sample.shape[1] == channels and bool(sample.isfinite().all())
        fits &= isinstance(model.classes, list) and len(model.classes) == classes
    except (KeyError, TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: classes {model.classes} and preprocess {model.preprocess} do not fit a network with "
            f"{classes} classes and {channels} input channels"
        )


def load_strict(model: Segmenter, state: dict[str, Tensor], path: str | Path) -> None:
    """Copy tensors under our names into the network.

    Raises InputError, one for all differences in names or shapes.
    """
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(f"{path}: its state_dict does not map names to tensors")
    own, found = model.state_dict(), _without_counters(state)
    wanted_shapes = {name: tuple(value.shape) for name, value in _without_counters(own).items()}
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    if faults := [
        f"{name} is {shapes.get(name, 'missing')}, wanted {wanted_shapes.get(name, 'none such')}"
        for name in wanted_shapes | shapes
        if shapes.get(name) != wanted_shapes.get(name)
    ]:
        reasons = [
            f"the checkpoint has {key} {value}, the network {model.arch[key]}; build with {key}={value!r}"
            for key, value in (openmmlab.read_arch(found) or {}).items()
            if value != model.arch[key]
        ]
        raise InputError(f"{path} does not fit the network: {'; '.join([*reasons, *faults])}")
    _refuse_non_finite(found, str(path))
    model.load_state_dict(own | found)


def _without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def _refuse_non_finite(state: dict[str, Tensor], what: str) -> None:
    if bad := [name for name, value in state.items() if not value.isfinite().all()]:
        raise InputError(
            f"{what}: NaN or infinity in {first_ten(bad)}; the training that made it diverged"
        )


def first_ten(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
