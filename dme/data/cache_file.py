"""The HDF5 file of a cached set: its layout, its checksums, written and read.

Attributes: format, kind, description, source_sha256, size (0: native), scale_um (when known),
created_by. Datasets:

    names, notes         fixed-length UTF-8 strings
    subjects, positions  int64 (N,)
    shapes               int64 (N, 2) or (N, 3): height, width and, of colour images, channels
    images, fluid        uint8, all scans' pixels row by row, scan after scan (fluid: if annotated)
    layers               float32, all scans' (8, W) boundary rows (native size only)

Each dataset carries a checksum. Raw pixels open fastest of what was measured: gzip and lzf take
five to thirty times as long to read. HDF5 checks its own headers from file format 1.10 on, but not
variable-length strings, and a damaged one can hang it: hence the fixed length.
"""

import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import PIL

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.data.scan_set import Cache
from dme.data.source import Source

FORMAT = 2  # raise it when this layout changes, or how a source is read or pixels are resized
PAGE = 4096  # bytes
WORD = 8  # bytes
HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)


def read_cache(path: Path, source: Source, size: int | None) -> tuple[Cache | None, str | None]:
    """(cache, None), (None, what is wrong with the file), or (None, None) without a file."""
    if not path.is_file():
        return None, None
    try:
        attributes, arrays = _load(path, source, size)
        return _unpack_cache(attributes, arrays, source, size), None
    except InputError as e:
        return None, str(e)
    except HDF5_ERRORS as e:  # what h5py raises on bad bytes
        one_line = " ".join(str(e).split())
        return None, one_line.strip("\"'")


def _load(path: Path, source: Source, size: int | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Attributes and datasets of a file, or InputError unless it is what it should be."""
    expected = {
        "format": FORMAT,
        "source_sha256": source.sha256.encode(),
        "size": size or 0,
    }
    arrays = {}
    # files are only ever replaced whole: HDF5's own locks, which some network disks lack, are not
    # needed
    with h5py.File(path, "r", locking=False) as file:
        attributes = dict(file.attrs)
        for key, value in expected.items():
            if attributes.get(key) != value:
                raise InputError(f"{key} is {attributes.get(key)}, expected {value}")
        for key, dataset in file.items():
            arrays[key] = dataset[...]
            if checksum(arrays[key]) != dataset.attrs["checksum"]:
                raise InputError(f"checksum of {key} differs")
    return attributes, arrays


def _unpack_cache(
    attributes: dict, arrays: dict[str, np.ndarray], source: Source, size: int | None
) -> Cache:
    shapes = arrays["shapes"]
    layer_shapes = shapes[:, :2].copy()
    layer_shapes[:, 0] = 8
    scale_um = attributes.get("scale_um")
    return Cache(
        kind=attributes["kind"].decode(),
        description=source.description,  # whoever built the file may have had the scans elsewhere
        source_sha256=source.sha256,
        size=size,
        scale_um=None if scale_um is None else tuple(scale_um.tolist()),
        names=[name.decode() for name in arrays["names"]],
        notes=[note.decode() for note in arrays["notes"]],
        subjects=arrays["subjects"],
        positions=arrays["positions"],
        images=_unpack(arrays["images"], shapes),
        fluid=_unpack(arrays.get("fluid"), shapes[:, :2]),
        layers=_unpack(arrays.get("layers"), layer_shapes),
    )


def _unpack(flat: np.ndarray | None, shapes: np.ndarray) -> np.ndarray | list[np.ndarray] | None:
    """One array when all shapes are the same, else a list."""
    if flat is None:
        return None
    if (shapes == shapes[0]).all():
        return flat.reshape(len(shapes), *shapes[0])
    ends = np.cumsum(shapes.prod(axis=1))
    parts = np.split(flat, ends[:-1])
    return [np.reshape(*pair) for pair in zip(parts, shapes, strict=True)]


def checksum(array: np.ndarray) -> int:
    """crc32 of the sums of the 64-bit words in every page of 4 KiB, then of the rest.

    Sees any change within one word, swapped or lost pages, and all but 2^-32 of random damage.
    A crc32 or sha256 of all bytes takes 4 or 13 times as long: longer than reading them.
    """
    content = array.reshape(-1).view(np.uint8)
    whole = content.size // PAGE * PAGE
    words = content[:whole].view("<u8")
    pages = words.reshape(-1, PAGE // WORD)
    sums = pages.sum(axis=1, dtype=np.uint64)
    return zlib.crc32(content[whole:], zlib.crc32(sums))


def write_cache(path: Path, cache: Cache) -> None:
    """Write the file whole or not at all. Raises InputError for a failing disk."""
    arrays = _pack_cache(cache)
    creator = f"dme cache {FORMAT}, h5py {h5py.__version__}, Pillow {PIL.__version__}"
    options = dict(libver=("v110", "v110"), locking=False)
    try:
        with atomic_path(path) as part, h5py.File(part, "w", **options) as file:
            file.attrs["format"] = FORMAT
            file.attrs["size"] = cache.size or 0
            file.attrs["kind"] = np.bytes_(cache.kind.encode())
            file.attrs["description"] = np.bytes_(cache.description.encode())
            file.attrs["source_sha256"] = np.bytes_(cache.source_sha256.encode())
            file.attrs["created_by"] = np.bytes_(creator)
            if cache.scale_um is not None:
                file.attrs["scale_um"] = cache.scale_um
            for key, array in arrays.items():
                dataset = file.create_dataset(key, data=array)
                dataset.attrs["checksum"] = checksum(array)
    except OSError as e:
        raise unwritable(path, e) from e
    except RuntimeError as e:  # HDF5 cannot close what it could not write
        raise unwritable(path, e.__context__ or e) from e


def _pack_cache(cache: Cache) -> dict[str, np.ndarray]:
    """The datasets of a set."""
    shapes = [image.shape for image in cache.images]
    arrays = {
        "names": _packed_texts(cache.names),
        "notes": _packed_texts(cache.notes),
        "subjects": cache.subjects,
        "positions": cache.positions,
        "shapes": np.array(shapes, np.int64),
    }
    for key in ("images", "fluid", "layers"):
        scans = getattr(cache, key)
        if scans is not None:
            flat = [scan.ravel() for scan in scans]
            arrays[key] = np.concatenate(flat)
    return arrays


def _packed_texts(texts: list[str]) -> np.ndarray:
    encoded = [text.encode() for text in texts]
    return np.array(encoded, "S")


def unwritable(path: Path, e: BaseException) -> InputError:
    """The error of a disk that fails or is full, in one line."""
    number = getattr(e, "errno", None)
    reason = os.strerror(number) if number else e
    remedy = "free the disk or set DME_CACHE to a folder you can write to"
    return InputError(f"cannot write {path}: {reason}; {remedy}")
