"""Freed memory that stays with the process."""

import subprocess
import sys

import pytest

import dme.common.memory

SCRIPT = """
import ctypes, resource, runpy, sys, threading
kept = runpy.run_path(sys.argv[1])["keep_freed_memory"]() if sys.argv[2] == "keep" else None
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def layers():
    # glibc never keeps so large ones of its own accord
    blocks = [libc.malloc(40 << 20) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, 40 << 20)
    for block in blocks:
        libc.free(block)
def work():
    global count
    layers()
    before = faults()
    for _ in range(3):
        layers()
    count = faults() - before
if sys.argv[3] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
print(kept, count)
"""


def faults(how: str, where: str) -> tuple[str, int]:
    """What the function returned, and the pages the system had to bring in anew."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, dme.common.memory.__file__, how, where],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has glibc")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_is_used_again(where):
    kept, count = faults("keep", where)
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert count < faults("default", where)[1] / 10


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert dme.common.memory.keep_freed_memory() is False
