"""`annotate`: what it opens, in which order, what it keeps, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.annotating import content, request
from helpers.scan_files import files, picture, save
from helpers.scripts import EXPERIMENTS, ROOT, exit_code, load_script
from PIL import Image

from dme.annotation.exchange import mask_of
from dme.annotation.server import Server
from dme.data.opening import open_source
from dme.data.source import subjects_known

SHAPE = (40, 60)  # of `picture`, which has 40 px of fluid


@pytest.fixture
def annotate(monkeypatch, capsys):
    """annotate(*arguments, visit=...) runs the command; visit is called with its server."""
    module = load_script("annotate")

    def call(*arguments, visit=lambda server: None):
        def serve(server, *more):
            thread = threading.Thread(target=visit_and_end, args=(server,))
            thread.start()
            original(server, 0.01)
            thread.join()

        def visit_and_end(server):
            try:
                visit(server)
            finally:
                server.shutdown()

        original = Server.serve_forever
        with monkeypatch.context() as patch:
            patch.setattr(Server, "serve_forever", serve)
            code = exit_code(module, *arguments, "--no-browser")
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def results(predict, tmp_path):
    """Fluid in three single scans."""
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.png", picture())
    done = predict(tmp_path / "in", "--scale", "4,10", networks=None)
    assert done.code == 0, done.errors
    return done.out


def get(server, path: str) -> bytes:
    status, answer = request(server.server_port, "GET", f"/{server.token}/{path}")
    assert status == 200, (path, answer)
    return answer


def put(server, index: int, mask: np.ndarray, **other) -> int:
    sent = content(mask) | {"boundaries": None} | other
    path = f"/{server.token}/edits/{index}"
    return request(server.server_port, "PUT", path, json.dumps(sent))[0]


def viewed(server) -> dict:
    """What the viewer is given."""
    text = get(server, "viewer/scans.js").decode()
    return json.loads(text.removeprefix("dme.start(").removesuffix(");\n"))


def test_results_are_corrected(annotate, results, tmp_path):
    before = {name: (results / name).read_bytes() for name in files(results)}

    def visit(server):
        page = get(server, "").decode()
        for script in re.findall(r'src="([^"]+)"', page):
            assert get(server, script)
        assert "viewer/tools.js" in page
        for scan in viewed(server)["scans"]:
            assert get(server, scan["image"])[1:4] == b"PNG"
            assert get(server, scan["values"]).startswith(b"dme.receive(")
        found = mask_of(json.loads(get(server, "edits/1"))["fluid"], SHAPE)
        assert found.sum() == 40
        found[30:32, 50:55] = 1
        assert put(server, 1, found, done=True) == 200

    code, printed, errors = annotate(results, visit=visit)
    assert code == 0, errors
    assert "3 scans, 0 of them done" in printed
    after = {name: (results / name).read_bytes() for name in before}
    assert after == before  # the network's own is as it was
    (scan,) = open_source(results / "edited").scans()
    assert scan.name == "b" and (scan.fluid == 1).sum() == 50
    assert "3 scans, 1 of them done" in annotate(results)[1]


def test_scans_are_drawn_on_from_nothing(annotate, tmp_path):
    coloured = np.stack([picture(), picture() // 2, picture() // 3], axis=2)
    for name, pixels in {"scan2": coloured, "scan10": picture()}.items():
        save(tmp_path / "in" / f"{name}.png", pixels)
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[5:9, 5:15] = 1

    def visit(server):
        assert [scan["name"] for scan in viewed(server)["scans"]] == ["scan2", "scan10"]
        edit = json.loads(get(server, "edits/0"))
        assert edit["fluid"] == [40 * 60] and edit["boundaries"] is None
        assert put(server, 0, drawn, done=True) == 200

    out = tmp_path / "drawn"
    code, _, errors = annotate(tmp_path / "in", "--out", out, visit=visit)
    assert code == 0, errors
    assert files(tmp_path / "in") == {"scan2.png", "scan10.png"}
    (scan,) = open_source(out).scans()
    np.testing.assert_array_equal(scan.fluid, drawn)


def lines_of_index(folder) -> list[str]:
    return (folder / "index.csv").read_text().split()[1:]


def save_all(server) -> None:
    for index in range(len(server.scans)):
        assert put(server, index, np.zeros(SHAPE, np.uint8), done=True) == 200


def test_single_scans_stay_of_unknown_eyes(annotate, predict, results, tmp_path):
    """The folder says no more than that of the scans did, to training and to prediction."""
    out = tmp_path / "drawn"
    assert annotate(results, visit=save_all)[0] == 0
    assert annotate(tmp_path / "in", "--out", out, visit=save_all)[0] == 0
    assert lines_of_index(results / "edited") == [f"{name},,,4.0,10.0,," for name in "abc"]
    assert lines_of_index(out) == [f"{name},,,,,," for name in "abc"]
    assert not subjects_known(open_source(out).notes)
    again = predict(out, "--scale", "4,10,120", networks=None, out=tmp_path / "again")
    assert again.code == 0, again.errors
    assert {(row["volume"], row["bscan"]) for row in again.table()} == {("", "")}
    assert not again.has("volumes.csv")


def test_scans_of_volumes_keep_eye_and_place(annotate, tmp_path):
    """Also of two folders that are drawn on into one, and beside a single scan."""
    for eye in ("left", "right"):
        for number in (3, 5):
            save(tmp_path / "in" / eye / f"bscan_{number}.png", picture())
    save(tmp_path / "in" / "alone" / "x.png", picture())
    out = ["--out", tmp_path / "drawn"]
    for folder in ("right", "alone", "left"):
        assert annotate(tmp_path / "in" / folder, *out, visit=save_all)[0] == 0
    assert lines_of_index(out[1]) == [
        "right_bscan003,1,3,,,,",
        "right_bscan005,1,5,,,,",
        "x,,,,,,",
        "left_bscan003,2,3,,,,",
        "left_bscan005,2,5,,,,",
    ]


def test_places_that_an_earlier_version_guessed_are_mended(annotate, results):
    """It called all single scans B-scans of one eye, counted in order."""
    assert annotate(results, visit=save_all)[0] == 0
    kept = results / "edited" / "state.json"
    state = json.loads(kept.read_text())
    for position, scan in enumerate(state.values()):
        del scan["volume"]
        scan |= {"subject": 1, "bscan": position}
    kept.write_text(json.dumps(state))
    assert annotate(results)[0] == 0
    assert lines_of_index(results / "edited") == [f"{name},,,4.0,10.0,," for name in "abc"]


def test_eyes_that_a_person_wrote_are_kept(annotate, results):
    assert annotate(results, visit=save_all)[0] == 0
    index = results / "edited" / "index.csv"
    index.write_text(index.read_text().replace("b,,,", "b,7,3,"))
    assert annotate(results, visit=save_all)[0] == 0
    kept = [line.split(",")[:3] for line in lines_of_index(results / "edited")]
    assert kept == [["a", "", ""], ["b", "7", "3"], ["c", "", ""]]

    # what cannot be read is not replaced, and what is drawn is kept all the same
    damaged = index.read_text().replace("b,7,3,", "b,left,3,")
    index.write_text(damaged)

    def draw(server) -> None:
        assert put(server, 0, np.ones(SHAPE, np.uint8), done=True) >= 400

    annotate(results, visit=draw)
    assert index.read_text() == damaged
    assert np.asarray(Image.open(results / "edited" / "fluid" / "a.png")).all()


def test_layers_from_nothing(annotate, tmp_path):
    save(tmp_path / "in" / "a.png", picture())

    def visit(server):
        view = viewed(server)
        assert [boundary["name"] for boundary in view["boundaries"]][0] == "ILM"
        assert json.loads(get(server, "edits/0"))["fluid"] is None

    out = ["--out", tmp_path / "drawn"]
    assert annotate(tmp_path / "in", "--task", "layers", *out, visit=visit)[0] == 0


def test_scans_open_in_the_order_of_a_list(annotate, results, tmp_path):
    order = tmp_path / "suggested.csv"
    order.write_text("rank,scan\n1,c\n2,a\n")

    def visit(server):
        assert [scan["name"] for scan in viewed(server)["scans"]] == ["c", "a"]
        found = mask_of(json.loads(get(server, "edits/0"))["fluid"], SHAPE)
        assert put(server, 0, found) == 200

    assert annotate(results, "--order", order, visit=visit)[0] == 0
    assert (results / "edited" / "fluid" / "c.png").exists()
    order.write_text("rank,scan\n1,x\n")
    code, _, errors = annotate(results, "--order", order)
    assert code == 2 and "lists x, which is none of the 3 scans" in errors


def test_what_cannot_be_opened(annotate, results, tmp_path):
    assert "no such file or folder" in annotate(tmp_path / "none")[2]
    code, _, errors = annotate(results, "--task", "layers")
    assert code == 2 and "--task and --volume are for scans" in errors
    (results / "scans" / "a.png").unlink()
    _, _, errors = annotate(results, visit=lambda server: get(server, "edits/0"))
    assert not errors  # of one scan the picture is missing, the others can be corrected
    (results / "measurements.json").write_text("{}")
    assert "holds no results" in annotate(results)[2]


def test_corrections_of_other_scans_are_kept_apart(annotate, results, tmp_path):
    def visit(server):
        put(server, 0, np.zeros(SHAPE, np.uint8))

    out = ["--out", tmp_path / "kept"]
    assert annotate(results, *out, visit=visit)[0] == 0
    save(tmp_path / "other" / "a.png", picture(height=50))
    code, _, errors = annotate(tmp_path / "other", *out)
    assert code == 2 and "is" in errors and "of other scans? Choose another --out" in errors


@pytest.mark.slow
def test_ctrl_c_ends_it_and_two_cannot_write(results):
    program = [sys.executable, EXPERIMENTS / "annotate.py", results, "--no-browser"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)
    line = ""
    while "open http" not in line:
        line = first.stdout.readline()
    second = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert second.returncode == 2 and "another run writes into" in second.stderr
    time.sleep(0.5)
    first.send_signal(signal.SIGINT)
    printed, _ = first.communicate(timeout=60)
    assert first.returncode == 0 and "train on what is done: ./run.sh finetune" in printed
