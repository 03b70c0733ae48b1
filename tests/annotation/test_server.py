"""The server of `annotate`: what it saves, whom it refuses, and what a kill leaves."""

import base64
import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import helpers.annotating
import numpy as np
import pytest
from helpers.annotating import SHAPE, content, drawable, put, request, serving
from helpers.scan_files import files
from PIL import Image

from dme.annotation.exchange import mask_of, most_bytes
from dme.data.corrections import Corrections, append_line, remove_parts
from dme.data.opening import open_source


def mask(rows: slice, columns: slice) -> np.ndarray:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[rows, columns] = 1
    return drawn


MORE = mask(slice(4, 8), slice(10, 15))  # 20 px, the 12 of the network among them
NONE = mask(slice(0, 0), slice(0, 0))


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as server:
        yield server


def stored(tmp_path, index=0) -> np.ndarray:
    return np.asarray(Image.open(tmp_path / "edited" / "fluid" / f"eye_bscan{index:03d}.png"))


# ---- what is saved ------------------------------------------------------------------------------
def test_a_scan_begins_with_what_the_network_found(server):
    status, answer = request(server.server_port, "GET", f"/{server.token}/edits/1")
    assert status == 200
    scan = json.loads(answer)
    np.testing.assert_array_equal(mask_of(scan["fluid"], SHAPE), drawable(1).original().fluid)
    assert scan["revision"] == 0 and not scan["done"]


