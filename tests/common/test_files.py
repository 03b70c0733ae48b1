"""Files are whole or absent, reach the disk before their name, and replace nothing but files."""

import os
import stat

import pytest

from dme.common.errors import InputError
from dme.common.files import atomic_path, cache_folder, user_path


def test_a_file_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync = os.fsync
    replace = os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    def noted_replace(before, after) -> None:
        assert os.path.dirname(before) == os.path.dirname(after)  # a rename, not a copy
        calls.append("replace")
        replace(before, after)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        inode = temporary.stat().st_ino
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "a.txt").stat().st_ino == inode


def test_what_is_flushed_may_be_written(tmp_path, monkeypatch):
    """Windows flushes no file that is open for reading only."""
    fcntl = pytest.importorskip("fcntl")
    modes = []

    def noted(descriptor: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", noted)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert modes == [os.O_RDWR]


def make_special(kind: str, path) -> None:
    if kind == "link":
        path.with_name("target").write_text("old")
        path.symlink_to("target")
    if kind == "dangling link":
        path.symlink_to("nowhere")
    if kind == "loop":
        path.symlink_to(path.name)
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    if kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("link", "a link"),
        ("dangling link", "a link"),
        ("loop", "a link"),
        ("pipe", "a pipe"),
        ("folder", "a folder"),
        ("device", "a device"),
    ],
)
def test_only_files_are_replaced(tmp_path, kind, words):
    path = tmp_path / "special"
    make_special(kind, path)
    before = path.lstat()
    message = f"special is {words}, which is never replaced; give another name"
    with pytest.raises(InputError, match=message), atomic_path(path):
        raise AssertionError("nothing may be written")
    after = path.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert not list(tmp_path.glob("*.part"))


def test_what_comes_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "special"
    with pytest.raises(InputError, match="is a pipe"), atomic_path(path) as temporary:
        temporary.write_text("new")
        os.mkfifo(path)
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert os.listdir(tmp_path) == ["special"]


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(InputError, match="names no file"), atomic_path(path):
        pass


@pytest.mark.parametrize("name", ["x" * 255, "µ" * 127])
def test_the_longest_names_can_be_written(tmp_path, name):
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert (tmp_path / name).read_text() == "whole"


def test_a_user_who_is_not_here(monkeypatch):
    with pytest.raises(InputError, match="~nobody-of-that-name/x: nobody here"):
        user_path("~nobody-of-that-name/x")
    monkeypatch.setenv("DME_CACHE", "~nobody-of-that-name")
    with pytest.raises(InputError, match="nobody here has that home folder"):
        cache_folder()
