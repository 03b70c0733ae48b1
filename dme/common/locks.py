"""One process at a time: a lock that the system takes back however its holder ends."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# each system has one of the two
fcntl: ModuleType | None
msvcrt: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:
    msvcrt = None

PAUSE = 0.05  # seconds between two looks at a lock that another process holds
HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # by another process
# of a network disk that knows no locks; writing stays atomic there
UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


class InUse(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, wait: bool = True, purpose: str = "") -> Iterator[None]:
    """Hold the lock of that file, which is made and, in the end, removed.

    wait: until another holder is done; stderr says so, and what it does, its `purpose`. Raises
    InUse otherwise, OSError where no file can be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path)
    if descriptor is None and not wait:
        raise InUse(path)
    if descriptor is None and purpose:
        print(f"waiting for another process: {purpose}", file=sys.stderr, flush=True)
    while descriptor is None:
        time.sleep(PAUSE)
        descriptor = _acquire(path)
    try:
        yield
    finally:
        _release(path, descriptor)


def _acquire(path: Path) -> int | None:
    """The open, locked file; None while another process holds it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        # Windows says so of a file that its holder is just removing
        if msvcrt is None or not path.exists():
            raise
        return None
    try:
        _lock(descriptor)
    except OSError as e:
        if e.errno not in UNKNOWN:
            os.close(descriptor)
            if e.errno in HELD:
                return None
            raise

    # the holder before us may have removed the file that we waited for
    try:
        current = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        current = False
    if current:
        return descriptor
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> None:
    """Raises OSError where another process holds it. On neither system: none is known."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


def _release(path: Path, descriptor: int) -> None:
    """Remove the file; where open files cannot be removed, after closing."""
    if fcntl is not None:
        path.unlink(missing_ok=True)
    os.close(descriptor)
    if fcntl is None:
        with contextlib.suppress(OSError):  # another process has it already
            path.unlink(missing_ok=True)
