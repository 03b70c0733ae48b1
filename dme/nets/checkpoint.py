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
LARGEST_ERROR = 1e-3  # of a tensor saved in another type, as a share of its largest value
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
    state = {}
    for name, value in _without_counters(model.state_dict()).items():
        state[name] = value.cpu().contiguous()
    _refuse_non_finite(state, f"{path} not written")

    if dtype is not None:
        for name, value in state.items():
            if value.ndim > 1:
                state[name] = _narrowed(value, dtype, f"{path} not written: {name}")

    content = {
        "format": FORMAT,
        "arch": model.arch,
        "preprocess": model.preprocess,
        "classes": model.classes,
        "extra": extra,
        "state_dict": state,
    }
    # given a path instead of a file, torch.save would write the temporary name into the archive
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        torch.save(content, f)


def _narrowed(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A tensor in another type. Raises InputError, which `name` begins, where it does not fit."""
    narrowed = value.to(dtype)
    largest = value.abs().max()
    error = (narrowed.float() - value).abs().max()
    if not error <= LARGEST_ERROR * largest:  # nor where it is NaN
        raise InputError(
            f"{name} (largest value {largest:.3g}) does not fit {dtype}; save it in float32"
        )
    return narrowed


def read_checkpoint(path: str | Path, sha256: str | None = None) -> tuple[dict, str]:
    """The content of a torch file, of which nothing is run, and its sha256.

    sha256: what the latter must be, None for anything. Raises InputError for a file that is
    absent, altered, damaged, holds code or no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        place = "a folder" if path.is_dir() else "not there"
        raise InputError(f"{path} is {place}; give a checkpoint file")
    digest = sha256_file(path)
    if sha256 not in (None, digest):
        raise InputError(
            f"{path} was altered: its sha256 is {digest}, expected {sha256}; restore it"
        )
    try:
        content = load_archive(path)
    except Exception as e:  # a damaged or hostile file can raise anything from an unpickler
        raise InputError(f"{path} {_fault_of_file(e)}") from e
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, expected a checkpoint's dictionary"
        )
    return content, digest


def _fault_of_file(error: Exception) -> str:
    """What is wrong with a file that torch does not load, and what to do about it."""
    code = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if code is None or not isinstance(error, pickle.UnpicklingError):
        return "is no torch checkpoint, or damaged or cut short; fetch it again"
    advice = "get the weights from a source you trust"
    # what a training run logs beside its weights
    if code[1].startswith(("mmengine.", "mmcv.", "numpy.")):
        advice = (
            "if you trust it, strip it where it was trained: "
            "c = torch.load(FILE, weights_only=False); "
            "torch.save({'state_dict': c['state_dict']}, NEW)"
        )
    return f"contains code ({code[1]}), refused; {advice}"


def rebuild(content: dict, path: Path) -> Segmenter:
    """The network of a checkpoint of ours, `content`. Raises InputError for one that is none.

    path: the file's, for messages.
    """
    if content["format"] != FORMAT:
        raise InputError(
            f"{path} has format {content['format']!r}, this version reads {FORMAT}; update dme"
        )
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}; "
            "it was not written by dme.nets.checkpoint.save_model"
        )
    try:
        model = build_model(**content["arch"])
    except (TypeError, RuntimeError, InputError) as e:
        raise InputError(f"{path} describes no network of this version: {e}") from e
    model.preprocess = content["preprocess"]
    model.classes = content["classes"]
    model.weights_extra = content["extra"]
    check_description(model, path)
    load_strict(model, content["state_dict"], path)
    return model


def check_description(model: Segmenter, path: str | Path) -> None:
    """Raises InputError, naming `path`, for classes or mean and std that are not the network's."""
    channels = model.arch["in_channels"]
    classes = model.arch["num_classes"]
    try:
        sample = normalise(torch.ones(1, channels, 1, 1), model.preprocess)
        fits = sample.shape[1] == channels and bool(sample.isfinite().all())
        fits &= isinstance(model.classes, list) and len(model.classes) == classes
    except (KeyError, TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: classes {model.classes} and preprocess {model.preprocess} do not fit a "
            f"network with {classes} classes and {channels} input channels"
        )


def load_strict(model: Segmenter, state: dict[str, Tensor], path: str | Path) -> None:
    """Copy tensors under our names into the network.

    Raises InputError, one for all differences in names or shapes.
    """
    if not _maps_names_to_tensors(state):
        raise InputError(f"{path}: its state_dict does not map names to tensors")
    target = model.state_dict()
    expected_shapes = _shapes(target)
    shapes = _shapes(state)
    faults = []
    for name in expected_shapes | shapes:
        shape = shapes.get(name, "missing")
        expected = expected_shapes.get(name, "none such")
        if shape != expected:
            faults.append(f"{name} is {shape}, expected {expected}")
    if faults:
        reasons = _differences_in_arch(model, state)
        raise InputError(f"{path} does not fit the network: {'; '.join([*reasons, *faults])}")

    weights = _without_counters(state)
    _refuse_non_finite(weights, str(path))
    model.load_state_dict(target | weights)


def _maps_names_to_tensors(state: object) -> bool:
    if not isinstance(state, dict):
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in _without_counters(state).items()}


def _differences_in_arch(model: Segmenter, state: dict[str, Tensor]) -> list[str]:
    """Where the architecture that tensors of a checkpoint show is not the network's, in words."""
    differences = []
    for key, value in (openmmlab.read_arch(_without_counters(state)) or {}).items():
        if value != model.arch[key]:
            differences.append(
                f"the checkpoint has {key} {value}, the network {model.arch[key]}; "
                f"build with {key}={value!r}"
            )
    return differences


def _without_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def _refuse_non_finite(state: dict[str, Tensor], place: str) -> None:
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    if bad:
        raise InputError(
            f"{place}: NaN or infinity in {first_ten(bad)}; the training that made it diverged"
        )


def first_ten(names: list[str]) -> str:
    """At most ten names for a message, and how many there are beside them."""
    more = len(names) - 10
    text = ", ".join(names[:10])
    return f"{text} and {more} more" if more > 0 else text
