"""Files are either whole or absent."""

import contextlib
import hashlib
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dme.common.errors import InputError

if TYPE_CHECKING:  # scripts write files and answer --help without waiting for torch
    import torch

SEAL = "crc32"  # key of a checksum
LONGEST_STEM = 200  # bytes of a temporary name that repeat the file's; systems allow 255 in all
# what is never replaced by a file, in words
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: $DME_CACHE, else ~/.cache/dme."""
    return user_path(os.environ.get("DME_CACHE") or "~/.cache/dme")


def user_path(path: str | Path) -> Path:
    """The path, ~ and ~NAME as the home of a user. Raises InputError for a user who has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise InputError(f"{path}: nobody here has that home folder; give the whole path") from e


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, delete it on any failure.

    The rename is atomic, so readers see the old file or the whole new one, also after a kill or a
    full disk. Raises InputError where something else than a plain file would be replaced.
    """
    path = Path(path)
    refuse_special(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = os.fsencode(path.name)[:LONGEST_STEM].decode("utf-8", "ignore")
    temporary = path.with_name(f".{stem}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as f:  # Windows flushes only what may be written
            os.fsync(f.fileno())
        refuse_special(path)  # which may have come since
        os.replace(temporary, path)
    except RuntimeError as e:  # torch.save hides a failed write behind the closing of its archive
        if isinstance(e.__context__, OSError):
            raise e.__context__ from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def refuse_special(path: Path) -> None:
    """Raise InputError unless a file can be put there: nothing is there yet, or a plain file.

    A device, a pipe or a link would be gone, and what it stands for would not get the content.
    """
    if not path.name:
        raise InputError(f"'{path}' names no file; give the name of a file to write")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    kind = next((word for is_kind, word in KINDS if is_kind(mode)), "no plain file")
    raise InputError(f"{path} is {kind}, which is never replaced; give another name")


def leads_nowhere(path: Path) -> bool:
    """Whether it is a symbolic link to what is not there."""
    return path.is_symlink() and not path.exists()


def refuse_lost_link(path: Path) -> None:
    """Raise InputError for a symbolic link to what is not there, which would pass for nothing."""
    if leads_nowhere(path):
        raise InputError(f"{path}: link leads nowhere: mend it, or take it away")


def refuse_lost_links(folder: Path) -> None:
    """The same of all that lies in a folder, but for hidden files."""
    for path in sorted(folder.iterdir()):
        if path.name[0] != ".":
            refuse_lost_link(path)


def refuse_existing(path: Path, mark: bytes | None = None) -> None:
    """Raise InputError for a file that is there already, unless it holds the mark of ours."""
    if not path.is_file() or mark is not None and mark in path.read_bytes():
        return
    refuse_special(path)
    raise InputError(f"{path} is there already: move it away, or choose another `out`")


def is_plain_name(name: str) -> bool:
    """Whether a name leads to a file in a folder, and nowhere else."""
    return bool(name) and name not in (".", "..") and not set(name) & {"/", os.sep, "\0"}


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_zip(path: str | Path) -> bool:
    """Whether torch reads a file as a zip archive; the older kind has no checksums."""
    with open(path, "rb") as f:
        return f.read(4) == b"PK\x03\x04"


def load_archive(path: str | Path, device: "str | torch.device" = "cpu") -> Any:
    """The content of a torch file, of which nothing is run. Whatever is wrong with it raises."""
    import torch

    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not look at the checksums
            if damaged:
                raise ValueError(f"checksum of {damaged} differs")
    return torch.load(path, map_location=device, weights_only=True)


def write_json(path: str | Path, content: dict) -> None:
    """Write JSON atomically, one key of `content` a line; arrays become lists, NaN null."""
    lines = []
    for key, value in plain(content).items():
        lines.append(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}")
    with atomic_path(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def sealed(content: dict) -> dict:
    """Content for a JSON file, with a checksum as its last key."""
    content = plain({key: value for key, value in content.items() if key != SEAL})
    return content | {SEAL: _crc32(content)}


def unsealed(content: Any) -> dict:
    """What was sealed, or was written before there were seals.

    Raises ValueError for anything that is no dictionary, or not as it was sealed.
    """
    if not isinstance(content, dict):
        raise ValueError(f"found a {type(content).__name__}, expected a dictionary")
    rest = {key: value for key, value in content.items() if key != SEAL}
    if SEAL in content and content[SEAL] != _crc32(rest):
        raise ValueError("its checksum differs")
    return rest


def _crc32(content: dict) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def plain(value: Any) -> Any:
    """The same content in JSON's own types."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # arrays, tensors, and NumPy's numbers
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
