"""Fetches named checkpoints."""

import functools
import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from dme.common.errors import InputError
from dme.common.files import sha256_file
from dme.common.locks import locked
from dme.nets.checkpoint import save_model
from dme.nets.loading import convert_openmmlab
from dme.nets.zoo import known, path_of

MOST_DIGITS = 16  # of a length in bytes


def download(name: str, folder: str | Path | None = None) -> Path:
    """Fetch a named checkpoint, verify and convert it; returns the file for `load_model`.

    folder: None for where `path_of` says. A broken download stays as `.part` and is resumed by the
    next call; it is verified when whole, and deleted if its sha256 is wrong. A file already there
    is left as it is. Of several processes one fetches, the others wait for it. Raises InputError
    when the network, the server or the file fails.
    """
    target = path_of(name)
    entry = known()[name]
    if "file" in entry:
        return target
    target = Path(folder or target.parent) / target.name
    if target.is_file():
        return target

    lock = target.with_name(f".{target.name}.lock")
    with locked(lock, purpose=f"it downloads {name}"):
        if not target.is_file():  # nor has another process fetched it meanwhile
            _fetch_and_convert(name, entry, target)
    return target


def _fetch_and_convert(name: str, entry: dict, target: Path) -> None:
    """Download the file of an entry, verify it, and put it at `target` as one of ours."""
    # the file, as it is on the server
    url = entry["url"]
    expected = entry["sha256"]
    part = target.with_name(url.rsplit("/", 1)[-1] + ".part")
    failure = _fetch(url, part, name)
    if failure:
        resumes = f" (it resumes {part})" if part.exists() else ""
        raise InputError(
            f"cannot download {url}: {failure}; run it again{resumes}, "
            f"or fetch it yourself and run ./run.sh weights --convert FILE --out {target}"
        )
    digest = sha256_file(part)
    if not digest.startswith(expected):
        part.unlink()
        raise InputError(
            f"{url} gave sha256 {digest[:8]}, expected {expected}; deleted, run it again"
        )

    # converted, it takes its place
    model = convert_openmmlab(part)
    source = {key: entry[key] for key in ("url", "licence", "trained_on", "reported")}
    save_model(model, target, extra=source | {"source_sha256": digest})
    part.unlink()


def _fetch(url: str, part: Path, label: str) -> str | None:
    """Append to `part` what it lacks of `url`; returns what went wrong."""
    offset = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "dme"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            if answer.status != 206:  # the whole file, whether asked for the rest or not
                offset = 0
            length = answer.headers["Content-Length"] or ""
            total = int(length) + offset if _is_number(length) else 0
            _append(answer, part, offset, total, label)
    except urllib.error.HTTPError as e:
        nothing_left = e.code == 416 and offset
        return None if nothing_left else f"the server answered {e.code} {e.reason}"
    except urllib.error.URLError as e:
        return str(e.reason)
    except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as e:
        return str(e) or type(e).__name__
    size = part.stat().st_size
    if size < total:
        return f"the connection broke off at {size} of {total} bytes"
    return None


def _is_number(text: str) -> bool:
    """Whether a header's value is a length; a broken one tells nothing, the sha256 does."""
    return text.isascii() and text.isdigit() and len(text) < MOST_DIGITS


def _append(
    answer: http.client.HTTPResponse, part: Path, offset: int, total: int, label: str
) -> None:
    """Write an answer from byte `offset` of `part` on, with a bar up to `total`, 0 if unknown."""
    bytes_bar = functools.partial(tqdm, unit="B", unit_scale=True, desc=label)
    with open(part, "ab" if offset else "wb") as f:
        with bytes_bar(total=total or None, initial=offset) as bar:
            while block := answer.read(1 << 16):
                f.write(block)
                bar.update(len(block))
