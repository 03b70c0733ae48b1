"""Where B-scans come from, and what the readers of files share.

`Source.scans` reads, checks and cleans the pixels, one file in memory at a time; every detection or cleaning
step leaves a line in `Source.notes`.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dme.bscan import BScan
from dme.common.errors import InputError
from dme.common.files import sha256_file

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


@dataclass
class Source:
    """Where B-scans come from. `notes` is complete once `scans` has run to its end."""

    kind: str  # "mat" | "folder" | "phantom", or what another opener calls itself
    path: str  # "" for the phantom
    sha256: str  # of file names, bytes and grader
    description: str  # the line that every script prints first
    reader: Callable[["Source", bool], Iterator[BScan]] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    def scans(self, labelled_only: bool = True) -> Iterator[BScan]:
        """Yield the records ordered by (subject, position). Raises InputError for what is wrong with a file.

        `labelled_only=False` also yields the B-scans of `.mat` volumes that nobody annotated (fluid None).
        """
        return self.reader(self, labelled_only)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def files_in(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by stem, in natural order (2 before 10), without hidden ones (._x of macOS)."""
    found = [
        f
        for f in folder.iterdir()
        if f.suffix.lower() in suffixes and f.is_file() and f.name[0] != "."
    ]
    found.sort(
        key=lambda f: [int(t) if k % 2 else t for k, t in enumerate(re.split(r"(\d+)", f.name))]
    )
    by_stem = {f.stem: f for f in found}
    for f in found:
        if by_stem[f.stem] != f:
            raise InputError(f"{f} and {by_stem[f.stem].name} have the same name: keep one")
    return by_stem


def fingerprint(root: Path, files: list[Path], settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    try:
        for name, file in sorted((f.relative_to(root).as_posix(), f) for f in files):
            digest.update(f"{name}\0{sha256_file(file)}\n".encode())
    except OSError as e:
        raise InputError(f"cannot read {e.filename}: {e.strerror}") from e
    return digest.hexdigest()


def listing(items: list) -> str:
    more = f", ... ({len(items)} in all)" if len(items) > 12 else ""
    return ", ".join(map(str, items[:12])) + more
