"""Our checkpoint file: written, read, and its network rebuilt.

It is a torch archive of KEYS that rebuilds its network without further arguments. Everything is
read with `weights_only=True` and loaded strictly.
"""

import json
import math
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from dme.common.errors import InputError
from dme.common.files import atomic_path, is_zip, load_archive, sha256_file
from dme.nets import openmmlab
from dme.nets.segmenter import Segmenter, build_model, normalise

FORMAT = 1
LARGEST_ERROR = 1e-3  # of a tensor saved in another type, as a share of its largest value
KEYS = ("format", "arch", "preprocess", "classes", "extra", "state_dict")
# BN's step counter has no use at a fixed momentum, and old checkpoints lack it: never stored,
# never read
COUNTER = ".num_batches_tracked"
VARIANCE = ".running_var"
# entries of `extra` that name people and places: a checkpoint is what one shares
PRIVATE = ("command", "data")
# what torch lets a file call to ask for memory that the file itself does not fill
MEMORY = re.compile(
    r"bytearray|\w*Tensor|(Unt|T)ypedStorage|_rebuild_(sparse|nested|meta|wrapper)\w*"
)
OLDER_PICKLES = 4  # of torch's older kind of file: three of its version, then the content
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth(\.part)?$")  # of its sha256; .part: a download


def save_model(
    model: Segmenter, path: str | Path, dtype: torch.dtype | None = None, extra: dict | None = None
) -> None:
    """Write a network into our checkpoint file, atomically; the same network gives the same bytes.

    dtype: None keeps float32; torch.float16 halves the convolution kernels (BN and biases stay
    float32: they are small, and a variance may not fit). extra: anything JSON can hold, such as
    where the weights come from; its entries PRIVATE are left out. Raises InputError naming a
    tensor that is not finite, or that `dtype` cannot hold to 0.1 % of its largest value.
    """
    # JSON's own types only: a TypeError here, rather than a file that weights_only refuses
    extra = json.loads(json.dumps(extra or {}))
    extra = {key: value for key, value in extra.items() if key not in PRIVATE}
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
    absent, altered, damaged, holds code or no dictionary, or asks for more memory than it fills;
    and for one of torch's older kind, which has no checksums, unless its name ends in its hash.
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
        _refuse_bomb(path)
        content = load_archive(path)
    except InputError:
        raise
    except Exception as e:  # a damaged or hostile file can raise anything from an unpickler
        raise InputError(f"{path} {_fault_of_file(e)}") from e
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, expected a checkpoint's dictionary"
        )
    verified = sha256 is not None or is_zip(path) or is_named_after(path, digest)
    if not verified:
        raise InputError(
            f"{path} is of torch's older kind, which has no checksums: a wrong bit in it would "
            f"pass unseen; fetch it again under the name it was published with, which ends in its "
            f"hash, or if you are sure it is whole, name it {path.stem}-{digest[:8]}.pth"
        )
    return content, digest


def is_named_after(path: str | Path, digest: str) -> bool:
    """Whether a file's name ends in the first digits of its sha256, as OpenMMLab's do."""
    named = HASH_IN_NAME.search(Path(path).name)
    return named is not None and digest.startswith(named[1])


def _refuse_bomb(path: Path) -> None:
    """Raises InputError for a file whose content takes more memory than the file is long."""
    if not is_zip(path):
        with open(path, "rb") as file:
            for _ in range(OLDER_PICKLES):
                _refuse_memory(file, path)
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:  # torch compresses nothing
            raise InputError(f"{path} unpacks to {size / 1e9:.1f} GB, refused")
        for name in archive.namelist():
            if name.endswith(".pkl"):
                _refuse_memory(archive.read(name), path)


def _refuse_memory(pickled: bytes | BinaryIO, path: Path) -> None:
    """Raises InputError where a pickle, which is not run, names something of MEMORY.

    Of a file, it is left behind the pickle.
    """
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL" and MEMORY.fullmatch(argument.split(" ")[-1]):
            name = argument.replace(" ", ".")
            raise InputError(
                f"{path} asks for memory ({name}), refused; save plain tensors of a state_dict"
            )


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
    model = build_for(content["arch"], content["state_dict"], path)
    model.preprocess = content["preprocess"]
    model.classes = content["classes"]
    model.weights_extra = content["extra"]
    check_description(model, path)
    load_strict(model, content["state_dict"], path)
    return model


