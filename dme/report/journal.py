"""What each predicted scan left, a line per scan: after a kill a prediction goes on from there."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dme.common.files import sha256_file

NAME = ".progress-{}.jsonl"  # of a rank
# of a row: files, from the folder on
FILE_KEYS = ("mask", "boundaries", "profile", "overlay", "image", "values", "thumbnail")


@dataclass
class Left:
    """What remains of a scan: a row of numbers, and of a volume's maps a line (W,) each."""

    row: dict
    lines: dict[str, np.ndarray] = field(default_factory=dict)

    def files(self) -> list[str]:
        return [self.row[key] for key in FILE_KEYS if self.row.get(key)]


class Journal:
    """The lines that all ranks wrote into a folder so far, and this rank's, to which it adds."""

    def __init__(self, out: Path, rank: int) -> None:
        self.out = out
        self.earlier = {}
        for entry in entries(out):
            self.earlier[entry["row"]["scan"]] = entry
        self.files: dict[str, str] = {}  # name from the folder on -> sha256
        self.file = open(out / NAME.format(rank), "a", encoding="utf-8")
        self.file.write("\n")  # ends a line that a kill cut short

    def take(self, start: dict, pixels: Sequence[np.ndarray]) -> Left | None:
        """What an earlier run left of a scan, if it was the same and all its files are there.

        start: what is known of its row before the prediction. pixels: the image, and what graders
        marked in it.
        """
        entry = self.earlier.get(start["scan"])
        if entry is None or entry["image"] != sha256_of(pixels):
            return None
        row = entry["row"]
        if any(row.get(key) != value for key, value in as_written(start).items()):
            return None
        for name, sha256 in entry["files"].items():
            if not is_unchanged(self.out / name, {sha256}):
                return None
        self.files |= entry["files"]
        lines = {}
        for name, (kind, values) in entry["lines"].items():
            lines[name] = np.array(values, kind)
        return Left(row, lines)

    def add(self, left: Left, pixels: Sequence[np.ndarray]) -> Left:
        """Write down what a scan left, and give it back as it will be read again."""
        files = {name: sha256_file(self.out / name) for name in left.files()}
        lines = {name: (str(line.dtype), line.tolist()) for name, line in left.lines.items()}
        row = as_written(left.row)
        entry = {"image": sha256_of(pixels), "row": row, "files": files, "lines": lines}
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        self.files |= files
        return Left(row, left.lines)

    def close(self) -> None:
        self.file.close()


def entries(out: Path) -> Iterator[dict]:
    """The lines in a folder; what is cut short or damaged is left out."""
    for path in sorted(out.glob(NAME.format("*"))):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                entry["row"]["scan"], entry["image"], entry["lines"].items()
                entry["files"].items()
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            yield entry


def remove(out: Path) -> None:
    """Remove the lines, when all is in the results."""
    for path in out.glob(NAME.format("*")):
        path.unlink()


def as_written(row: dict) -> dict:
    """A row as it will be read again: NumPy's numbers and tuples in JSON's types."""
    return json.loads(json.dumps(row, default=_plain))


def _plain(value: Any) -> Any:
    return value.tolist()


def sha256_of(arrays: Sequence[np.ndarray]) -> str:
    """Of the values and the shapes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def is_unchanged(file: Path, sha256: set[str]) -> bool:
    """Whether a plain file is there with one of these checksums."""
    return file.is_file() and not file.is_symlink() and sha256_file(file) in sha256
