"""Where a prediction writes: a new folder, one where it was killed, or over results of ours."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dme.common.errors import InputError
from dme.common.files import sealed, sha256_file, write_json
from dme.common.folders import owned, read_record
from dme.report.journal import entries, is_unchanged

RESULTS = "measurements.json"  # what tells such a folder from others
STAGING = ".new"  # in a folder whose results are replaced when the new ones are whole
MOST_NAMED = 3  # files in a message


@dataclass(frozen=True)
class OutputFolder:
    """out: the folder to write into. final: where its content is in the end, mostly the same."""

    out: Path
    final: Path


@contextlib.contextmanager
def folder_for(out: Path, fingerprint: str, overwrite: bool) -> Iterator[OutputFolder]:
    """Hold the folder of a prediction; says which one, unless it is just `out`.

    It is `out` if that is new, empty, or holds the beginning of the same prediction: with the same
    fingerprint, and no file changed since. Otherwise it is out-2, out-3 and so on. overwrite:
    replace what an earlier prediction left in `out`. Raises InputError if that cannot be: other
    files, changed ones, another run at work.
    """
    if overwrite and not _is_free(out, fingerprint):
        with owned(out):
            _require_replaceable(out)
            yield OutputFolder(_staging(out, fingerprint), out)
        return
    with contextlib.ExitStack() as stack:
        yield _first_free(out, fingerprint, stack)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[OutputFolder]:
    """Hold a folder that is new or empty: `out`, or out-2, out-3 and so on, which is said."""
    with contextlib.ExitStack() as stack:
        yield _first_free(out, None, stack)


def _first_free(out: Path, fingerprint: str | None, stack: contextlib.ExitStack) -> OutputFolder:
    for candidate in _numbered(out):
        if not _is_free(candidate, fingerprint):
            continue
        attempt = contextlib.ExitStack()
        try:
            attempt.enter_context(owned(candidate))
        except InputError:  # another run is at work
            continue
        if not _is_free(candidate, fingerprint):  # nor was it in the meantime
            attempt.close()
            continue
        stack.push(attempt)
        if candidate != out:
            print(f"{out} holds other results or files: writing into {candidate}")
        done = sum(1 for _ in entries(candidate))
        if done:
            print(f"going on in {candidate}, where {done} scans are done")
        return OutputFolder(candidate, candidate)
    raise InputError(f"{out}: all numbered folders beside it are in use; choose another `out`")


def _numbered(out: Path) -> Iterator[Path]:
    """out, out-2, out-3 and so on."""
    yield out
    path = out if out.name not in ("", "..") else Path(os.path.abspath(out))
    if path.name:
        for number in range(2, 10_000):
            yield path.with_name(f"{path.name}-{number}")


def _is_free(out: Path, fingerprint: str | None) -> bool:
    """Whether a folder is new or empty, or holds the beginning of the same prediction.

    fingerprint: that of the prediction, None for what is none and goes on nowhere.
    """
    if not os.path.lexists(out):
        return True
    names = [name for name in os.listdir(out) if name[0] != "."]
    if not names:
        return True
    record = read_record(out / RESULTS)
    if fingerprint is None or record is None or record.get("finished"):
        return False
    if record.get("fingerprint") != fingerprint:
        return False
    # what was corrected by hand stays as it is; what is gone is predicted again
    for entry in entries(out):
        for name, sha256 in entry["files"].items():
            file = out / name
            if os.path.lexists(file) and not is_unchanged(file, {sha256}):
                return False
    return not any((out / name).is_symlink() for name in names)


def recorded(out: Path) -> dict[str, set[str]]:
    """The files that predictions left in a folder: name -> sha256 of what was written."""
    record = read_record(out / RESULTS) or {}
    files: dict[str, set[str]] = {}
    written = [entry["files"] for entry in entries(out)]
    for part in chain([record.get("files") or {}, record.get("incoming") or {}], written):
        for name, sha256 in part.items():
            files.setdefault(name, set()).add(sha256)
    return files


def _require_replaceable(out: Path) -> None:
    """Raise InputError unless a folder holds results of ours that nobody changed."""
    files = recorded(out)
    if read_record(out / RESULTS) is None:
        raise InputError(
            f"{out} holds no results of dme, and `overwrite` replaces nothing else: "
            "choose another `out`"
        )
    if not files:
        raise InputError(
            f"{out} holds results without checksums, of an earlier version, whose files may have "
            "been changed: choose another `out`"
        )
    changed = []
    for name, sha256 in files.items():
        if os.path.lexists(out / name) and not is_unchanged(out / name, sha256):
            changed.append(name)
    if changed:
        raise _in_the_way(out, changed, "was changed since it was written")


def _in_the_way(out: Path, names: Sequence[str], reason: str) -> InputError:
    shown = ", ".join(sorted(names)[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        shown += f" and {len(names) - MOST_NAMED} more"
    return InputError(f"{out}: {shown} {reason}: move it away, or choose another `out`")


def _staging(out: Path, fingerprint: str) -> Path:
    """The folder within `out` for the new results; what another prediction left there goes."""
    staging = out / STAGING
    record = read_record(staging / RESULTS)
    same = record is not None and record.get("fingerprint") == fingerprint
    if record is not None and (record.get("finished") or not same):
        shutil.rmtree(staging)
    staging.mkdir(exist_ok=True)
    return staging


def put_in_place(folder: OutputFolder) -> None:
    """Move whole results to where they belong; of those that were there, what is left over goes.

    Nothing that is not on record is touched, also after a kill half-way. Raises InputError, before
    anything is moved, where a file of somebody else would have to be replaced.
    """
    out = folder.final
    new = read_record(folder.out / RESULTS)
    files = recorded(out)
    foreign = []
    for name, sha256 in new["files"].items():
        known = files.get(name, set()) | {sha256}
        if os.path.lexists(out / name) and not is_unchanged(out / name, known):
            foreign.append(name)
    if foreign:
        raise _in_the_way(out, foreign, "is not what dme wrote there")

    # until all is moved, the folder says so, and knows the checksums of both
    before = {name: sha256_file(out / name) for name in files if (out / name).is_file()}
    state = {key: value for key, value in new.items() if key != "fingerprint"}
    state |= {"finished": False, "files": before, "incoming": new["files"]}
    write_json(out / RESULTS, sealed(state))
    for name in new["files"]:
        (out / name).parent.mkdir(exist_ok=True)
        os.replace(folder.out / name, out / name)
    for name in files.keys() - new["files"].keys():
        if is_unchanged(out / name, files[name]):
            (out / name).unlink()
            with contextlib.suppress(OSError):  # there is more in it
                (out / name).parent.rmdir()
    os.replace(folder.out / RESULTS, out / RESULTS)
    shutil.rmtree(folder.out)


def fingerprint_of(inputs: Sequence[str], kind: dict, record: dict) -> str:
    """Of what decides about the results but for the scans' pixels, which are looked at one by one.

    kind: what is asked for, beside the settings in the record.
    """
    paths = [os.path.abspath(text) for text in inputs]
    program = [record[key] for key in ("settings", "commit", "versions", "device")]
    text = json.dumps([paths, kind, program], sort_keys=True)
    return hashlib.sha256(os.fsencode(text)).hexdigest()
