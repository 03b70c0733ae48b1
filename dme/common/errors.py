"""One clear line for whatever a user can get wrong."""

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable

from dme.common.memory import keep_freed_memory


class InputError(Exception):
    """Bad input: the message says what was found, what was expected and what to do about it.

    It names arguments in backticks; a script shows them as its flags.
    """


def with_flags(message: str) -> str:
    """The message with arguments as flags: `out` becomes --out."""
    return re.sub(r"`([a-z][a-z_]*)`", lambda name: "--" + name[1].replace("_", "-"), message)


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave the process.

    Exit code 0 (or what `main` returns) on success, 2 after an `InputError` or a failing disk (one
    line on stderr, no traceback), 130 after Ctrl-C. Any other exception is a bug of ours and keeps
    its traceback.
    """
    keep_freed_memory()
    warnings.filterwarnings("ignore", module="PIL")  # of damaged files, which get one line of ours
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader of our output, `head` say, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except InputError as e:
        print(f"error: {with_flags(str(e))}", file=sys.stderr)
    except OSError as e:
        message = _of_disk(e)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left behind", file=sys.stderr)
        sys.exit(130)
    sys.exit(2)


def _of_disk(error: OSError) -> str | None:
    """What to tell a user of an error that is not a bug of ours; None for another."""
    place = error.filename or "a file"
    if isinstance(error, PermissionError):
        return f"no permission for {place} ({error.strerror}); change it or choose another path"
    no_place = isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError))
    if no_place or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return f"cannot write {place}: {error.strerror}; free the disk or choose another --out"
    return None
