"""Sources: what there is to open, and their fingerprints."""

import hashlib
import shutil

import pytest
from helpers.matfiles import small_volume, write_subject_mat
from helpers.scanfolder import WET, make_folder, refused, save

from dme.data import phantom
from dme.data.opening import open_source


@pytest.fixture
def fake_phantom(monkeypatch):
    monkeypatch.setattr(phantom, "phantom_set", lambda: iter(["scan"]), raising=False)


def test_without_data_the_phantom_says_so(fake_phantom):
    source = open_source()
    assert (source.kind, source.path) == ("phantom", "")
    assert "SYNTHETIC" in source.description
    assert "nothing about real scans" in source.description
    assert list(source.scans()) == ["scan"]


def test_phantom_is_a_word(fake_phantom, monkeypatch, tmp_path):
    monkeypatch.setenv("DME_DATA", str(make_folder(tmp_path)))
    source = open_source("phantom")
    assert (source.kind, source.path) == ("phantom", "")
    assert list(source.scans()) == ["scan"]
    assert "SYNTHETIC" in source.description
    assert "no DME_DATA" not in source.description

    monkeypatch.setenv("DME_DATA", "phantom")
    assert open_source().description == source.description
    monkeypatch.delenv("DME_DATA")
    assert open_source().sha256 == source.sha256  # the same scans, the same cache


def test_a_changed_phantom_is_a_changed_source(monkeypatch):
    before = open_source().sha256
    monkeypatch.setattr(phantom, "VERSION", phantom.VERSION + 1)
    assert open_source().sha256 != before


def test_dme_data_is_read_and_an_argument_wins(monkeypatch, tmp_path):
    from_variable = make_folder(tmp_path / "x")
    from_argument = make_folder(tmp_path / "y")
    monkeypatch.setenv("DME_DATA", str(from_variable))
    assert open_source().path == str(from_variable)
    assert open_source(from_argument).path == str(from_argument)


def test_wrong_paths(tmp_path):
    refused(tmp_path / "nowhere", "no such file or folder", "nowhere", "DME_DATA")
    archive = tmp_path / "2015_BOE_Chiu.zip"
    archive.write_bytes(b"PK")
    refused(archive, "neither a .mat file nor a folder", "unpack")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no images", "holds nothing")
    refused(tmp_path, "no images", "2015_BOE_Chiu.zip")


def test_grader_is_1_or_2_and_only_mat_files_have_2(tmp_path):
    refused(make_folder(tmp_path), "grader 3", "expected 1 or 2", grader=3)
    refused(tmp_path, "no grader 2", ".mat", grader=2)


def test_fingerprint_of_mat_files_sees_their_names(tmp_path):
    path = tmp_path / "Subject_01.mat"
    write_subject_mat(path, *small_volume())
    first = open_source(tmp_path).sha256
    assert first == open_source(path).sha256 == open_source(tmp_path).sha256
    shutil.copy(path, tmp_path / "kept")
    path.rename(tmp_path / "Subject_02.mat")
    assert open_source(tmp_path).sha256 != first


def test_fingerprint_of_a_folder_sees_what_is_read(tmp_path):
    folder = make_folder(tmp_path / "folder")
    first = open_source(folder).sha256
    (folder / "readme.txt").write_text("not read, so no part of the data")
    assert open_source(folder).sha256 == first
    save(folder / "fluid" / "a.png", WET)
    changed = open_source(folder).sha256
    (folder / "index.csv").write_text("name,subject,bscan\na,1,0\nb,1,1\n")
    indexed = open_source(folder).sha256
    assert len({first, changed, indexed}) == 3
    assert len(first) == len(hashlib.sha256().hexdigest())
