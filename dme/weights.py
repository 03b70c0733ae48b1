"""Trained networks on disk: our checkpoint file, OpenMMLab's, named ones, and their download.

Our file is a torch archive of KEYS that rebuilds its network without further arguments. The names are in
weights/zoo.json: an entry with `file` ships beside it, one with `url` is fetched by `download`, and by
nothing else. Everything is read with `weights_only=True` and loaded strictly.
"""

import http.client
import json
import os
import pickle
import re
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dme import openmmlab
from dme.errors import InputError
from dme.files import atomic_path, load_archive, sha256_file
from dme.model import BACKBONES, HEADS, Segmenter, build_model, normalise

FORMAT = 1
KEYS = ("format", "arch", "preprocess", "classes", "extra", "state_dict")
# An installed package holds the folder weights/ as dme/zoo; a clone (also pip install -e) has it beside dme/
INSTALLED = Path(__file__).parent / "zoo"
ZOO = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[1] / "weights"
# BN's step counter has no use at a fixed momentum, and old checkpoints lack it: never stored, never read
COUNTER = ".num_batches_tracked"


def known() -> dict[str, dict]:
    """The named checkpoints: name -> arch, reported, licence, trained_on, sha256, and `file` or `url`."""
    return json.loads((ZOO / "zoo.json").read_text(encoding="utf-8"))


def path_of(name: str) -> Path:
    """Where a named checkpoint is or will be: shipped, or in $DME_CACHE/weights (~/.cache/dme/weights)."""
    entries = known()
    if name not in entries:
        raise InputError(f"unknown weights {name!r}; give a file (.pth) or one of {', '.join(entries)}")
    if "file" in entries[name]:
        return ZOO / entries[name]["file"]
    return Path(os.environ.get("DME_CACHE") or "~/.cache/dme").expanduser() / "weights" / f"{name}.pth"


def save_model(
    model: Segmenter, path: str | Path, dtype: torch.dtype | None = None, extra: dict | None = None
) -> None:
    """Write a network into our checkpoint file, atomically; the same network gives the same bytes.

    dtype: None keeps float32; torch.float16 halves the convolution kernels (BN and biases stay float32:
    they are small, and a variance may not fit). extra: anything JSON can hold, such as where the weights
    come from. Raises InputError naming a tensor that is not finite, or that `dtype` cannot hold to 0.1 % of
    its largest value.
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


def load_model(name_or_path: str | Path, device: str | torch.device = "cpu") -> Segmenter:
    """A network in eval mode from a name (see `known`), a file of ours or an OpenMMLab file.

    For result files it carries `weights_name` (the name, or the file's), `weights_sha256` (of the file
    read) and `weights_extra` (what `save_model` was given; of an OpenMMLab file its name and sha256).
    Raises InputError for an unknown name, a name not downloaded yet, and a file that is absent, damaged,
    altered or does not fit.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    entry = known().get(name, {})
    if entry or (path.name == name and not path.suffix and not path.exists()):  # surely meant as a name
        path = path_of(name)
    if "url" in entry and not path.is_file():
        raise InputError(f"{name} is not downloaded (no {path}); run ./run.sh weights {name}")
    content, digest = _read(path, entry["sha256"] if "file" in entry else None)
    model = _rebuild(content, path) if "format" in content else _convert(content, path, digest)
    model.weights_name, model.weights_sha256 = name if entry else path.name, digest
    return model.to(device).eval()


def load_openmmlab(model: Segmenter, path: str | Path) -> None:
    """Load an OpenMMLab checkpoint (or its plain state_dict) into a network, strictly.

    BN and SyncBN have the same names. Raises InputError for a file that is absent, damaged, holds code,
    does not have the sha256 its name ends in (`-<8 hex>.pth`), or differs from the network in any name or
    shape.
    """
    content, digest = _read(path)
    _load_strict(model, _openmmlab_state(content, path, digest), path)


def convert_openmmlab(path: str | Path) -> Segmenter:
    """The network of an OpenMMLab checkpoint with a backbone of ours; raises as `load_openmmlab`.

    The architecture is read off the tensors; class names, mean and std off the meta data where it has them.
    Input is in RGB order; a checkpoint whose configuration says BGR is refused.
    """
    content, digest = _read(path)
    return _convert(content, path, digest)


def download(name: str, folder: str | Path | None = None) -> Path:
    """Fetch a named checkpoint, verify it, convert it to our format; returns the file for `load_model`.

    folder: None for where `path_of` says. A broken download stays as `.part` and is resumed by the next
    call; it is verified when whole, and deleted if its sha256 is wrong. A file already there is left as it
    is. Raises InputError when the network, the server or the file fails.
    """
    target, entry = path_of(name), known()[name]
    if "file" in entry:
        return target
    target = Path(folder or target.parent) / target.name
    if target.is_file():
        return target
    url, expected = entry["url"], entry["sha256"]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(url.rsplit("/", 1)[-1] + ".part")
    if failure := _fetch(url, part, name):
        resumes = f" (it resumes {part})" if part.exists() else ""
        raise InputError(
            f"cannot download {url}: {failure}; run it again{resumes}, "
            f"or fetch it yourself and run ./run.sh weights --convert FILE --out {target}"
        )
    digest = sha256_file(part)
    if not digest.startswith(expected):
        part.unlink()
        raise InputError(f"{url} gave sha256 {digest[:8]}, expected {expected}; deleted, run it again")
    model = convert_openmmlab(part)
    source = {key: entry[key] for key in ("url", "licence", "trained_on", "reported")}
    save_model(model, target, extra=source | {"source_sha256": digest})
    part.unlink()
    return target


