"""HDF5 cache of a source's B-scans: built once, verified at every opening, held in memory.

File `<kind>-<12 hex digits of the source's sha256>-<size or native>.h5`. Root attributes: format, kind, description,
source_sha256, size (0 is native), scale_um (absent when unknown), created_by. Datasets, each with its own crc32:

    names, notes       fixed-length UTF-8 strings
    subjects, positions int64 (N,)
    shapes             int64 (N, 2), height and width of each scan
    images, fluid      uint8, the scans' pixels row by row, one scan after another (fluid only when annotated)
    layers             float32, the scans' (8, W) boundary rows, one scan after another (native size only)

crc32 of raw pixels was the fastest to open of what was tried: sha256 takes four times as long to check, and any
compression ten times as long to read. HDF5 checks its own headers from file format 1.10 on. It does not check
variable-length strings, and a damaged one can hang it: hence the fixed length.
"""

import contextlib
import fcntl
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from dme.bscan import IGNORE, BScan
from dme.errors import InputError
from dme.files import atomic_path

if TYPE_CHECKING:
    from dme.sources import Source

FORMAT = 1  # raise it whenever the layout above, or how pixels are derived, changes


@dataclass
class Cache:
    """All B-scans of a source in memory, ordered by (subject, position).

    images: uint8 (N, H, W) when all scans have one shape, else a list of N arrays (H, W).
    fluid: likewise, uint8 of 0, 1 and 255 (unknown); None when the set is not annotated.
    layers: float32 (N, 8, W), or a list of N arrays (8, W), NaN where ungraded; None when absent or resized.
    subjects, positions: int64 (N,). size: side of the resized square, None is native.
    scale_um: (axial, lateral, spacing) of these pixels; None when unknown or not the same for all scans.
    notes: what the source had to say while it was read.
    """

    kind: str
    description: str
    source_sha256: str
    size: int | None
    scale_um: tuple[float, float, float] | None
    names: list[str]
    subjects: np.ndarray
    positions: np.ndarray
    images: np.ndarray | list[np.ndarray]
    fluid: np.ndarray | list[np.ndarray] | None
    layers: np.ndarray | list[np.ndarray] | None
    notes: list[str]

    def __len__(self) -> int:
        return len(self.names)


def open_cache(source: "Source", size: int | None = None, folder: Path | None = None) -> Cache:
    """Return the verified cache of `source`, building it first when it is missing, outdated or damaged.

    size: None for native pixels; otherwise every scan becomes size x size as in the study: Pillow's BICUBIC on the
    8-bit image and on the 0/1 fluid mask, nearest for the unknown region. Layers are not carried to a resized set.
    folder: where cache files live; default is the environment variable DME_CACHE, else ~/.cache/dme.

    Any number of processes may ask at once: one builds, the others wait for it. A cache that cannot be used is
    reported on stderr with the reason. Raises InputError for labels out of range, an empty source or a failing disk.
    """
    if size is not None and size < 1:
        raise InputError(f"size {size} is not a number of pixels; give 1 or more, or none for the native size")
    folder = Path(folder or os.environ.get("DME_CACHE") or Path.home() / ".cache" / "dme")
    path = folder / f"{source.kind}-{source.sha256[:12]}-{size or 'native'}.h5"
    cache, _ = _try_read(path, source.sha256, size)
    if cache is not None:
        return cache
    native = None if size is None else open_cache(source, None, folder)
    with _locked(path):
        cache, problem = _try_read(path, source.sha256, size)  # somebody may have built it while we waited
        if cache is not None:
            return cache
        if problem:
            print(f"cache {path} cannot be used ({problem}): building it again from {source.description}", file=sys.stderr)
        for leftover in folder.glob(f".{path.name}.*.part"):  # of a killed build: a live one would hold the lock
            leftover.unlink()
        _write(path, _collect(source) if native is None else _resized(native, size))
        cache, problem = _try_read(path, source.sha256, size)
    if cache is None:
        raise InputError(f"cache {path} reads back wrong just after writing ({problem}): check the disk")
    return cache


