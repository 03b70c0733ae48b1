"""HDF5 cache of a source's B-scans: built once, verified at every opening, held in memory.

One file per source and size, `<kind>-<12 hex digits of the source's sha256>-<size or native>.h5`. Attributes:
format, kind, description, source_sha256, size (0: native), scale_um (when known), created_by. Datasets:

    names, notes         fixed-length UTF-8 strings
    subjects, positions  int64 (N,)
    shapes               int64 (N, 2) or (N, 3): height, width and, of colour images, channels of each scan
    images, fluid        uint8, all scans' pixels row by row, scan after scan (fluid only when annotated)
    layers               float32, all scans' (8, W) boundary rows, scan after scan (native size only)

Each dataset carries a checksum. Raw pixels open fastest of what was measured: gzip and lzf take five to
thirty times as long to read. HDF5 checks its own headers from file format 1.10 on, but not variable-length
strings, and a damaged one can hang it: hence the fixed length.
"""

import contextlib
import fcntl
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import PIL
from PIL import Image
from tqdm import tqdm

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import atomic_path, cache_folder
from dme.common.labels import IGNORE
from dme.data.duke import DUKE_SHAPE, GRADED_COLUMNS, is_duke
from dme.data.source import Source

FORMAT = 1  # raise it when this layout changes, or how a source is read or pixels are resized


@dataclass
class Cache:
    """All B-scans of a source in memory, ordered by (subject, position).

    images: uint8 (N, H, W), of photographs (N, H, W, 3), when all have one shape, else a list of N arrays.
    fluid: likewise without channels, uint8 of 0, 1 and 255 (unknown); None when the set is not annotated.
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
    notes: list[str]
    subjects: np.ndarray
    positions: np.ndarray
    images: np.ndarray | list[np.ndarray]
    fluid: np.ndarray | list[np.ndarray] | None
    layers: np.ndarray | list[np.ndarray] | None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_duke(self) -> bool:
        """Whether these are the 110 scans that Duke's graders annotated, by subjects and positions."""
        return is_duke(zip(self.subjects.tolist(), self.positions.tolist(), strict=True))

    def graded(self, index: int) -> np.ndarray:
        """Columns of a native scan that somebody annotated, bool (W,); elsewhere no fluid only means unknown.

        Those with layer boundaries, where the scan has any; else GRADED_COLUMNS of a scan of Duke's set; else
        all.
        """
        if self.size is not None:
            raise ValueError(
                f"the columns of scans resized to {self.size} pixels; ask the native cache"
            )
        if self.layers is not None and (known := np.isfinite(self.layers[index]).any(0)).any():
            return known
        columns = np.ones(self.images[index].shape[1], bool)
        if self.is_duke:
            first, end = (
                side * len(columns) // DUKE_SHAPE[1]
                for side in (GRADED_COLUMNS[0], GRADED_COLUMNS[1] + 1)
            )
            columns[:first] = columns[end:] = False
        return columns


def open_cache(source: Source, size: int | None = None, folder: Path | None = None) -> Cache:
    """Return the verified cache of `source`, building it first when it is missing, outdated or damaged.

    size: None for native pixels; else every scan becomes size x size as in the study: Pillow's BICUBIC on
    the 8-bit image and on the 0/1 fluid mask, nearest for the unknown region. A resized set has no layers.
    folder: where cache files live, by default the environment variable DME_CACHE, else ~/.cache/dme.

    Any number of processes may ask at once: one builds, the others wait for it. A cache that cannot be used
    is reported on stderr with the reason. Raises InputError for bad labels, an empty source, a failing disk.
    """
    if size is not None and size < 1:
        raise InputError(
            f"size {size} is not a number of pixels; give 1 or more, or none for the native size"
        )
    folder = Path(folder).expanduser() if folder else cache_folder()
    path = folder / f"{source.kind}-{source.sha256[:12]}-{size or 'native'}.h5"
    cache, _ = _read(path, source, size)
    if cache is not None:
        return cache
    native = None if size is None else open_cache(source, None, folder)
    with _locked(path):
        cache, problem = _read(
            path, source, size
        )  # another process may have built it while we waited
        if cache is not None:
            return cache
        if problem:
            print(f"cache {path} cannot be used ({problem}): building it again", file=sys.stderr)
        for leftover in folder.glob(
            f".{path.name}.*.part"
        ):  # of a killed build: a live one holds the lock
            leftover.unlink()
        _write(path, _collect(source) if native is None else _resized(native, size))
        cache, problem = _read(path, source, size)
    if cache is None:
        raise InputError(
            f"cache {path} reads back wrong just after writing ({problem}): check the disk"
        )
    return cache


