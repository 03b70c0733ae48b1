"""The HDF5 file of a cached set: its layout, its checksums, written and read.

Attributes: format, kind, description, source_sha256, size (0: native), scale_um (when known),
created_by, hash (a key of HASHES), checksum (of the other attributes and of the datasets'
checksums). Datasets:

    names, notes         fixed-length UTF-8 strings
    subjects, positions  int64 (N,)
    shapes               int64 (N, 2) or (N, 3): height, width and, of colour images, channels
    images, fluid        uint8, all scans' pixels row by row, scan after scan (fluid: if annotated)
    layers               float32, all scans' (8, W) boundary rows (native size only)

Each dataset carries a checksum; whoever rewrites it with the content is still not believed:
shapes, types, labels and numbers are checked too. Scans are people's: only their owner may read
the file. Raw pixels open fastest of what was measured: gzip and lzf take
five to thirty times as long to read. HDF5 checks its own headers from file format 1.10 on, but not
variable-length strings, and a damaged one can hang it: hence the fixed length.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import PIL

from dme.common.errors import InputError
from dme.common.files import atomic_path
from dme.data.scan_set import Cache
from dme.data.source import Source

try:
    import xxhash
except ImportError:  # an environment older than this requirement: slower, as safe
    xxhash = None

FORMAT = 3  # raise it when this layout changes, or how a source is read or pixels are resized
# Of the 42 MB of 110 scans: xxh3 1.2 ms, crc32 10, adler32 19, sha256 39, blake2b 63; reading 12
HASHES = {"crc32": zlib.crc32}
if xxhash:
    HASHES["xxh3"] = xxhash.xxh3_64_intdigest
HASH = "xxh3" if xxhash else "crc32"  # of the files written here
# of every dataset that may be there
DTYPES = {
    "names": "S",
    "notes": "S",
    "subjects": "<i8",
    "positions": "<i8",
    "shapes": "<i8",
    "images": "|u1",
    "fluid": "|u1",
    "layers": "<f4",
}
MAY_LACK = ("fluid", "layers")
ATTRIBUTES = (
    "format",
    "size",
    "kind",
    "description",
    "source_sha256",
    "created_by",
    "hash",
    "scale_um",
)
CHUNK = 1 << 20  # bytes that stay in a processor's cache
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
        attributes = {key: file.attrs[key] for key in ATTRIBUTES if key in file.attrs}
        for key, value in expected.items():
            if attributes.get(key) != value:
                raise InputError(f"{key} is {attributes.get(key)}, expected {value}")
        digest = _hash_of(attributes)
        missing = DTYPES.keys() - file.keys() - set(MAY_LACK)
        if missing:
            raise InputError(f"it lacks {', '.join(sorted(missing))}")

        # every dataset against its checksum, those and the attributes against the file's
        checksums = {}
        for key in file:
            _check_dataset(file, key, path)
            arrays[key] = file[key][...]
            checksums[key] = checksum(arrays[key], digest)
            if checksums[key] != file[key].attrs["checksum"]:
                raise InputError(f"checksum of {key} differs")
        if checksum_of_all(attributes, checksums, digest) != file.attrs["checksum"]:
            raise InputError("checksum of the attributes differs")
    _check_content(attributes, arrays, size)
    return attributes, arrays


def _hash_of(attributes: dict) -> Callable:
    name = attributes["hash"].decode()
    if name not in HASHES:
        raise InputError(f"its hash {name} is none of {', '.join(HASHES)}; pip install xxhash")
    return HASHES[name]


def _check_dataset(file: h5py.File, key: str, path: Path) -> None:
    """Raises InputError unless it is plain data of this file, of its type, that the file holds."""
    if key not in DTYPES:
        raise InputError(f"unknown dataset {key}")
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise InputError(f"{key} is a link")
    dataset = file[key]
    plain = dataset.chunks is None and not dataset.is_virtual and dataset.external is None
    if not plain or dataset.nbytes > path.stat().st_size:
        raise InputError(f"{key} does not lie in the file as it was written")
    expected = DTYPES[key]
    if dataset.dtype.str != expected and dataset.dtype.kind != expected:
        raise InputError(f"{key} is {dataset.dtype}, expected {np.dtype(expected)}")


def _check_content(attributes: dict, arrays: dict[str, np.ndarray], size: int | None) -> None:
    """Raises InputError for datasets that are no set of scans, whatever their checksums say."""
    shapes = arrays["shapes"]
    count = len(shapes)
    if shapes.ndim != 2 or shapes.shape[1] not in (2, 3) or count == 0 or (shapes < 1).any():
        raise InputError(f"shapes are {shapes.shape}, expected (N, 2) or (N, 3) above 0")
    if size is not None and (shapes[:, :2] != size).any():
        raise InputError(f"shapes are not {size} x {size}")
    if shapes.shape[1] == 3 and (shapes[:, 2] != 3).any():
        raise InputError("images of other than 3 channels")

    # as many of everything as there are scans and pixels, which Python counts without overflow
    pixels = 0
    columns = 0
    for height, width, *_ in shapes.tolist():
        pixels += height * width
        columns += width
    expected = {
        "names": count,
        "subjects": count,
        "positions": count,
        "images": pixels * (3 if shapes.shape[1] == 3 else 1),
        "fluid": pixels,
        "layers": 8 * columns,
    }
    for key, length in expected.items():
        if key in arrays and arrays[key].shape != (length,):
            raise InputError(f"{key} are {arrays[key].shape}, expected ({length},)")
    if size is not None and "layers" in arrays:
        raise InputError("layers of a resized set")

    if "fluid" in arrays and not _only_labels(arrays["fluid"]):
        raise InputError("fluid holds other than 0, 1 and 255 (unknown)")
    scale_um = np.asarray(attributes.get("scale_um", (1.0, 1.0, 1.0)))
    known = scale_um.shape in ((2,), (3,))  # the spacing is known, or not
    if not known or not (np.isfinite(scale_um) & (scale_um > 0)).all():
        raise InputError(f"scale_um is {scale_um}, expected two or three lengths")


def _only_labels(fluid: np.ndarray) -> bool:
    """Whether a flat array holds 0, 1 and 255 alone, which are 1, 2 and 0 when 1 is added."""
    added = np.empty(CHUNK, np.uint8)
    for start in range(0, fluid.size, CHUNK):
        part = fluid[start : start + CHUNK]
        if np.add(part, 1, out=added[: part.size]).max() > 2:
            return False
    return True


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
        names=[name.decode(errors="surrogateescape") for name in arrays["names"]],
        notes=[note.decode(errors="surrogateescape") for note in arrays["notes"]],
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


def checksum(array: np.ndarray, digest: Callable | None = None) -> int:
    """Hash of an array's bytes: any change, swap or loss shows. digest: that of HASH if None."""
    digest = digest or HASHES[HASH]
    return digest(array.reshape(-1).view(np.uint8))


