"""What Python users hand over -> a network and scans; or one line that says what is taken."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from dme.common.errors import InputError
from dme.common.scale import check_scale
from dme.common.words import IMAGE_SUFFIXES
from dme.data.arrays import check_axes
from dme.data.image_files import CONVERTED_MODES
from dme.data.images import read_as_seen, refuse_inverted, to_scan
from dme.nets.loading import load_model
from dme.nets.segmenter import Segmenter
from dme.retina.recognise import has_colours, oddities_of

CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha
ROUNDING = 1e-5  # by which what a network calls a probability may lie outside 0 to 1
NETWORK = "a network of dme.load_model, a name such as dme-fluid, or a checkpoint file"


def as_network(model: Any) -> Segmenter:
    """The network itself, or the one of that name or file. Raises InputError for anything else."""
    if isinstance(model, str | Path):
        return load_model(model)
    if not isinstance(model, nn.Module) or not hasattr(model, "classes"):
        raise InputError(f"model is {_kind(model)}, expected {NETWORK}")
    dtype = next(model.parameters()).dtype
    if dtype != torch.float32:
        raise InputError(f"model has weights of {dtype}, expected torch.float32: model.float()")
    return model


def as_threshold(threshold: float) -> float:
    """Raises InputError for what is no probability that another can lie above."""
    if not _is_number(threshold) or not 0 <= threshold < 1:
        raise InputError(
            f"threshold is {threshold!r}, expected a probability from 0 to 1 (1 excluded)"
        )
    return float(threshold)


def as_scale(scale_um: Sequence[float] | None) -> tuple[float, ...] | None:
    """Axial and lateral um per pixel, and maybe the spacing of B-scans in um.

    Raises InputError for anything else, and for a scale that no scan has, as `--scale` does.
    """
    if scale_um is None:
        return None
    several = isinstance(scale_um, Sequence | np.ndarray) and len(scale_um) in (2, 3)
    if not several or not all(map(_is_number, scale_um)):
        raise InputError(
            f"scale_um is {scale_um!r}, expected axial and lateral um per pixel, or None"
        )
    scale_um = tuple(float(um) for um in scale_um)
    check_scale(scale_um, f"scale_um {scale_um}")
    return scale_um


def as_fluid(fluid: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """Probability of fluid of a scan of this shape (H, W), or None. A mask of 0 and 1 is one too.

    Raises InputError for anything else, such as the 0 and 255 of a mask's picture.
    """
    if fluid is None:
        return None
    probability = _numbers("fluid", fluid)
    if probability.shape != shape:
        raise InputError(f"fluid: shape {probability.shape}, expected the scan's, {shape}")
    if not np.isfinite(probability).all():
        raise InputError("fluid: holds NaN or infinity, expected probabilities")
    lowest, highest = probability.min(), probability.max()
    if lowest < -ROUNDING or highest > 1 + ROUNDING:
        raise InputError(
            f"fluid: values {lowest:g}..{highest:g}, expected probabilities 0..1, as dme.predict "
            "gives them; of the picture of a mask: mask > 0"
        )
    return probability.clip(0, 1)


def as_scan(image: Any) -> np.ndarray:
    """One B-scan, uint8 (H, W), of an array, a tensor, a Pillow image or the path of a picture.

    Arrays: (H, W), or (H, W, C) of `CHANNELS`; values as `dme.data.images.to_scan` takes them.
    Raises InputError.
    """
    if isinstance(image, str | Path):
        return _read(Path(image))
    pixels = _array("image", image)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] and pixels.shape[2] not in CHANNELS:
        raise InputError(_not_one_scan(pixels.shape))
    return _grey("image", pixels)


def as_scans(volume: Any) -> list[np.ndarray]:
    """The B-scans of a volume, uint8 (H, W) each, on one grey scale.

    volume: array or tensor (N, H, W) or (N, H, W, C) of `CHANNELS`. Raises InputError, also for
    axes in another order, as `dme.data.arrays.check_axes` tells.
    """
    if isinstance(volume, str | Path):
        raise InputError(
            f"volume is the path {volume}, expected an array (N, H, W): np.load of an .npy file; "
            "the command `dme predict` reads all kinds of files"
        )
    pixels = _array("volume", volume)
    if pixels.ndim not in (3, 4) or pixels.shape[3:] and pixels.shape[3] not in CHANNELS:
        raise InputError(
            f"volume: shape {pixels.shape}, expected (N, H, W) or (N, H, W, 3); "
            "one B-scan goes to dme.predict"
        )
    if not pixels.size:
        raise InputError(f"volume: shape {pixels.shape} holds no pixels")
    grey = pixels if pixels.ndim == 3 else pixels[..., 0]
    check_axes(Path("volume"), grey.shape, grey)
    peak = pixels.max()
    return [_grey(f"volume[{i}]", scan, peak) for i, scan in enumerate(pixels)]


def _is_number(value: Any) -> bool:
    """Whether it is one real number."""
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """A value's type, in words, with the shape of an array."""
    shape = getattr(value, "shape", None)
    text = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    return text if shape is None else f"{text} of shape {tuple(shape)}"


def _read(path: Path) -> np.ndarray:
    """The picture in a file."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(
            f"image: {path} is no picture ({' '.join(IMAGE_SUFFIXES)}), expected one or an array; "
            "the command `dme predict` reads .npy, .mat and folders"
        )
    if not path.is_file():
        raise InputError(f"image: no such file: {path}")
    return _grey(str(path), read_as_seen(path))


def _array(name: str, value: Any) -> np.ndarray:
    """Grey values as an array."""
    pixels = _numbers(name, value)
    if pixels.dtype == bool:
        raise InputError(f"{name}: bool, a mask rather than a scan; expected grey values 0..255")
    return pixels


def _numbers(name: str, value: Any) -> np.ndarray:
    """Numbers or truth values as an array."""
    try:
        numbers = _plain(value)
    except (TypeError, ValueError, RuntimeError, OSError) as e:
        raise InputError(f"{name} is {_kind(value)}, expected an array ({e})") from e
    if numbers.dtype.kind not in "buif":
        raise InputError(f"{name} is {_kind(value)}, expected an array of numbers")
    return numbers


def _plain(value: Any) -> np.ndarray:
    """What NumPy makes of it, upright; TypeError, ValueError and others where it cannot."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:  # which NumPy does not know
            value = value.float()
    if isinstance(value, Image.Image):
        value = ImageOps.exif_transpose(value)  # as every viewer shows it
        if value.mode in ("P", *CONVERTED_MODES):
            value = value.convert("RGB")  # else a palette's indices pass for grey
    return np.asarray(value)


def _grey(name: str, pixels: np.ndarray, peak: float | None = None) -> np.ndarray:
    """uint8 (H, W); warns of what is no B-scan, or not as networks know them."""
    try:
        grey = to_scan(pixels, peak)
        refuse_inverted(grey)
    except ValueError as e:
        raise InputError(f"{name}: {e}") from e
    as_seen = pixels[:, :, :3] if has_colours(pixels) else grey
    for oddity in oddities_of(as_seen):
        warnings.warn(f"{name}: {oddity}", stacklevel=5)
    return grey


def _not_one_scan(shape: tuple[int, ...]) -> str:
    """Why an array of this shape is no B-scan."""
    text = f"image: shape {shape}, expected (height, width) or (height, width, 3)"
    if len(shape) == 3 and shape[0] in CHANNELS:
        text += "; channels come last: np.moveaxis(image, 0, -1)"
    if len(shape) in (3, 4):
        text += "; a volume (N, H, W) goes to dme.predict_volume"
    return text