def _read(path: Path, source: Source, size: int | None) -> tuple[Cache | None, str | None]:
    """(cache, None), (None, what is wrong with the file), or (None, None) when there is no file."""
    if not path.is_file():
        return None, None
    try:
        # files are only ever replaced whole: HDF5's own locks, which some network disks lack, are not needed
        with h5py.File(path, "r", locking=False) as file:
            about, arrays = dict(file.attrs), {}
            wanted = {"format": FORMAT, "source_sha256": source.sha256.encode(), "size": size or 0}
            for key, want in wanted.items():
                if about.get(key) != want:
                    return None, f"{key} is {about.get(key)}, expected {want}"
            for key, dataset in file.items():
                arrays[key] = dataset[...]
                if _checksum(arrays[key]) != dataset.attrs["checksum"]:
                    return None, f"checksum of {key} differs"
        shapes = arrays["shapes"]
        layer_shapes = np.column_stack((np.full(len(shapes), 8), shapes[:, 1]))
        cache = Cache(
            kind=about["kind"].decode(),
            description=source.description,  # whoever built the file may have had the same scans elsewhere
            source_sha256=source.sha256,
            size=size,
            scale_um=tuple(about["scale_um"].tolist()) if "scale_um" in about else None,
            names=[name.decode() for name in arrays["names"]],
            notes=[note.decode() for note in arrays["notes"]],
            subjects=arrays["subjects"],
            positions=arrays["positions"],
            images=_unpack(arrays["images"], shapes),
            fluid=_unpack(arrays["fluid"], shapes[:, :2]) if "fluid" in arrays else None,
            layers=_unpack(arrays["layers"], layer_shapes) if "layers" in arrays else None,
        )
        return cache, None
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as e:  # h5py on bad bytes
        return None, " ".join(str(e).split()).strip("\"'")


