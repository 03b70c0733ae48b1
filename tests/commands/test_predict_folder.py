"""Where `predict` writes: what is there is continued, left alone, or replaced on demand."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.scan_files import picture, save
from helpers.scripts import ROOT, table
from PIL import Image

from dme.common.errors import INTERRUPTED
from dme.common.folders import owned
from dme.report import batch, output_folder
from dme.report.journal import entries


@pytest.fixture
def volume(tmp_path):
    return save(tmp_path / "v.npy", [picture(seed=i) for i in range(4)])


@pytest.fixture
def killed(monkeypatch, predict):
    """killed(scans, *arguments): a prediction that is stopped after so many scans."""

    def call(scans: int, *arguments, **more):
        keep = batch.Work._keep

        def stopping(work, job):
            if len(work.rows) == scans:
                raise KeyboardInterrupt
            keep(work, job)

        with monkeypatch.context() as patch:
            patch.setattr(batch.Work, "_keep", stopping)
            done = predict(*arguments, **more)
        assert done.code == 130
        return done

    return call


def contents(folder) -> dict[str, bytes]:
    """Name -> bytes of all files below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def without_time(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without what says when the results were made."""
    return {
        name: files[name] for name in files if name not in ("measurements.json", "report.html")
    }


def scans_of(files: dict[str, bytes]) -> dict:
    results = json.loads(files["measurements.json"])
    return {key: results[key] for key in ("scans", "volumes", "notes", "skipped", "finished")}


# ---- what is there already is left alone --------------------------------------------------------
def test_results_are_never_replaced_unasked(predict, volume, tmp_path):
    first = predict(volume)
    corrected = save(first.out / "masks" / "v_bscan000.png", picture(seed=7))
    before = contents(first.out)
    for number in (2, 3):
        done = predict(volume)
        assert done.code == 0
        assert f"{first.out} holds other results or files: writing into {first.out}-{number}" in (
            done.printed
        )
        assert f"wrote {first.out}-{number}: open report.html" in done.printed
    assert contents(first.out) == before
    assert corrected.exists()
    masks = [name for name in contents(tmp_path / "out-2") if name.startswith("masks/")]
    assert len(masks) == 4


@pytest.mark.parametrize("name", ["masks/hand.png", "report.html", "measurements.json", "a.txt"])
def test_other_peoples_folders_are_left_alone(predict, tmp_path, name):
    scan = save(tmp_path / "in" / "a.png", picture())
    other = tmp_path / "out" / name
    other.parent.mkdir(parents=True)
    other.write_text('{"made_by": "another program"}')
    before = contents(tmp_path / "out")
    done = predict(scan)
    assert done.code == 0
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out-2" / "report.html").exists()
    done = predict(scan, "--overwrite")
    assert done.code == 2
    assert "holds no results of dme, and --overwrite replaces nothing else" in done.errors
    assert contents(tmp_path / "out") == before


def test_scans_that_lie_in_the_folder_stay(predict, tmp_path):
    graded = save(tmp_path / "set" / "masks" / "a.png", picture())
    scan = save(tmp_path / "set" / "a.png", picture())
    before = contents(tmp_path / "set")
    assert predict(scan, out=tmp_path / "set").code == 0
    assert contents(tmp_path / "set") == before
    assert graded.exists()
    assert (tmp_path / "set-2" / "masks" / "a.png").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_prediction_that_failed_wholly_leaves_nothing_behind(predict, tmp_path, overwrite):
    good = save(tmp_path / "good.png", picture())
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    if overwrite:  # which stages what is new in the folder
        predict(good)
    before = contents(tmp_path / "out")
    option = ["--overwrite"] * overwrite
    failed = predict(bad, *option)
    assert failed.code == 2 and "no scan could be predicted, 1 skipped" in failed.errors
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out").exists() == overwrite
    assert not (tmp_path / "out" / ".new").exists()

    # so that the next run, of another scan, need not avoid it
    done = predict(good, *option)
    assert done.code == 0 and done.out == tmp_path / "out"
    assert "holds other results" not in done.printed


def test_ctrl_c_before_the_first_scan_leaves_nothing(predict, volume, tmp_path, monkeypatch):
    def interrupted(work, items):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch.Work, "run", interrupted)
        assert predict(volume).code == 130
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(predict, volume, tmp_path):
    with owned(tmp_path / "out"):
        done = predict(volume)
        assert done.code == 0
        assert "writing into" in done.printed
        assert not (tmp_path / "out" / "masks").exists()
    assert (tmp_path / "out-2" / "masks").exists()


# ---- what was killed goes on --------------------------------------------------------------------
@pytest.mark.parametrize("scans", [0, 1, 3])
def test_a_killed_prediction_goes_on_and_ends_like_another(
    predict, killed, volume, tmp_path, monkeypatch, scans
):
    arguments = (volume, "--scale", "4,10,120")
    whole = predict(*arguments, out=tmp_path / "whole")
    done = killed(scans, *arguments)
    assert not done.results()["finished"]
    predicted = []
    finding = batch.Work._finding
    monkeypatch.setattr(
        batch.Work, "_finding", lambda work, job: predicted.append(1) or finding(work, job)
    )
    done = predict(*arguments)
    assert done.code == 0
    assert len(predicted) == 4 - scans
    if scans:
        assert f"going on in {done.out}, where {scans} scans are done" in done.printed
    assert not (tmp_path / "out-2").exists()
    ours = contents(done.out)
    theirs = contents(whole.out)
    assert without_time(ours) == without_time(theirs)
    assert scans_of(ours) == scans_of(theirs)


@pytest.mark.slow
def test_ctrl_c_ends_in_a_line_and_leaves_whole_files(tmp_path):
    """A real signal, sent while all threads are at work; the next run goes on."""
    command = [sys.executable, "-m", "dme", "predict", "phantom", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(entries(tmp_path / "out")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == INTERRUPTED
    assert not list(tmp_path.rglob("*.part"))
    for path in tmp_path.rglob("*.png"):
        Image.open(path).load()
    done = len(list(entries(tmp_path / "out")))
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and f"where {done} scans are done" in again.stdout
    assert len(table(tmp_path / "out" / "measurements.csv")) == 20


@pytest.mark.parametrize(
    "other", [("--threshold", "0.4"), ("--scale", "3,10,120"), ("--volume",), ("--eye", "OD")]
)
def test_other_settings_get_another_folder(predict, killed, tmp_path, other):
    for i in range(3):
        save(tmp_path / "eye" / f"s{i}.png", picture(seed=i))
    killed(2, tmp_path / "eye")
    before = contents(tmp_path / "out")
    assert predict(tmp_path / "eye", *other).code == 0
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out-2" / "report.html").exists()


def test_what_was_corrected_by_hand_before_it_went_on_stays(predict, killed, volume, tmp_path):
    done = killed(2, volume)
    save(done.out / "masks" / "v_bscan000.png", picture(seed=7))
    before = contents(done.out)
    assert predict(volume).code == 0
    assert contents(done.out) == before
    assert (tmp_path / "out-2" / "report.html").exists()


def test_scans_that_changed_and_files_that_are_gone_are_predicted_again(
    predict, killed, volume, tmp_path
):
    done = killed(3, volume)
    save(volume, [picture(seed=9), *(picture(seed=i) for i in range(1, 4))])
    (done.out / "masks" / "v_bscan001.png").unlink()
    whole = predict(volume, out=tmp_path / "whole")
    done = predict(volume)
    assert without_time(contents(done.out)) == without_time(contents(whole.out))


@pytest.mark.parametrize(
    "damage", [b"\xff\n", b"[]\n", b'{"row": 1}\n', b'{"row": {"sc', b"[" * 5000]
)
def test_a_damaged_journal_is_predicted_again(predict, killed, volume, tmp_path, damage):
    done = killed(2, volume)
    (done.out / ".progress-0.jsonl").write_bytes(damage)
    done = predict(volume)
    assert done.code == 0
    assert len(done.table()) == 4
    assert not list(done.out.glob(".*"))


def test_a_link_among_the_results_is_not_followed(predict, killed, volume, tmp_path):
    done = killed(2, volume)
    shutil.move(done.out / "masks", tmp_path / "elsewhere")
    (done.out / "masks").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    assert predict(volume).code == 0
    assert contents(tmp_path / "elsewhere") == before
    assert (tmp_path / "out-2" / "masks").is_dir()


# ---- and what is replaced on demand -------------------------------------------------------------
def test_overwrite_replaces_results_that_nobody_changed(predict, volume, tmp_path):
    first = predict(volume)
    (first.out / "comparison.csv").write_text("mine")
    (first.out / "masks" / "mine.png").write_text("mine")
    other = save(tmp_path / "b.png", picture())
    done = predict(other, "--overwrite")
    assert done.code == 0
    assert not (tmp_path / "out-2").exists()
    fresh = predict(other, out=tmp_path / "fresh")
    ours = contents(done.out)
    assert ours.pop("comparison.csv") == ours.pop("masks/mine.png") == b"mine"
    assert without_time(ours) == without_time(contents(fresh.out))
    assert scans_of(ours) == scans_of(contents(fresh.out))
    assert not (done.out / "maps").exists()
    assert predict(volume, "--overwrite").code == 0


def test_every_file_is_on_record(predict, volume):
    done = predict(volume, "--scale", "4,10,120")
    names = contents(done.out).keys() - {"measurements.json"}
    assert done.results()["files"].keys() == names


@pytest.mark.parametrize(
    "name", ["masks/v_bscan000.png", "overlays/v_bscan001.png", "measurements.csv", "report.html"]
)
def test_overwrite_leaves_changed_files_alone(predict, volume, name):
    first = predict(volume)
    with (first.out / name).open("ab") as file:
        file.write(b" ")
    before = contents(first.out)
    done = predict(volume, "--overwrite")
    assert done.code == 2
    message = f"{first.out}: {name} was changed since it was written: move it away"
    assert message in done.errors
    assert contents(first.out) == before


def test_overwrite_leaves_files_alone_that_it_did_not_write(predict, volume, tmp_path):
    first = predict(volume)
    (first.out / "masks" / "b.png").write_text("mine")
    done = predict(save(tmp_path / "b.png", picture()), "--overwrite")
    assert done.code == 2
    assert "masks/b.png is not what dme wrote there: move it away" in done.errors
    assert (first.out / "masks" / "b.png").read_text() == "mine"
    assert first.results()["finished"]
    assert len(first.table()) == 4


def test_overwrite_leaves_all_in_place_until_the_new_is_whole(predict, killed, volume, tmp_path):
    first = predict(volume)
    before = contents(first.out)
    other = save(tmp_path / "w.npy", [picture(seed=i) for i in range(5, 8)])
    killed(2, other, "--overwrite")
    now = contents(first.out)
    assert {name: now[name] for name in before} == before
    done = predict(other, "--overwrite")
    assert done.code == 0
    assert {row["volume"] for row in done.table()} == {"w"}
    assert len(list((done.out / "masks").iterdir())) == 3


@pytest.mark.parametrize("moves", [0, 2, 5])
def test_overwrite_killed_while_it_moves_can_be_repeated(
    predict, volume, tmp_path, monkeypatch, moves
):
    first = predict(volume)
    other = save(tmp_path / "w.npy", [picture(seed=i) for i in range(5, 8)])
    replace = os.replace
    calls = []

    def stopping(before, after):
        if ".new" in str(before) and not str(before).endswith(".part"):
            calls.append(1)
            if len(calls) > moves:
                raise KeyboardInterrupt
        replace(before, after)

    with monkeypatch.context() as patch:
        patch.setattr(output_folder.os, "replace", stopping)
        assert predict(other, "--overwrite").code == 130
    assert not first.results()["finished"]
    done = predict(other, "--overwrite")
    assert done.code == 0, done.errors
    fresh = predict(other, out=tmp_path / "fresh")
    assert without_time(contents(done.out)) == without_time(contents(fresh.out))


def test_results_of_an_earlier_version_are_not_overwritten(predict, volume):
    first = predict(volume)
    results = first.results()
    del results["files"]
    (first.out / "measurements.json").write_text(json.dumps(results))
    done = predict(volume, "--overwrite")
    assert done.code == 2
    assert "results without checksums, of an earlier version" in done.errors


@pytest.mark.parametrize("kind", ["file", "loop", "dangling", "pipe"])
def test_what_is_no_folder_is_refused_in_one_line(predict, volume, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    if kind == "loop":
        out.symlink_to("out")
    if kind == "dangling":
        out.symlink_to("nowhere")
    if kind == "pipe":
        os.mkfifo(out)
    before = out.lstat()
    done = predict(volume)
    assert done.code == 2
    assert re.search(r"^error: cannot (use|write) .*out: ", done.errors, re.M), done.errors
    assert out.lstat().st_ino == before.st_ino


def test_masks_are_those_of_the_scans_after_it_went_on(predict, killed, volume):
    killed(2, volume)
    done = predict(volume)
    for i, row in enumerate(done.table()):
        mask = np.asarray(Image.open(done.out / row["mask"]))
        np.testing.assert_array_equal(mask > 0, picture(seed=i) > 100)
