"""One clear line for whatever a user can get wrong."""

import errno
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from importlib import import_module

from dme.common.memory import keep_freed_memory
from dme.common.words import COMMAND_NAMES

# of a disk that takes no more, or cannot be written at all
FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# how PyTorch says that memory is short, which it does not by a MemoryError
NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.I)
COMMAND = re.compile(rf"\./run\.sh (?=(?:{'|'.join(COMMAND_NAMES)})\b)")
INTERRUPTED = "interrupted; nothing half-written was left behind"


class InputError(Exception):
    """Bad input: the message says what was found, what was expected and what to do about it.

    It names arguments in backticks; a script shows them as its flags.
    """


def with_flags(message: str) -> str:
    """The message with arguments as flags: `out` becomes --out."""
    return re.sub(r"`([a-z][a-z_]*)`", lambda name: "--" + name[1].replace("_", "-"), message)


def by_door(text: str) -> str:
    """The text with its commands as they are called here: ./run.sh NAME, or `dme NAME`."""
    installed = sys.argv[0].startswith("dme ")  # so set by dme/__main__.py
    return COMMAND.sub("dme ", text) if installed else text


def run_module(name: str) -> None:
    """Import a module and run its `main`, as `run` does: Ctrl-C may come while it is imported."""
    run(lambda: import_module(name).main())


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave the process.

    Exit code 0 (or what `main` returns) on success, 2 after an `InputError`, a failing disk, a
    path that cannot be used or too little memory (one line on stderr, no traceback), 130 after
    Ctrl-C. Any other exception is a bug of ours and keeps its traceback.
    """
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="PIL")  # of damaged files, which get one line of ours
    _print_any_name()
    threading.excepthook = _of_thread
    interrupt = _Interrupt()
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader of our output, `head` say, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except SystemExit:
        raise
    except BaseException as e:
        # what is just imported may make another error of Ctrl-C
        if isinstance(e, KeyboardInterrupt) or interrupt.came:
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(130)
        message = _in_words(e)
        if message is None:
            raise
        in_one_line = " ".join(message.splitlines())  # also with odd names in it
        print(f"error: {in_one_line}", file=sys.stderr)
    finally:
        interrupt.restore()
    sys.exit(2)


class _Interrupt:
    """Remembers that Ctrl-C came, whatever exception is left of it."""

    def __init__(self) -> None:
        self.came = False
        self.before = None
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.before = signal.signal(signal.SIGINT, self._remember)

    def _remember(self, number: int, frame: object) -> None:
        self.came = True
        raise KeyboardInterrupt

    def restore(self) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


def _print_any_name() -> None:
    """Names that the terminal's encoding lacks are shown with escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _of_thread(failure: threading.ExceptHookArgs) -> None:
    """A disk that fails a thread, such as TensorBoard's, fails `main` too, which says so."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _in_words(error: BaseException) -> str | None:
    """What to tell a user of an error that is not a bug of ours; None for another."""
    if isinstance(error, InputError):
        return by_door(with_flags(str(error)))
    if isinstance(error, OSError):
        return _of_disk(error)
    by_torch = isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))
    if by_torch or isinstance(error, MemoryError):
        reason = " ".join(str(error).split())[:200] or "a MemoryError"
        return f"not enough memory ({reason}); give smaller sizes, or use a larger machine"
    return None


def _of_disk(error: OSError) -> str | None:
    """What to tell a user of a failing disk or path; None of anything else."""
    place = error.filename or "a file"
    if isinstance(place, bytes):
        place = os.fsdecode(place)
    if isinstance(error, PermissionError):
        return f"no permission for {place} ({error.strerror}); change it or choose another path"
    no_place = isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError))
    if no_place or error.errno in FULL:
        return f"cannot write {place}: {error.strerror}; free the disk or choose another --out"
    if isinstance(place, str) and error.filename and error.strerror:
        return f"cannot use {place}: {error.strerror}; check the path or choose another"
    if error.errno == errno.EIO:
        return f"cannot read or write a file: {error.strerror}; check the disk"
    return None
