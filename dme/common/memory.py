"""How this process asks the system for memory."""

import ctypes
import sys

KEEP = 1 << 30  # bytes
OLD_GLIBC_KEEPS = 1 << 25  # bytes

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB of freed memory for the next allocation.

    By default glibc returns the large tensors of a layer to the system and asks for those of the
    next anew, which are then cleared page by page: on a CPU a fifth of the time of a prediction.
    Threads that are started later share the main one's store; their own would keep nothing.
    Returns whether it could be set; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # before 2.35, glibc takes no more than 32 MiB for the size above which memory is mapped
    mapped = mallopt(M_MMAP_THRESHOLD, KEEP) or mallopt(M_MMAP_THRESHOLD, OLD_GLIBC_KEEPS)
    shared = mallopt(M_ARENA_MAX, 1)
    return bool(mapped and shared and mallopt(M_TRIM_THRESHOLD, KEEP))
