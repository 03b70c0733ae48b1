"""A run's folder: one run at a time writes into it, and replaces nothing but files of ours."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dme.common.errors import InputError
from dme.common.locks import InUse, locked

LOCK = ".dme.lock"  # in the folder, as long as a run writes into it
OF_A_RECORD = ("command", "commit", "versions")  # keys of whatever `provenance` is part of


@contextlib.contextmanager
def owned(out: Path) -> Iterator[None]:
    """Hold a folder; it is made if need be, and removed again where nothing was left in it.

    Raises InputError while another run writes into it.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, out)
        try:
            stack.enter_context(locked(out / LOCK, wait=False))
        except InUse as e:
            raise InputError(
                f"another run writes into {out}: wait for it, or choose another `out`"
            ) from e
        yield


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # there is something in it, or it was never made
        folder.rmdir()


def read_record(path: Path) -> dict | None:
    """The content of a JSON file that this program left; None for none, and for another's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if isinstance(content, dict) and all(key in content for key in OF_A_RECORD):
        return content
    return None


def refuse_foreign(out: Path, record: str, names: Sequence[str] = ()) -> None:
    """Raise InputError if a folder holds one of the files without being ours.

    record: name of the JSON file that tells our folders from others; it counts as one of them.
    """
    if read_record(out / record) is not None:
        return
    foreign = [name for name in (record, *names) if os.path.lexists(out / name)]
    if foreign:
        raise InputError(
            f"{out} holds {', '.join(foreign)}, which no run of dme left there: "
            "choose a new folder with `out`"
        )