def test_a_save_is_on_the_disk_and_in_the_audit(server, tmp_path):
    status, answer = put(server, 0, content(MORE, ungraded=[[0, 3]]))
    assert status == 200
    expected = {"revision": 1, "added_px": 8, "removed_px": 0, "boundary_shift_px": 0.0}
    assert answer == expected
    np.testing.assert_array_equal(stored(tmp_path), MORE * 255)

    # a second save counts from the first
    assert put(server, 0, content(NONE, revision=1))[0] == 200
    with open(tmp_path / "edited" / "audit.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["added_px"], first["removed_px"], first["ungraded"]) == ("8", "0", "0-3")
    assert (second["added_px"], second["removed_px"]) == ("0", "20")
    assert {first["scan"], second["scan"]} == {"eye_bscan000"}


def test_the_second_window_is_told(server, tmp_path):
    assert put(server, 0, content(MORE))[0] == 200
    status, answer = put(server, 0, content(NONE))  # of a page that was opened before
    assert status == 409
    assert answer["revision"] == 1 and "another window" in answer["error"]
    np.testing.assert_array_equal(stored(tmp_path), MORE * 255)


def test_what_is_done_can_be_trained_on(server, tmp_path):
    put(server, 0, content(MORE, done=True, ungraded=[[20, 29]]))
    put(server, 1, content(NONE, done=False))
    source = open_source(tmp_path / "edited")
    (scan,) = source.scans()
    assert (scan.name, scan.subject, scan.position) == ("eye_bscan000", 1, 0)
    assert scan.scale_um == (4.0, 10.0, 120.0)
    np.testing.assert_array_equal(scan.image, drawable(0).image())
    assert (scan.fluid[:, :20] == MORE[:, :20]).all() and (scan.fluid[:, 20:] == 255).all()
    assert np.isfinite(scan.layers[:, :20]).all() and np.isnan(scan.layers[:, 20:]).all()


def test_saved_scans_are_there_in_the_next_session(server, tmp_path):
    put(server, 1, content(MORE, done=True, ungraded=[[0, 1]]))
    later = Corrections(tmp_path / "edited")
    assert later.names == ["eye_bscan001"] and later.is_done("eye_bscan001")
    annotation = later.read("eye_bscan001", SHAPE)
    np.testing.assert_array_equal(annotation.fluid, MORE)
    assert annotation.ungraded == ((0, 1),)
    assert later.read("eye_bscan000", SHAPE) is None


def test_a_line_cut_short_is_ended_first(tmp_path):
    audit = tmp_path / "audit.csv"
    audit.write_text("a,b\r\n1,")
    append_line(audit, ("a", "b"), (2, 3))
    assert audit.read_text().split() == ["a,b", "1,", "2,3"]


# ---- hostile requests ---------------------------------------------------------------------------
HOSTILE = {
    "no token": {"path": "/edits/0", "status": 403},
    "another token": {"path": "/" + "x" * 32 + "/edits/0", "status": 403},
    "the token alone": {"path": "/TOKEN", "status": 403},
    "another site": {"headers": {"Origin": "http://evil.example"}, "status": 403},
    "no site": {"headers": {"Origin": "null"}, "status": 403},
    "another port": {"headers": {"Origin": "http://127.0.0.1:1"}, "status": 403},
    "encrypted": {"headers": {"Origin": "https://127.0.0.1:PORT"}, "status": 403},
    "a site by its fetch": {"headers": {"Sec_Fetch_Site": "cross-site"}, "status": 403},
    "a name that resolves here": {"headers": {"Host": "evil.example:PORT"}, "status": 421},
    "a name without port": {"headers": {"Host": "127.0.0.1"}, "status": 421},
    "no host": {"headers": {"Host": None}, "status": 421},
    "a form": {"headers": {"Content_Type": "text/plain"}, "status": 415},
    "a path upwards": {"path": "/TOKEN/edits/../../x.png", "status": 404},
    "an escaped path": {"path": "/TOKEN/edits/%2e%2e%2f%2e%2e%2fx.png", "status": 404},
    "an unknown scan": {"path": "/TOKEN/edits/2", "status": 404},
    "a scan below none": {"path": "/TOKEN/edits/-1", "status": 404},
    "odd digits": {"path": "/TOKEN/edits/%C2%B2", "status": 404},
    "a file": {"path": "/TOKEN/report.html", "status": 404},
    "no length": {"headers": {"Content_Length": None}, "status": 411},
    "chunks": {"headers": {"Transfer_Encoding": "chunked"}, "status": 411},
    "a negative length": {"headers": {"Content_Length": "-5"}, "status": 411},
    "an endless length": {"headers": {"Content_Length": "9" * 40}, "status": 413},
    "no JSON": {"body": "{", "status": 400},
    "deep JSON": {"body": "[" * 5000, "status": 400},
    "a list": {"body": "[1]", "status": 400},
    "a wrong size": {"sent": {"fluid": [SHAPE[0] * SHAPE[1] + 1]}, "status": 400},
    "too little": {"sent": {"fluid": [3]}, "status": 400},
    "negative runs": {"sent": {"fluid": [601, -1]}, "status": 400},
    "runs of fractions": {"sent": {"fluid": [0.5, 599.5]}, "status": 400},
    "runs of words": {"sent": {"fluid": ["600"]}, "status": 400},
    "no mask": {"sent": {"fluid": None}, "status": 400},
    "no boundaries": {"sent": {"boundaries": None}, "status": 400},
    "short boundaries": {"sent": {"boundaries": "AAAA"}, "status": 400},
    "no base64": {"sent": {"boundaries": "\u00e9" * 8}, "status": 400},
    "a name as key": {"sent": {"name": "../../x"}, "status": 400},
    "columns outside": {"sent": {"ungraded": [[0, 30]]}, "status": 400},
    "columns backwards": {"sent": {"ungraded": [[5, 2]]}, "status": 400},
    "true as a number": {"sent": {"revision": True}, "status": 400},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_write_nothing(server, tmp_path, name):
    case = HOSTILE[name]
    token, port = server.token, server.server_port
    path = case.get("path", "/TOKEN/edits/0").replace("TOKEN", token)
    headers = {}
    for key, value in case.get("headers", {}).items():
        headers[key] = value and value.replace("PORT", str(port))
    body = case.get("body", json.dumps(content(MORE) | case.get("sent", {})))
    status, answer = request(port, "PUT", path, body, **headers)
    assert status == case["status"], answer
    assert "error" in json.loads(answer)
    assert token.encode() not in answer
    assert files(tmp_path) == {"page/report.html"}
    assert put(server, 0, content(MORE))[0] == 200  # and it goes on working


def test_a_huge_body_is_refused_unread(server, tmp_path):
    length = most_bytes(SHAPE) + 1
    path = f"/{server.token}/edits/0"
    status, _ = request(server.server_port, "PUT", path, b"", Content_Length=str(length))
    assert status == 413
    assert files(tmp_path) == {"page/report.html"}


@pytest.mark.parametrize("rows", [np.inf, -1.0, SHAPE[0] + 0.5])
def test_boundaries_outside_the_scan_are_refused(server, tmp_path, rows):
    sent = content(MORE)
    wrong = np.full((8, SHAPE[1]), rows, "<f4")
    sent["boundaries"] = base64.b64encode(wrong.tobytes()).decode()
    status, answer = put(server, 0, sent)
    assert status == 400 and "leave the image" in answer["error"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_unknown(server, tmp_path, method):
    status, _ = request(server.server_port, method, f"/{server.token}/edits/0", "{}")
    assert status == 501
    assert files(tmp_path) == {"page/report.html"}


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "%2e%2e/secret.png",
        "link.png",
        "notes.txt",
        "x%00.png",
        "/etc/passwd",
        ".",
        "edits/9",
    ],
)
def test_only_files_of_the_page_are_given_out(server, tmp_path, path):
    (tmp_path / "secret.png").write_text("secret")
    (tmp_path / "page" / "notes.txt").write_text("secret")
    (tmp_path / "page" / "link.png").symlink_to(tmp_path / "secret.png")
    status, answer = request(server.server_port, "GET", f"/{server.token}/{path}")
    assert status == 404 and b"secret" not in answer


def test_the_page_needs_the_token_too(server):
    port = server.server_port
    assert request(port, "GET", f"/{server.token}/")[0] == 200
    assert request(port, "GET", "/")[0] == 403
    assert request(port, "GET", f"/{server.token}/", Host="evil.example")[0] == 421


# ---- kills --------------------------------------------------------------------------------------
class Window(threading.Thread):
    """Saves one mask after the other until the server is gone; `last` is the last that was."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        super().__init__()
        self.port, self.path = port, f"/{token}/edits/0"
        self.masks = [NONE]
        self.seed = seed
        self.confirmed = 0

    def run(self) -> None:
        generator = np.random.default_rng(self.seed)
        for revision in range(10_000):
            drawn = (generator.random(SHAPE) > 0.5).astype(np.uint8)
            self.masks.append(drawn)
            try:
                sent = json.dumps(content(drawn, revision))
                status, _ = request(self.port, "PUT", self.path, sent)
            except OSError:
                return
            except Exception:  # the answer was cut
                return
            assert status == 200
            self.confirmed += 1


def kill_while_saving(root: Path, seed: int) -> None:
    """Serve, save, kill -9; then the mask is the last that was confirmed, or the one after it."""
    script = Path(helpers.annotating.__file__)
    paths = os.pathsep.join([str(script.parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, script, root],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    port, token = process.stdout.readline().split()
    window = Window(int(port), token, seed)
    window.start()
    while not window.confirmed:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    window.join()

    edited = root / "edited"
    remove_parts(edited)
    annotation = Corrections(edited).read("eye_bscan000", SHAPE)
    possible = window.masks[window.confirmed : window.confirmed + 2]
    assert any((annotation.fluid == drawn).all() for drawn in possible)
    assert not list(edited.rglob(".*.part"))
    with open(edited / "audit.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["scan"] == "eye_bscan000"]
    assert len(lines) >= window.confirmed


def test_a_kill_while_saving_leaves_whole_masks(tmp_path):
    kill_while_saving(tmp_path, seed=0)


@pytest.mark.slow
def test_twenty_kills_while_saving(tmp_path):
    for seed in range(1, 21):
        kill_while_saving(tmp_path, seed)
