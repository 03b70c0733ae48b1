"""HDF5 cache of a source's B-scans: built once, verified at every opening, held in memory.

One file per source and size, `<kind>-<12 hex digits of the source's sha256>-<size or native>.h5`;
its layout is described in dme/data/cache_file.py.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from dme.common.errors import InputError
from dme.common.files import cache_folder, user_path
from dme.common.locks import locked
from dme.common.words import LARGEST_SIDE
from dme.data.cache_file import read_cache, unwritable, write_cache
from dme.data.scan_set import Cache, collect, resized
from dme.data.source import Source

NAME = re.compile(r"[a-z]+-[0-9a-f]{12}-(native|\d+)\.h5")


def open_cache(source: Source, size: int | None = None, folder: Path | None = None) -> Cache:
    """Return the verified cache of `source`; it is built when missing, outdated or damaged.

    size: None for native pixels; else every scan becomes size x size as in the study: Pillow's
    BICUBIC on the 8-bit image and on the 0/1 fluid mask, nearest for the unknown region. A resized
    set has no layers.
    folder: where cache files live, by default the environment variable DME_CACHE, else
    ~/.cache/dme.

    Any number of processes may ask at once: one builds, the others wait for it. A cache that
    cannot be used is reported on stderr with the reason. Raises InputError for bad labels, an
    empty source, a failing disk.
    """
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise InputError(
            f"size {size}: expected 1 to {LARGEST_SIDE} pixels, or none for the native size"
        )
    folder = user_path(folder) if folder else cache_folder()
    path = folder / f"{source.kind}-{source.sha256[:12]}-{size or 'native'}.h5"
    cache, _ = read_cache(path, source, size)
    if cache is not None:
        return cache

    native = None if size is None else open_cache(source, None, folder)
    with _locked(path):
        # another process may have built it while we waited
        cache, problem = read_cache(path, source, size)
        if cache is not None:
            return cache
        if problem:
            print(f"cache {path} cannot be used ({problem}): building it again", file=sys.stderr)
        _remove_leftovers(path)
        built = collect(source) if native is None else resized(native, size)
        write_cache(path, built)
        cache, problem = read_cache(path, source, size)
    if cache is None:
        raise InputError(
            f"cache {path} reads back wrong just after writing ({problem}): check the disk"
        )
    return cache


def cached_files(folder: Path) -> list[Path]:
    """The cache files in a folder; whatever else lies there is not ours."""
    files = []
    for path in sorted(folder.glob("*.h5")):
        if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            files.append(path)
    return files


def remove(path: Path) -> bool:
    """Remove a cache file, and what a killed build left of it, once nobody builds it."""
    with _locked(path):
        _remove_leftovers(path)
        path.unlink(missing_ok=True)
    return True


def _remove_leftovers(path: Path) -> None:
    """Of a killed build: a live one holds the lock."""
    for leftover in path.parent.glob(f".{path.name}.*.part"):
        leftover.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one cache file."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)  # one that is there keeps its mode
            lock = path.with_name(f".{path.name}.lock")
            stack.enter_context(locked(lock, purpose=f"it builds {path}"))
        except OSError as e:
            raise unwritable(path, e) from e
        yield
