"""Many scans: what one leaves, how scales complete each other, and that memory stays flat."""

import errno
import os
import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Bright, Knows
from helpers.page_files import scan_files
from helpers.scan_files import files, flat, indexed, picture

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.report import batch
from dme.report.batch import AHEAD, BEHIND, LOOKERS, Job, Work
from dme.report.inputs import Item, list_items
from dme.report.scans import Scan
from dme.retina.volume import measure_volume


def work_in(out: Path, scale_um=None, **networks) -> Work:
    return Work(out, networks, threshold=0.5, tta=False, scale_um=scale_um)


def with_cyst() -> np.ndarray:
    """A scan with 16 px of fluid."""
    return indexed(0, cyst=(slice(28, 32), slice(5, 9)))


def test_what_a_scan_leaves(tmp_path):
    """Of the fluid a mask, of the layers boundaries and a profile, and one overlay."""
    network = Knows([flat()], fluid=True)
    work = work_in(tmp_path, fluid=network, layers=network)
    work.predict([Job(0, Scan("a", "a.png", with_cyst))])
    expected = {"masks/a.png", "boundaries/a.csv", "profiles/a.png", "overlays/a.png"}
    expected |= scan_files("a")
    assert files(tmp_path) == expected
    (row,) = work.rows
    assert row["scan"] == "a"
    assert row["source"] == "a.png"
    assert row["fluid_px"] == 16
    assert row["retina_thickness_px"] == pytest.approx(56, abs=0.1)
    assert not work.thickness_px  # it belongs to no volume


def test_columns_of_more_fluid_than_a_byte_counts(tmp_path):
    deep = picture(height=700, width=20) // 2
    deep[20:620, 4] = 160
    deep[20:276, 5] = 160  # 256 px
    work = work_in(tmp_path, fluid=Bright())
    first = Scan("a", "a.npy", deep.copy, volume="v", position=0)
    work.predict([Job(0, first), Job(1, Scan("b", "b.npy", deep.copy, volume="v", position=1))])
    expected = [0, 0, 0, 0, 600, 256, *[0] * 14]
    assert work.thickness_px["v", "fluid"][1].tolist() == expected
    assert work.rows[1]["fluid_px"] == 856
    scale = {"axial_um": 4.0, "lateral_um": 10.0, "spacing_um": 100.0}
    rows = [row | scale for row in work.rows]
    columns = {"fluid": {0: work.thickness_px["v", "fluid"][0]}}
    columns["fluid"][1] = work.thickness_px["v", "fluid"][1]
    volume, maps = measure_volume(rows, columns, (0, 1))
    assert maps["fluid"].max() == 600 * 4
    assert volume["fluid_volume_mm3"] == pytest.approx(2 * 856 * 4 * 10 * 100 / 1e9)


def test_lines_of_a_volume(tmp_path):
    network = Knows([flat()], fluid=True)
    work = work_in(tmp_path, fluid=network, layers=network)
    work.predict([Job(0, Scan("a", "a.npy", with_cyst, volume="v", position=7))])
    expected_px = np.zeros(60)
    expected_px[5:9] = 4
    fluid_px = work.thickness_px["v", "fluid"][7]
    retina_px = work.thickness_px["v", "retina"][7]
    np.testing.assert_array_equal(fluid_px, expected_px)
    np.testing.assert_allclose(retina_px, np.full(60, 56), atol=0.1)


@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        (None, None, (None, None, None)),
        (None, (4, 10), (4, 10, None)),
        ((3, 11), (4, 10, 120), (3, 11, 120)),
        ((3, 11, 99), None, (3, 11, 99)),
    ],
)
def test_a_scale_that_is_given_is_completed_by_the_source(tmp_path, given, known, expected):
    work = work_in(tmp_path, scale_um=given, fluid=Bright())
    scan = Scan("a", "a.png", picture, scale_um=known)
    work.run([Item("a.png", lambda notes: [scan])])
    (row,) = work.rows
    assert (row["axial_um"], row["lateral_um"], row["spacing_um"]) == expected


def test_what_cannot_be_read_is_skipped(tmp_path, capsys):
    def broken():
        raise InputError("b.png: not a readable image")

    def no_scans(notes):
        raise InputError("c.npy: not a readable array")

    scans = [Scan("a", "a.png", picture), Scan("b", "b.png", broken)]
    work = work_in(tmp_path, fluid=Bright())
    work.run([Item("in", lambda notes: scans), Item("c.npy", no_scans)])
    work.gather()
    assert [row["scan"] for row in work.rows] == ["a"]
    assert work.skipped == [
        {"source": "b.png", "reason": "not a readable image"},
        {"source": "c.npy", "reason": "not a readable array"},
    ]
    assert "skipped: b.png: not a readable image" in capsys.readouterr().err


def links_to(file: Path, count: int) -> Path:
    """A folder of so many links to a file."""
    folder = file.with_name(f"in{count}")
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.npy").symlink_to(file)
    return folder


