"""The server of `annotate`: the page and its files out, corrections in, for this machine only.

It listens on 127.0.0.1 and answers only who knows the token in the address. A page of another
site that reaches it (by a form, a script, or a name that resolves to 127.0.0.1) is refused by its
Origin, its Sec-Fetch-Site and its Host. Scans are named by numbers; nothing in a request becomes
the path of a file that is written.
"""

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from dme.annotation.exchange import Refused, most_bytes, packed, unpacked
from dme.common.errors import InputError
from dme.data.corrections import Annotation, Corrections, Place, change

HOST = "127.0.0.1"
SECONDS = 30  # for a request to arrive
KINDS = {  # of files that are given out
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}
JSON = "application/json"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    # the page has a stricter one of its own
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'",
}


@dataclass(frozen=True)
class Drawable:
    """A scan to draw on. original: what the network found there, or nothing."""

    place: Place
    shape: tuple[int, int]  # height, width
    image: Callable[[], np.ndarray]  # uint8 (H, W)
    original: Callable[[], Annotation]


class Server(ThreadingHTTPServer):
    """Gives out files of `folders`, the first that has one, and takes corrections of `scans`."""

    daemon_threads = True

    def __init__(
        self,
        scans: Sequence[Drawable],
        corrections: Corrections,
        folders: Sequence[Path],
        port: int = 0,
    ) -> None:
        try:
            super().__init__((HOST, port), Handler)
        except OSError as e:
            raise InputError(f"port {port}: {e.strerror}; choose another `port`, or 0") from e
        self.scans = scans
        self.corrections = corrections
        self.folders = [folder.resolve() for folder in folders]
        self.token = secrets.token_urlsafe(24)
        self.saving = threading.Lock()
        self.revisions = [0] * len(scans)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def current(self, index: int) -> Annotation:
        """What was saved of a scan, else what the network found."""
        scan = self.scans[index]
        return self.corrections.read(scan.place.name, scan.shape) or scan.original()

    def save(self, index: int, annotation: Annotation, revision: int) -> dict:
        """Save if nobody else did meanwhile. Raises Conflict."""
        scan = self.scans[index]
        # one at a time, so that the revision that was looked at is the one that is replaced
        with self.saving:
            if revision != self.revisions[index]:
                raise Conflict(self.revisions[index])
            before = self.current(index)
            self.corrections.save(scan.place, scan.image(), annotation, before)
            self.revisions[index] += 1
        changed = change(scan.original(), annotation)
        return {"revision": self.revisions[index], **vars(changed)}

    def states(self) -> list[dict]:
        """Of every scan: whether it was saved, and whether it is done."""
        states = []
        for scan in self.scans:
            name = scan.place.name
            saved = name in self.corrections.names
            states.append({"name": name, "saved": saved, "done": self.corrections.is_done(name)})
        return states


class Conflict(Exception):
    """The scan was saved by another window; the argument is its revision now."""


class Answer(Exception):
    """Ends a request with a status and a line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = SECONDS
    server_version = "dme"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def _answer(self, method: Callable[[str], tuple[str, bytes]]) -> None:
        """Send what a method gives for the path behind the token, or why it gives nothing."""
        try:
            kind, content = method(self._admitted())
            self._send(200, kind, content)
        except Answer as e:
            self._send_json(e.status, {"error": str(e)})
        except Refused as e:
            self._send_json(400, {"error": str(e)})
        except Conflict as e:
            reason = "another window saved this scan meanwhile"
            self._send_json(409, {"error": reason, "revision": e.args[0]})
        except InputError as e:
            self._send_json(500, {"error": str(e)})
        except OSError as e:  # a full disk, or a browser that went away
            self._send_json(507, {"error": f"not saved: {e.strerror or e}"})

    def _admitted(self) -> str:
        """The path behind the token of a request that may pass. Raises Answer."""
        # the name that was asked for: one that another site's owner made point here is refused
        own = {f"{HOST}:{self.server.server_port}", f"localhost:{self.server.server_port}"}
        if self.headers.get("Host") not in own:
            raise Answer(421, "this server answers to 127.0.0.1 only")
        # who asks: a browser says so, of scripts and forms of other sites too
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in own}:
            raise Answer(403, "refused: the request comes from another site")
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Answer(403, "refused: the request comes from another site")
        # who knows the token
        path = unquote(urlsplit(self.path).path)
        token, slash, rest = path.removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if not known or not slash:
            raise Answer(403, "refused: the address lacks the token that annotate printed")
        return rest

    def _get(self, path: str) -> tuple[str, bytes]:
        if path == "edits":
            return JSON, _json(self.server.states())
        if path.startswith("edits/"):
            index = self._index(path)
            with self.server.saving:
                current = self.server.current(index)
                return JSON, _json(packed(current, self.server.revisions[index]))
        return self._file(path or "report.html")

    def _file(self, name: str) -> tuple[str, bytes]:
        kind = KINDS.get(Path(name).suffix)
        if kind is not None and "\0" not in name:
            for folder in self.server.folders:
                file = (folder / name).resolve()  # without .. and links
                if file.is_relative_to(folder) and file.is_file():
                    return kind, file.read_bytes()
        raise Answer(404, "there is no such file")

    def _put(self, path: str) -> tuple[str, bytes]:
        index = self._index(path)
        if self.headers.get_content_type() != JSON:
            raise Answer(415, f"expected {JSON}")
        body = self._body(most_bytes(self.server.scans[index].shape))
        annotation, revision = unpacked(body, self.server.scans[index].shape)
        self._check_drawn(annotation, index)
        return JSON, _json(self.server.save(index, annotation, revision))

    def _index(self, path: str) -> int:
        number = path.removeprefix("edits/")
        known = number.isascii() and number.isdigit() and len(number) < 10
        if not path.startswith("edits/") or not known or int(number) >= len(self.server.scans):
            raise Answer(404, "there is no such scan")
        return int(number)

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            raise Answer(411, "expected a Content-Length")
        if len(length) > 12 or int(length) > most:
            raise Answer(413, f"expected at most {most} bytes for this scan")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise Answer(400, "the body ended early")
        return body

    def _check_drawn(self, annotation: Annotation, index: int) -> None:
        """Refuse a save that lacks what the network found."""
        original = self.server.scans[index].original()
        lacks_fluid = original.fluid is not None and annotation.fluid is None
        lacks_rows = original.boundaries is not None and annotation.boundaries is None
        if lacks_fluid or lacks_rows:
            raise Answer(400, "the mask or the boundaries are missing")

    def _send_json(self, status: int, content: dict) -> None:
        self._send(status, JSON, _json(content))

    def _send(self, status: int, kind: str, content: bytes) -> None:
        """Every connection ends with its answer: of a refused one the body was not read."""
        self.close_connection = True
        try:
            self.send_response(status)
            headers = HEADERS | {"Content-Type": kind, "Content-Length": str(len(content))}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # the browser went away
            return

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the token would stand in every line."""


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()
