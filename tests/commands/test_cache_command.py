"""`cache`: what it lists, what it removes, and what it leaves alone."""

import pytest
from helpers.scan_files import picture, save
from helpers.scripts import exit_code, load_script

from dme.data.cache import open_cache
from dme.data.opening import open_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder with two caches of scans, and files that are none."""
    save(tmp_path / "set" / "images" / "a.png", picture())
    folder = tmp_path / "cache"
    monkeypatch.setenv("DME_CACHE", str(folder))
    open_cache(open_source(tmp_path / "set"), 8)
    (folder / "weights").mkdir()
    others = ("weights/remote.pth", "folder-0123456789ab-native.txt", "mine.h5", "a-b-native.h5")
    for name in others:
        (folder / name).write_text("mine")
    (tmp_path / "elsewhere.h5").write_text("mine")
    (folder / "folder-0123456789ab-native.h5").symlink_to(tmp_path / "elsewhere.h5")
    (folder / "folder-0123456789ab-8.h5").mkdir()
    return folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_caches_are_listed_and_cleared(folder, tmp_path, capsys):
    script = load_script("cache")
    before = names(folder)
    caches = {path.name for path in folder.glob("folder-*") if path.is_file()}
    caches -= {"folder-0123456789ab-native.txt", "folder-0123456789ab-native.h5"}
    assert len(caches) == 2

    capsys.readouterr()
    assert exit_code(script) == 0
    printed = capsys.readouterr().out
    assert all(f"kept  {name}" in printed for name in caches)
    assert f"{folder}: 2 caches of scans" in printed
    assert "./run.sh cache --clear" in printed
    assert names(folder) == before

    (folder / f".{sorted(caches)[0]}.123.part").write_text("of a killed run")
    assert exit_code(script, "--clear") == 0
    assert all(f"removed  {name}" in capsys.readouterr().out for name in sorted(caches)[:1])
    assert names(folder) == before - caches
    assert (tmp_path / "elsewhere.h5").read_text() == "mine"

    assert exit_code(script, "--clear") == 0
    assert "0 caches of scans" in capsys.readouterr().out


def test_no_folder_is_no_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "absent"))
    assert exit_code(load_script("cache"), "--clear") == 0
    assert "0 caches of scans, 0.0 MB" in capsys.readouterr().out
    assert not (tmp_path / "absent").exists()