def _try_read(path: Path, source_sha256: str, size: int | None) -> tuple[Cache | None, str | None]:
    """(cache, None), (None, what is wrong with the file), or (None, None) when there is no file."""
    if not path.is_file():
        return None, None
    try:
        return _read(path, source_sha256, size), None
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as e:  # as h5py meets bad bytes
        return None, " ".join(str(e).split())


def _read(path: Path, source_sha256: str, size: int | None) -> Cache:
    # files are replaced whole, never changed in place, so HDF5's own locks (which some network disks lack) are not needed
    with h5py.File(path, "r", locking=False) as file:
        about = dict(file.attrs)
        for key, want in (("format", FORMAT), ("source_sha256", source_sha256.encode()), ("size", size or 0)):
            if about.get(key) != want:
                raise ValueError(f"{key} is {about.get(key)}, expected {want}")
        arrays = {}
        for key, dataset in file.items():
            arrays[key] = dataset[...]
            if zlib.crc32(arrays[key]) != dataset.attrs["crc32"]:
                raise ValueError(f"checksum of {key} differs")
    shapes = arrays["shapes"]
    layer_shapes = np.column_stack((np.full(len(shapes), 8), shapes[:, 1]))
    return Cache(
        kind=about["kind"].decode(),
        description=about["description"].decode(),
        source_sha256=source_sha256,
        size=size,
        scale_um=tuple(about["scale_um"].tolist()) if "scale_um" in about else None,
        names=[name.decode() for name in arrays["names"]],
        subjects=arrays["subjects"],
        positions=arrays["positions"],
        images=_unpack(arrays["images"], shapes),
        fluid=_unpack(arrays["fluid"], shapes) if "fluid" in arrays else None,
        layers=_unpack(arrays["layers"], layer_shapes) if "layers" in arrays else None,
        notes=[note.decode() for note in arrays["notes"]],
    )