def _fetch(url: str, part: Path, label: str) -> str | None:
    """Append to `part` what it lacks of `url`; returns what went wrong."""
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "dme"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            if answer.status != 206:  # the whole file, whether asked for the rest or not
                offset = 0
            total = int(answer.headers["Content-Length"] or 0) + offset
            with (
                open(part, "ab" if offset else "wb") as f,
                tqdm(total=total or None, initial=offset, unit="B", unit_scale=True, desc=label) as bar,
            ):
                while block := answer.read(1 << 16):
                    f.write(block)
                    bar.update(len(block))
        have = part.stat().st_size
        return f"the connection broke off at {have} of {total} bytes" if have < total else None
    except urllib.error.HTTPError as e:
        nothing_left = e.code == 416 and offset
        return None if nothing_left else f"the server answered {e.code} {e.reason}"
    except urllib.error.URLError as e:
        return str(e.reason)
    except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as e:
        return str(e) or type(e).__name__


def _read(path: str | Path, sha256: str | None = None) -> tuple[dict, str]:
    """The content of a torch file, without running anything in it, and its sha256 (must be the given one)."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; give a checkpoint file")
    digest = sha256_file(path)
    if sha256 not in (None, digest):
        raise InputError(f"{path} was altered: its sha256 is {digest}, expected {sha256}; restore it")
    try:
        content = load_archive(path)
    except Exception as e:  # a damaged or hostile file can raise anything from an unpickler
        code = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(e))
        if not isinstance(e, pickle.UnpicklingError) or code is None:
            raise InputError(f"{path} is no torch checkpoint, or damaged or cut short; fetch it again") from e
        advice = "get the weights from a source you trust"
        # what a training run logs beside its weights
        if code[1].startswith(("mmengine.", "mmcv.", "numpy.")):
            advice = (
                "if you trust it, strip it where it was trained: c = torch.load(FILE, weights_only=False); "
                "torch.save({'state_dict': c['state_dict']}, NEW)"
            )
        raise InputError(f"{path} contains code ({code[1]}), refused; {advice}") from e
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a checkpoint's dictionary")
    return content, digest


def _rebuild(content: dict, path: Path) -> Segmenter:
    """The network of a checkpoint of ours."""
    if content["format"] != FORMAT:
        raise InputError(f"{path} has format {content['format']!r}, this version reads {FORMAT}; update dme")
    if missing := [key for key in KEYS if key not in content]:
        raise InputError(f"{path} lacks {', '.join(missing)}; it was not written by dme.weights.save_model")
    try:
        model = build_model(**content["arch"])
    except (TypeError, RuntimeError, InputError) as e:
        raise InputError(f"{path} describes no network of this version: {e}") from e
    model.preprocess, model.classes = content["preprocess"], content["classes"]
    model.weights_extra = content["extra"]
    _check_description(model, path)
    _load_strict(model, content["state_dict"], path)
    return model


def _convert(content: dict, path: str | Path, digest: str) -> Segmenter:
    """The network of an OpenMMLab checkpoint."""
    state = _openmmlab_state(content, path, digest)
    arch = openmmlab.read_arch(state)
    if arch is None:
        raise InputError(
            f"{path} is neither a dme checkpoint (no 'format') nor one of OpenMMLab's with a backbone "
            f"({', '.join(BACKBONES)}) and a head ({', '.join(HEADS)}) of dme; it has {_some(list(state))}"
        )
    model = build_model(**arch)
    _load_strict(model, state, path)
    try:
        classes, preprocess = openmmlab.read_meta(content.get("meta"), path)
    except (TypeError, ValueError) as e:
        raise InputError(f"{path}: its meta data cannot be read ({e}); remove 'meta' from it") from e
    model.classes = classes or model.classes
    model.preprocess |= preprocess
    model.weights_extra = {"source": Path(path).name, "source_sha256": digest}
    _check_description(model, path)
    return model


def _openmmlab_state(content: dict, path: str | Path, digest: str) -> dict[str, Tensor]:
    """The tensors of an OpenMMLab checkpoint under our names."""
    named = re.search(r"-([0-9a-f]{8})\.pth$", Path(path).name)
    if named and not digest.startswith(named[1]):
        raise InputError(f"{path} has sha256 {digest[:8]}, its name says {named[1]}; damaged: fetch it again")
    state = content.get("state_dict", content)
    return openmmlab.rename(state) if isinstance(state, dict) else {}


def _check_description(model: Segmenter, path: str | Path) -> None:
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


def _load_strict(model: Segmenter, state: dict[str, Tensor], path: str | Path) -> None:
    """Copy tensors under our names into the network; any difference in names or shapes is one InputError."""
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
        raise InputError(f"{what}: NaN or infinity in {_some(bad)}; the training that made it diverged")


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
