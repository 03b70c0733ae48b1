"""Where B-scans come from, and what the readers of files share.

`Source.scans` reads, checks and cleans the pixels, one file in memory at a time; every detection
or cleaning step leaves a line in `Source.notes`.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import sha256_file

SUBJECTS_UNKNOWN = "subjects unknown"  # what notes say of scans whose eyes nobody named


@dataclass
class Source:
    """Where B-scans come from. `notes` is complete once `scans` has run to its end."""

    kind: str  # "mat", "folder", one of SYNTHETIC_KINDS, or what another opener calls itself
    path: str  # "" for the phantom
    sha256: str  # of file names, bytes and grader
    description: str  # the line that every script prints first
    reader: Callable[["Source", bool], Iterator[BScan]] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def scans(self, labelled_only: bool = True) -> Iterator[BScan]:
        """Yield the records ordered by (subject, position). Raises InputError for what is wrong
        with a file.

        `labelled_only=False` also yields the B-scans of `.mat` volumes that nobody annotated
        (fluid None).
        """
        return self.reader(self, labelled_only)

    def note(self, text: str) -> None:
        """Add a line to the notes, once however often the scans are read."""
        if text not in self.notes:
            self.notes.append(text)


def subjects_known(notes: Iterable[str]) -> bool:
    """Whether these notes of a source say which scans are of one eye."""
    return not any(SUBJECTS_UNKNOWN in note for note in notes)


def files_in(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by stem, in natural order, without hidden ones (._x of macOS)."""
    files = []
    for file in sorted(folder.iterdir(), key=natural):
        of_this_kind = file.suffix.lower() in suffixes
        if file.name[0] != "." and of_this_kind and file.is_file():
            files.append(file)
    return by_stem(files)


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """Files of one folder by stem. Raises InputError for two that have the same."""
    named: dict[str, Path] = {}
    for file in files:
        if file.stem in named:
            earlier = named[file.stem]
            raise InputError(f"{earlier} and {file.name} have the same name: keep one")
        named[file.stem] = file
    return named


def readable(text: str | Path) -> str:
    """A name of a file as text that can be printed: other bytes than UTF-8 become \\xNN."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def natural(path: Path) -> list[str | int]:
    """Sort key of file names: 2 before 10."""
    parts = re.split(r"(\d+)", path.name)  # text and digits in turn
    parts[1::2] = map(int, parts[1::2])
    return parts


def fingerprint(root: Path, files: list[Path], settings: str) -> str:
    """sha256 of the files' names below `root` and their bytes, and of the settings they are read
    with.
    """
    by_name = {file.relative_to(root).as_posix(): file for file in files}
    digest = hashlib.sha256(settings.encode())
    try:
        for name in sorted(by_name):
            line = f"{name}\0{sha256_file(by_name[name])}\n"
            digest.update(os.fsencode(line))
    except OSError as e:
        raise InputError(f"cannot read {e.filename}: {e.strerror}") from e
    return digest.hexdigest()


def listing(items: Sequence) -> str:
    """The first twelve items, and how many there are."""
    text = ", ".join(map(str, items[:12]))
    if len(items) > 12:
        text += f", ... ({len(items)} in all)"
    return text