def _unpack(flat: np.ndarray, shapes: np.ndarray) -> np.ndarray | list[np.ndarray]:
    if (shapes == shapes[0]).all():
        return flat.reshape(len(shapes), *shapes[0])
    parts = np.split(flat, np.cumsum(shapes.prod(axis=1))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _checksum(array: np.ndarray) -> int:
    """crc32 of the sums of the 64-bit words in every 4 KiB, then of the rest.

    Sees any change within one word, swapped or lost pages, and all but 2^-32 of random damage. A crc32 or
    sha256 of all bytes takes 4 or 13 times as long: longer than reading them.
    """
    content = array.reshape(-1).view(np.uint8)
    whole = content.size // 4096 * 4096
    sums = content[:whole].view("<u8").reshape(-1, 512).sum(axis=1, dtype=np.uint64)
    return zlib.crc32(content[whole:], zlib.crc32(sums))


def _write(path: Path, cache: Cache) -> None:
    arrays = {
        key: np.array([text.encode() for text in getattr(cache, key)], "S")
        for key in ("names", "notes")
    }
    arrays |= {"subjects": cache.subjects, "positions": cache.positions}
    arrays["shapes"] = np.array([image.shape for image in cache.images], np.int64)
    for key in ("images", "fluid", "layers"):
        if getattr(cache, key) is not None:
            arrays[key] = np.concatenate([part.ravel() for part in getattr(cache, key)])
    creator = f"dme cache {FORMAT}, h5py {h5py.__version__}, Pillow {PIL.__version__}"
    try:
        with (
            atomic_path(path) as part,
            h5py.File(part, "w", libver=("v110", "v110"), locking=False) as file,
        ):
            file.attrs["format"], file.attrs["size"] = FORMAT, cache.size or 0
            for key in ("kind", "description", "source_sha256"):
                file.attrs[key] = np.bytes_(getattr(cache, key).encode())
            file.attrs["created_by"] = np.bytes_(creator)
            if cache.scale_um is not None:
                file.attrs["scale_um"] = cache.scale_um
            for key, array in arrays.items():
                file.create_dataset(key, data=array).attrs["checksum"] = _checksum(array)
    except OSError as e:
        raise _unwritable(path, e) from e
    except RuntimeError as e:  # HDF5 cannot close what it could not write
        raise _unwritable(path, e.__context__ or e) from e


def _collect(source: Source) -> Cache:
    scans = [
        _checked(s)
        for s in tqdm(source.scans(), desc=f"caching {source.description}", unit="scan")
    ]
    if not scans:
        raise InputError(f"no B-scans in {source.description}, expected at least one")
    if len({scan.image.ndim for scan in scans}) > 1:
        raise InputError(f"{source.description} mixes grey and colour images, expected one kind")
    notes = list(source.notes)
    unlabelled = [scan for scan in scans if scan.fluid is None]
    if 0 < len(unlabelled) < len(scans):
        found = f"{len(unlabelled)} of {len(scans)} scans have no fluid labels ({unlabelled[0].name}, ...)"
        raise InputError(f"{found}: expected all or none of them labelled")
    ungraded = [scan for scan in scans if scan.layers is None]
    if 0 < len(ungraded) < len(scans):
        notes.append(
            f"{len(ungraded)} of {len(scans)} scans have no layers: taken as ungraded (NaN)"
        )
        for scan in ungraded:
            scan.layers = np.full((8, scan.image.shape[1]), np.nan, np.float32)
    scales = {scan.scale_um for scan in scans}
    if len(scales) > 1:
        notes.append(f"scans have {len(scales)} different pixel scales: taken as unknown")
    return Cache(
        kind=source.kind,
        description=source.description,
        source_sha256=source.sha256,
        size=None,
        scale_um=scales.pop() if len(scales) == 1 else None,
        names=[scan.name for scan in scans],
        notes=notes,
        subjects=np.array([scan.subject for scan in scans], np.int64),
        positions=np.array([scan.position for scan in scans], np.int64),
        images=[scan.image for scan in scans],
        fluid=None if unlabelled else [scan.fluid for scan in scans],
        layers=None
        if scans[0].layers is None
        else [scan.layers.astype(np.float32) for scan in scans],
    )


def _checked(scan: BScan) -> BScan:
    """The same scan, or InputError saying which scan is wrong and how."""
    image, fluid, layers = scan.image, scan.fluid, scan.layers
    found = expected = None
    if (
        image.dtype != np.uint8
        or image.ndim < 2
        or image.shape[2:] not in ((), (3,))
        or image.size == 0
    ):
        found, expected = f"image is {image.dtype} {image.shape}", "uint8 (H, W) or (H, W, 3)"
    elif fluid is not None and (fluid.dtype != np.uint8 or fluid.shape != image.shape[:2]):
        found, expected = f"fluid is {fluid.dtype} {fluid.shape}", f"uint8 {image.shape[:2]}"
    elif fluid is not None and (wrong := (fluid > 1) & (fluid != IGNORE)).any():
        found, expected = (
            f"fluid holds {np.unique(fluid[wrong]).tolist()}",
            "only 0, 1 and 255 (unknown)",
        )
    elif layers is not None and (layers.dtype.kind != "f" or layers.shape != (8, image.shape[1])):
        found, expected = (
            f"layers are {layers.dtype} {layers.shape}",
            f"float (8, {image.shape[1]})",
        )
    if found:
        raise InputError(f"scan {scan.name}: {found}, expected {expected}")
    return scan


def _resized(native: Cache, size: int) -> Cache:
    def resize(array: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((size, size), how))

    images = np.empty((len(native), size, size, *native.images[0].shape[2:]), np.uint8)
    fluid = None if native.fluid is None else np.empty(images.shape[:3], np.uint8)
    for i in tqdm(range(len(native)), desc=f"resizing to {size} x {size}", unit="scan"):
        images[i] = resize(native.images[i], Image.Resampling.BICUBIC)
        if fluid is not None:
            labels = native.fluid[i]
            fluid[i] = resize((labels == 1).astype(np.uint8), Image.Resampling.BICUBIC)
            unknown = resize((labels == IGNORE).astype(np.uint8), Image.Resampling.NEAREST)
            fluid[i][unknown == 1] = IGNORE
    scale_um, notes = native.scale_um, native.notes
    if scale_um is not None and isinstance(native.images, list):
        scale_um, notes = (
            None,
            [*notes, f"scans of several shapes resized to {size} x {size}: scale unknown"],
        )
    elif scale_um is not None:
        (axial, lateral, spacing), (height, width) = scale_um, native.images.shape[1:3]
        scale_um = (axial * height / size, lateral * width / size, spacing)
    return replace(
        native, size=size, scale_um=scale_um, images=images, fluid=fluid, layers=None, notes=notes
    )


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


def _unwritable(path: Path, e: BaseException) -> InputError:
    reason = os.strerror(e.errno) if getattr(e, "errno", None) else e
    return InputError(
        f"cannot write {path}: {reason}; free the disk or set DME_CACHE to a folder you can write to"
    )
