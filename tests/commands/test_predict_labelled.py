"""`predict --labelled`: what is done is left out, whatever its name; volumes stay whole."""

import numpy as np
import pytest
from helpers.scan_files import picture, save

from dme.data.corrections import Annotation, Corrections, Place

NAMES = ("Patient 1 left.tif", "Patient 1 right.png", "b.jpg", "c.png")
LABELLED = ("Patient 1 left", "b")


@pytest.fixture
def scans(tmp_path):
    """Pictures of several formats, with spaces in their names."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / "my scans" / name, picture(seed=seed))
    return tmp_path / "my scans"


def label(folder, *names, done=True):
    corrections = Corrections(folder)
    for name in names:
        drawn = Annotation(np.zeros((40, 60), np.uint8), done=done)
        corrections.save(Place(name), picture(), drawn, Annotation())
    return folder


def test_scans_that_are_done_are_left_out(predict, scans, tmp_path):
    kept = label(tmp_path / "kept", *LABELLED)
    label(kept, "c", done=False)
    done = predict(scans, "--labelled", kept)
    assert done.code == 0, done.errors
    assert [row["scan"] for row in done.table()] == ["Patient 1 right", "c"]
    note = "2 scans left out, labelled in kept: Patient 1 left, b"
    assert any(note in line for line in done.results()["notes"])
    assert note.replace("kept", str(kept)) in done.printed + done.errors
    assert done.results()["settings"]["labelled"] == list(LABELLED)
    assert str(tmp_path) not in (done.out / "measurements.json").read_text()

    # with more done it is another prediction
    label(kept, "c")
    again = predict(scans, "--labelled", kept)
    assert again.out != done.out and len(again.table()) == 1


def test_a_folder_that_training_reads_will_do(predict, scans, tmp_path):
    own = tmp_path / "own"
    for name in ("b.png", "c.png"):
        save(own / "images" / name, picture())
    save(own / "fluid" / "b.png", np.zeros(picture().shape, np.uint8))
    save(own / "fluid" / "c.png", np.eye(*picture().shape, dtype=np.uint8) * 255)
    done = predict(scans, "--labelled", own)
    assert done.code == 0, done.errors
    assert [row["scan"] for row in done.table()] == ["Patient 1 left", "Patient 1 right"]


def test_b_scans_of_volumes_stay_and_are_said(predict, tmp_path):
    for number in range(3):
        save(tmp_path / "eye" / f"bscan_{number}.png", picture(seed=number))
    kept = label(tmp_path / "kept", "eye_bscan001")
    done = predict(tmp_path / "eye", "--scale", "4,10,120", "--labelled", kept)
    assert done.code == 0, done.errors
    assert len(done.table()) == 3 and done.volume()["missing_bscans"] == "0"
    assert "1 B-scan labelled in" in done.printed + done.errors
    assert "volumes are measured whole" in " ".join(done.results()["notes"])


def test_names_that_are_none_of_these_are_said(predict, scans, tmp_path):
    kept = label(tmp_path / "kept", "b", "other")
    done = predict(scans, "--labelled", kept)
    assert done.code == 0 and len(done.table()) == 3
    note = "1 of the 2 scans labelled in kept are none of these: other"
    assert any(note in line for line in done.results()["notes"])


def test_what_is_refused(predict, scans, tmp_path):
    done = predict(scans, "--labelled", tmp_path / "none")
    assert done.code == 2 and "--labelled" in done.errors and "no such file" in done.errors
    unlabelled = tmp_path / "unlabelled"
    save(unlabelled / "a.png", picture())
    done = predict(scans, "--labelled", unlabelled)
    assert done.code == 2 and "give those you labelled" in done.errors
    everything = label(tmp_path / "kept", *LABELLED, "Patient 1 right", "c")
    done = predict(scans, "--labelled", everything)
    assert done.code == 2 and "4 scans left out" in done.printed + done.errors
    assert "all scans are labelled: nothing is left to predict" in done.errors