def _unpack(flat: np.ndarray, shapes: np.ndarray) -> np.ndarray | list[np.ndarray]:
    if (shapes == shapes[0]).all():
        return flat.reshape(len(shapes), *shapes[0])
    parts = np.split(flat, np.cumsum(shapes.prod(axis=1))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _write(path: Path, cache: Cache) -> None:
    arrays = {
        "names": np.array([name.encode() for name in cache.names], dtype=bytes),
        "notes": np.array([note.encode() for note in cache.notes], dtype=bytes),
        "subjects": cache.subjects,
        "positions": cache.positions,
        "shapes": np.array([image.shape for image in cache.images], np.int64),
    }
    for key in ("images", "fluid", "layers"):
        if getattr(cache, key) is not None:
            arrays[key] = np.concatenate([part.ravel() for part in getattr(cache, key)])
    try:
        # format 1.10 checks its headers and is read by every HDF5 since 2016
        with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110"), locking=False) as file:
            file.attrs["format"] = FORMAT
            file.attrs["created_by"] = np.bytes_(f"dme cache {FORMAT}, h5py {h5py.__version__}, Pillow {PIL.__version__}")
            for key in ("kind", "description", "source_sha256"):
                file.attrs[key] = np.bytes_(getattr(cache, key).encode())
            file.attrs["size"] = cache.size or 0
            if cache.scale_um is not None:
                file.attrs["scale_um"] = cache.scale_um
            for key, array in arrays.items():
                file.create_dataset(key, data=array).attrs["crc32"] = zlib.crc32(array)
    except OSError as e:
        raise _unwritable(path, e) from e


def _collect(source: "Source") -> Cache:
    progress = tqdm(source.scans(), desc=f"caching {source.description}", unit="scan")
    scans = [_checked(scan) for scan in progress]
    if not scans:
        raise InputError(f"{source.description} holds no B-scans, expected at least one: nothing to cache")
    for what in ("fluid", "layers"):
        without = [scan.name for scan in scans if getattr(scan, what) is None]
        if 0 < len(without) < len(scans):
            raise InputError(
                f"{len(without)} of {len(scans)} scans have no {what} labels ({without[0]}, ...): annotate all or none"
            )
    notes = list(source.notes)
    scales = {scan.scale_um for scan in scans}
    if len(scales) > 1:
        notes.append(f"pixel scale differs between scans ({len(scales)} values): none is used for the set")
    return Cache(
        kind=source.kind,
        description=source.description,
        source_sha256=source.sha256,
        size=None,
        scale_um=scales.pop() if len(scales) == 1 else None,
        names=[scan.name for scan in scans],
        subjects=np.array([scan.subject for scan in scans], np.int64),
        positions=np.array([scan.position for scan in scans], np.int64),
        images=[scan.image for scan in scans],
        fluid=None if scans[0].fluid is None else [scan.fluid for scan in scans],
        layers=None if scans[0].layers is None else [scan.layers.astype(np.float32) for scan in scans],
        notes=notes,
    )


def _checked(scan: BScan) -> BScan:
    """The same scan, or InputError saying which scan is wrong and how."""
    image, fluid, layers = scan.image, scan.fluid, scan.layers
    if image.dtype != np.uint8 or image.ndim != 2 or image.size == 0:
        raise InputError(f"scan {scan.name}: image is {image.dtype} {image.shape}, expected uint8 (H, W)")
    if fluid is not None:
        if fluid.dtype != np.uint8 or fluid.shape != image.shape:
            raise InputError(f"scan {scan.name}: fluid is {fluid.dtype} {fluid.shape}, expected uint8 {image.shape}")
        wrong = np.unique(fluid[(fluid > 1) & (fluid != IGNORE)])
        if wrong.size:
            raise InputError(f"scan {scan.name}: fluid holds {wrong.tolist()}, expected only 0, 1 and 255 (unknown)")
    if layers is not None and (layers.shape != (8, image.shape[1]) or layers.dtype.kind != "f"):
        raise InputError(
            f"scan {scan.name}: layers are {layers.dtype} {layers.shape}, expected float (8, {image.shape[1]})"
        )
    return scan


def _resized(native: Cache, size: int) -> Cache:
    def resize(array: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((size, size), how))

    images = np.empty((len(native), size, size), np.uint8)
    fluid = None if native.fluid is None else np.empty_like(images)
    for i in tqdm(range(len(native)), desc=f"resizing to {size} x {size}", unit="scan"):
        images[i] = resize(native.images[i], Image.Resampling.BICUBIC)
        if fluid is not None:
            labels = native.fluid[i]
            unknown = (labels == IGNORE).astype(np.uint8)
            fluid[i] = resize((labels == 1).astype(np.uint8), Image.Resampling.BICUBIC)
            fluid[i][resize(unknown, Image.Resampling.NEAREST) == 1] = IGNORE
    scale_um, notes = native.scale_um, native.notes
    if scale_um is not None and isinstance(native.images, list):
        scale_um, notes = None, [*notes, f"scans of several shapes become {size} x {size}: no common pixel scale is left"]
    elif scale_um is not None:
        height, width = native.images.shape[1:]
        scale_um = (scale_um[0] * height / size, scale_um[1] * width / size, scale_um[2])
    return replace(native, size=size, scale_um=scale_um, images=images, fluid=fluid, layers=None, notes=notes)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one cache file; the system releases it when the process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as e:
        raise _unwritable(path, e) from e
    with lock:
        yield


def _unwritable(path: Path, e: OSError) -> InputError:
    reason = os.strerror(e.errno) if e.errno else e
    return InputError(f"cannot write cache {path}: {reason}; free the disk or set DME_CACHE to a folder you can write to")
