"""What ends a script: one line and its exit code, also while it is still imported."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.scripts import EXPERIMENTS, ROOT

from dme.common.errors import InputError, run


def ended(main, capsys) -> tuple[int, str]:
    """Exit code, and what stands on stderr."""
    with pytest.raises(SystemExit) as left:
        run(main)
    return left.value.code, capsys.readouterr().err


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


def disk_error(number: int, name: str | None = "x.png") -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("`lr_min` is 2"), "error: --lr-min is 2"),
        (disk_error(errno.ENOSPC), "error: cannot write x.png: No space left on device"),
        (disk_error(errno.ENOSPC, None), "error: cannot write a file: No space left"),
        (disk_error(errno.EFBIG), "error: cannot write x.png: File too large"),
        (disk_error(errno.EACCES), "error: no permission for x.png"),
        (disk_error(errno.ENAMETOOLONG), "error: cannot use x.png: File name too long"),
        (disk_error(errno.ELOOP), "error: cannot use x.png: Too many levels of symbolic links"),
        (disk_error(errno.ENOENT), "error: cannot use x.png: No such file or directory"),
        (disk_error(errno.ENOTDIR), "error: cannot write x.png: Not a directory"),
        (disk_error(errno.EIO, None), "error: cannot read or write a file: Input/output error"),
        (MemoryError(), "error: not enough memory (a MemoryError); give smaller sizes"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
            "error: not enough memory (DefaultCPUAllocator",
        ),
    ],
)
def test_one_line_and_2(capsys, error, line):
    code, text = ended(raising(error), capsys)
    assert code == 2
    assert text.startswith(line)
    assert text.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("a bug"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a bug"):
        run(raising(error))


def test_ctrl_c_that_an_import_turned_into_another_error(capsys):
    def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as e:
            raise ImportError("numpy failed to import") from e

    before = signal.getsignal(signal.SIGINT)
    code, text = ended(main, capsys)
    assert code == 130
    assert text == "interrupted; nothing half-written was left behind\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_in_a_thread_is_left_to_main(capsys):
    def main() -> None:
        thread = threading.Thread(target=raising(disk_error(errno.ENOSPC)))
        thread.start()
        thread.join()
        raise disk_error(errno.ENOSPC)

    code, text = ended(main, capsys)
    assert code == 2
    assert text.count("\n") == 1


def test_a_name_that_the_terminal_cannot_show(tmp_path):
    code = "from dme.common.errors import run; run(lambda: print('\\xb5\\udce4'))"
    settings = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "\\xb5\\udce4\n"), done.stderr


DIRECTLY = [EXPERIMENTS / "predict.py", "phantom"]


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (DIRECTLY, "dme.nets"),
        (DIRECTLY, "torch"),
        (DIRECTLY, "numpy"),
        (DIRECTLY, "dme.report.batch"),
        ([EXPERIMENTS, EXPERIMENTS / "studies" / "crossval.py"], "numpy"),
        ([EXPERIMENTS, EXPERIMENTS / "reproduce.py"], "studies.parts"),
        ([EXPERIMENTS, EXPERIMENTS / "table2.py"], "dme.training.series"),
    ],
)
def test_ctrl_c_while_it_is_imported(tmp_path, words, module):
    """The signal comes when a command imports that module: at its first line or within it.

    ./run.sh runs scripts by the folder experiments.
    """
    interrupting = f"""if True:
        import signal, sys

        class Finder:
            def find_spec(name, path=None, target=None):
                if name == {module!r}:
                    signal.raise_signal(signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, Finder)
    """
    (tmp_path / "sitecustomize.py").write_text(interrupting)
    settings = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, *words, "--out", tmp_path / "out"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted; nothing half-written was left behind\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1, 1.5, 2])
def test_ctrl_c_in_the_first_seconds(tmp_path, seconds):
    process = subprocess.Popen(
        [sys.executable, EXPERIMENTS / "predict.py", "phantom", "--out", tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in text
    assert text.splitlines()[-1] == "interrupted; nothing half-written was left behind"