def checksum_of_all(
    attributes: dict, checksums: dict[str, int], digest: Callable | None = None
) -> int:
    """Hash of a file's attributes and of its datasets' names and checksums."""
    values = [(key, np.asarray(attributes[key]).tolist()) for key in sorted(attributes)]
    digest = digest or HASHES[HASH]
    return digest(repr((values, sorted(checksums.items()))).encode())


def write_cache(path: Path, cache: Cache) -> None:
    """Write the file whole or not at all. Raises InputError for a failing disk."""
    arrays = _pack_cache(cache)
    creator = f"dme cache {FORMAT}, h5py {h5py.__version__}, Pillow {PIL.__version__}"
    options = dict(libver=("v110", "v110"), locking=False)
    attributes = {
        "format": FORMAT,
        "size": cache.size or 0,
        "kind": np.bytes_(cache.kind.encode()),
        "description": np.bytes_(_encoded(cache.description)),
        "source_sha256": np.bytes_(cache.source_sha256.encode()),
        "created_by": np.bytes_(creator),
        "hash": np.bytes_(HASH),
    }
    if cache.scale_um is not None:
        attributes["scale_um"] = np.array(cache.scale_um, np.float64)
    checksums = {key: checksum(array) for key, array in arrays.items()}
    try:
        with atomic_path(path) as part:
            part.touch(mode=0o600)  # before a scan is in it
            with h5py.File(part, "w", **options) as file:
                for key, value in attributes.items():
                    file.attrs[key] = value
                file.attrs["checksum"] = np.uint64(checksum_of_all(attributes, checksums))
                for key, array in arrays.items():
                    dataset = file.create_dataset(key, data=array)
                    dataset.attrs["checksum"] = np.uint64(checksums[key])
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
    encoded = [_encoded(text) for text in texts]
    return np.array(encoded, "S")


def _encoded(text: str) -> bytes:
    """UTF-8; names of files that are none stay as they are."""
    return text.encode(errors="surrogateescape")


def unwritable(path: Path, e: BaseException) -> InputError:
    """The error of a disk that fails or is full, in one line."""
    number = getattr(e, "errno", None)
    reason = os.strerror(number) if number else e
    remedy = "free the disk or set DME_CACHE to a folder you can write to"
    return InputError(f"cannot write {path}: {reason}; {remedy}")
