"""A server of `annotate` over made-up scans, and requests to it."""

import base64
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dme.annotation.exchange import runs_of
from dme.annotation.server import Drawable, Server
from dme.data.corrections import Annotation, Corrections, Place

SHAPE = (20, 30)


def drawable(number: int) -> Drawable:
    """A scan with 12 px of fluid and even boundaries."""
    image = np.random.default_rng(number).integers(0, 90, SHAPE).astype(np.uint8)
    fluid = np.zeros(SHAPE, np.uint8)
    fluid[4:7, 10:14] = 1
    rows = np.tile(np.arange(2.0, 18, 2)[:, None], (1, SHAPE[1])).astype(np.float32)
    place = Place(f"eye_bscan{number:03d}", "eye", number, (4.0, 10.0, 120.0))
    return Drawable(place, SHAPE, image.copy, lambda: Annotation(fluid.copy(), rows.copy()))


def content(fluid: np.ndarray, revision: int = 0, **other) -> dict:
    """What the page sends of a scan with that mask and the boundaries of `drawable`."""
    rows = drawable(0).original().boundaries
    boundaries = base64.b64encode(rows.astype("<f4").tobytes()).decode()
    return {
        "revision": revision,
        "fluid": runs_of(fluid),
        "boundaries": boundaries,
        "ungraded": [],
        "done": False,
    } | other


@contextmanager
def serving(root: Path, scans: int = 2) -> Iterator[Server]:
    """A server that saves into root/edited and gives out files of root/page."""
    page = root / "page"
    page.mkdir(exist_ok=True)
    (page / "report.html").write_text("<title>page</title>")
    corrections = Corrections(root / "edited")
    server = Server([drawable(i) for i in range(scans)], corrections, [page])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def request(
    port: int, method: str, path: str, body: bytes | str | None = None, **headers: str | None
) -> tuple[int, bytes]:
    """Status and body of an answer; headers with _ for -, None leaves one out."""
    usual = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json"}
    sent = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    data = body.encode() if isinstance(body, str) else body
    if data is not None and "Content-Length" not in sent:
        sent["Content-Length"] = str(len(data))
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    try:
        if data:
            connection.send(data)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def put(server: Server, index: int, sent: dict, **headers: str | None) -> tuple[int, dict]:
    """Save a scan; the status and what the answer says."""
    path = f"/{server.token}/edits/{index}"
    status, answer = request(server.server_port, "PUT", path, json.dumps(sent), **headers)
    return status, json.loads(answer)


if __name__ == "__main__":  # of the test that kills it: serves root until then
    with serving(Path(sys.argv[1])) as server:
        print(server.server_port, server.token, flush=True)
        threading.Event().wait()