def build_for(arch: object, state: object, path: str | Path) -> Segmenter:
    """A network of this `arch`, its weights for `load_strict` to fill; only if the file's fit it.

    It is laid out without memory first: an `arch` may claim any width. Raises InputError, naming
    `path`, for an `arch` that is none, and as `load_strict` does.
    """
    most = Path(path).stat().st_size  # every channel has weights
    for name, value in arch.items() if isinstance(arch, dict) else ():
        if isinstance(value, (int, float)) and value > most:
            raise InputError(
                f"{path} describes no network of this version: {name} is {value:g}, "
                f"more than a file of {most} bytes can hold"
            )
    try:
        with torch.device("meta"):
            outline = build_model(**arch, fresh=False)
    except (TypeError, ValueError, RuntimeError, OverflowError, InputError) as e:
        raise InputError(f"{path} describes no network of this version: {e}") from e
    check_fits(outline, state, path)
    return build_model(**arch, fresh=False)


def check_description(model: Segmenter, path: str | Path) -> None:
    """Raises InputError, naming `path`, for classes or mean and std that are not the network's."""
    channels = model.arch["in_channels"]
    classes = model.arch["num_classes"]
    try:
        sample = normalise(torch.ones(1, channels, 1, 1), model.preprocess)
        fits = sample.shape[1] == channels and bool(sample.isfinite().all())
        fits &= isinstance(model.classes, list) and len(model.classes) == classes
        fits &= all(isinstance(name, str) for name in model.classes)
        fits &= isinstance(model.preprocess.get("size"), str | None)
        fits &= _states_entry(model.preprocess)
        fits &= isinstance(model.weights_extra, dict)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError):
        fits = False
    if not fits:
        raise InputError(
            f"{path}: classes {model.classes} and preprocess {model.preprocess} do not fit a "
            f"network with {classes} classes and {channels} input channels"
        )


def _states_entry(preprocess: dict) -> bool:
    """Whether what a checkpoint states of scale and brightness is whole; old ones state none."""
    if preprocess.get("brightness", "matched") != "matched":
        return False
    if preprocess.get("size") != "um":
        return "um_per_px" not in preprocess
    um_per_px = preprocess["um_per_px"]
    return len(um_per_px) == 2 and all(0 < um < math.inf for um in um_per_px)


def load_strict(model: Segmenter, state: dict[str, Tensor], path: str | Path) -> None:
    """Copy tensors under our names into the network.

    Raises InputError, one for all differences in names or shapes.
    """
    check_fits(model, state, path)
    weights = _without_counters(state)
    _refuse_non_finite(weights, str(path))
    model.load_state_dict(model.state_dict() | weights)


def check_fits(model: Segmenter, state: object, path: str | Path) -> None:
    """Raises InputError unless tensors have the network's names and shapes, and hold weights."""
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
    _refuse_odd_tensors(_without_counters(state), path)


def _refuse_odd_tensors(state: dict[str, Tensor], path: str | Path) -> None:
    """Raises InputError for tensors that are no weights, or claim more than the file holds."""
    odd = []
    claimed = 0  # bytes
    for name, value in state.items():
        plain = value.layout == torch.strided and value.device.type != "meta"
        if not (plain and value.is_floating_point()) or value.is_quantized:
            odd.append(f"{name} ({str(value.dtype).removeprefix('torch.')})")
        claimed += value.nelement() * value.element_size()
    if odd:
        raise InputError(f"{path}: no plain floating-point weights in {first_ten(odd)}")
    if claimed > Path(path).stat().st_size:
        raise InputError(
            f"{path} claims {claimed / 1e9:.1f} GB of weights, more than the file holds; refused"
        )


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
    # as float32, in which networks compute
    bad = [name for name, value in state.items() if not value.float().isfinite().all()]
    if bad:
        raise InputError(
            f"{place}: NaN or infinity in {first_ten(bad)}; the training that made it diverged"
        )
    variances = {name: value for name, value in state.items() if name.endswith(VARIANCE)}
    negative = [name for name, value in variances.items() if (value < 0).any()]
    if negative:
        raise InputError(f"{place}: a variance below 0 in {first_ten(negative)}; it is damaged")


def first_ten(names: list[str]) -> str:
    """At most ten names for a message, and how many there are beside them."""
    more = len(names) - 10
    text = ", ".join(names[:10])
    return f"{text} and {more} more" if more > 0 else text
