"""The lock: one holder at a time, gone with its holder, with fcntl, msvcrt or neither."""

import errno
import fcntl
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from helpers.scripts import ROOT

from dme.common import locks
from dme.common.locks import InUse, locked


def as_windows(monkeypatch) -> None:
    """fcntl is away; msvcrt is there, and stands on it."""

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == ("at once", 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise PermissionError(errno.EACCES, "Permission denied") from e

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="at once"))


@pytest.fixture(params=["fcntl", "msvcrt"])
def system(request, monkeypatch):
    if request.param == "msvcrt":
        as_windows(monkeypatch)


def test_a_second_holder_is_refused_or_waits(tmp_path, system, capsys):
    path = tmp_path / "folder" / ".lock"
    order = []

    def second() -> None:
        with locked(path, purpose="it tests"):
            order.append("second")

    with locked(path):
        with pytest.raises(InUse), locked(path, wait=False):
            pass
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert capsys.readouterr().err == "waiting for another process: it tests\n"
    assert not path.exists()


def test_many_never_hold_it_together(tmp_path, system):
    path = tmp_path / ".lock"
    inside = []
    most = []

    def work() -> None:
        for _ in range(20):
            with locked(path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_a_killed_holder_leaves_it_free(tmp_path):
    code = f"""if True:
        import os, signal
        from pathlib import Path
        from dme.common.locks import locked
        with locked(Path({str(tmp_path / ".lock")!r})):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60)
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path / ".lock", wait=False):
        pass


def test_a_disk_without_locks_is_written_without(tmp_path, monkeypatch):
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / ".lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_nothing_needs_fcntl(tmp_path):
    """As on Windows: what predict, finetune and prepare import comes without it."""
    code = """if True:
        import sys
        sys.modules["fcntl"] = None
        import dme.data.cache, dme.nets.download, dme.report.batch, dme.training.fine_tuning
        from dme.common import locks
        assert locks.fcntl is None and locks.msvcrt is None
        from pathlib import Path
        with locks.locked(Path(sys.argv[1], "lock")):
            print("unlocked")
    """
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "unlocked\n"