def test_the_order_is_that_of_the_scans_whichever_thread_is_first(tmp_path, monkeypatch):
    """Early scans take longest to read and to draw; some cannot be read, drawn or opened."""
    overlay = Work._overlay

    def read(number: int) -> np.ndarray:
        time.sleep(0.02 / (1 + number))
        if number % 5 == 2:
            raise InputError(f"{number}.png: not a readable image")
        return picture(seed=number)

    def slow(work: Work, image, finding, row) -> np.ndarray:
        time.sleep(0.05 / (1 + row["order"]))
        if row["order"] % 5 == 4:
            raise InputError("cannot be drawn")
        return overlay(work, image, finding, row)

    def opened(numbers: range) -> list[Scan]:
        return [Scan(f"s{n:02d}", f"{n}.png", partial(read, n)) for n in numbers]

    def closed(notes: list[str]) -> list[Scan]:
        raise InputError("closed.npy: not a readable array")

    monkeypatch.setattr(Work, "_overlay", slow)
    items = [
        Item("first", lambda notes: opened(range(8))),
        Item("closed.npy", closed),
        Item("last", lambda notes: opened(range(8, 13))),
    ]
    work = work_in(tmp_path, fluid=Bright())
    work.run(items)
    work.gather()
    good = [number for number in range(13) if number % 5 not in (2, 4)]
    assert [row["scan"] for row in work.rows] == [f"s{number:02d}" for number in good]
    skipped = ["2.png", "4.png", "7.png", "closed.npy", "9.png", "12.png"]
    assert [fault["source"] for fault in work.skipped] == skipped


def test_next_scans_are_read_while_the_network_looks(tmp_path, monkeypatch):
    """A few, never all of them; and none is written before it was looked at."""
    events = []
    reading = threading.Event()

    def read(number: int) -> np.ndarray:
        events.append(("read", number))
        if number == 1:
            reading.set()
        return picture(seed=number)

    def look(model, image, tta, scale_um) -> torch.Tensor:
        assert reading.wait(10)  # the second scan is read before the first one is done
        number = sum(kind == "looked" for kind, _ in events)
        events.append(("looked", number))
        return torch.zeros(2, *image.shape)

    monkeypatch.setattr("dme.report.batch.class_probabilities", look)
    scans = [Scan(f"s{n:02d}", f"{n}.png", partial(read, n)) for n in range(30)]
    work = work_in(tmp_path, fluid=Bright())
    work.run([Item("in", lambda notes: scans)])
    for place, (kind, number) in enumerate(events):
        if kind == "read":
            looked = sum(other == "looked" for other, _ in events[:place])
            looking = min(torch.get_num_threads(), LOOKERS)
            assert number - looked <= AHEAD + looking + 1
    assert len(work.rows) == 30


def test_a_full_disk_ends_the_run_from_whichever_thread(tmp_path, monkeypatch):
    """No thread goes on, and nothing half-written stays."""
    save = batch.save_png

    def full(path: Path, pixels: np.ndarray, fast: bool) -> None:
        if path.name == "s03.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, pixels, fast)

    monkeypatch.setattr("dme.report.batch.save_png", full)
    scans = [Scan(f"s{n:02d}", f"{n}.png", partial(picture, seed=n)) for n in range(40)]
    work = work_in(tmp_path, fluid=Bright())
    with pytest.raises(OSError, match="No space left") as fault:
        work.run([Item("in", lambda notes: scans)])
    assert fault.value.errno == errno.ENOSPC
    assert [row["scan"] for row in work.rows] == ["s00", "s01", "s02"]
    written = len(list((tmp_path / "masks").iterdir()))
    assert written <= 3 + AHEAD + BEHIND
    assert not list(tmp_path.rglob("*.part"))
    assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]


def test_memory_stays_flat(tmp_path, monkeypatch):
    """50 more scans of 0.13 MB (in all 6 MB, as much for each step) leave only their rows."""
    image = phantom_bscan(5, 260, 500).image
    np.save(tmp_path / "one.npy", image)
    by_class = torch.from_numpy(np.stack([image] * 2) / np.float32(255))
    monkeypatch.setattr("dme.report.batch.class_probabilities", lambda *_: by_class)
    monkeypatch.setattr("dme.report.batch.save_png", lambda path, picture, fast: None)

    def peak_mb(folder: Path, count: int) -> float:
        items, _ = list_items([str(folder)])
        work = work_in(tmp_path / "out", fluid=Bright())
        tracemalloc.start()
        work.run(items)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(work.rows) == count
        return peak / 2**20

    # 15 are more than are on their way at once; how many are, the threads' chance decides
    few = links_to(tmp_path / "one.npy", 15)
    many = links_to(tmp_path / "one.npy", 65)
    peak_mb(few, 15)
    most_of_few = max(peak_mb(few, 15) for _ in range(3))
    assert peak_mb(many, 65) - most_of_few < 1


def test_columns_without_data_are_unknown_not_thin(tmp_path):
    """The rows that the network gives there meet: 0 px."""
    rows = flat()
    rows[:, :6] = 30
    image = with_cyst()
    image[:, :6] = 0
    image[:, -2:] = 255
    network = Knows([rows], fluid=True)
    work = work_in(tmp_path, fluid=network, layers=network)
    work.predict([Job(0, Scan("a", "a.npy", image.copy, volume="v", position=7))])
    (row,) = work.rows
    assert row["retina_thickness_px"] == pytest.approx(56, abs=0.1)
    unknown = [*range(6), 58, 59]
    for kind in ("fluid", "retina"):
        line = work.thickness_px["v", kind][7]
        assert np.flatnonzero(np.isnan(line)).tolist() == unknown
    lines = (tmp_path / "boundaries" / "a.csv").read_text().splitlines()[1:]
    assert [i for i, text in enumerate(lines) if "nan" in text] == unknown
