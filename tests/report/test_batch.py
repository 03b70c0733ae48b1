"""Many scans: what one leaves, how scales complete each other, and that memory stays flat."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Bright, Knows
from helpers.page_files import scan_files
from helpers.scan_files import files, flat, indexed, picture

from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.report.batch import Work
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
    work.predict_scan(0, Scan("a", "a.png", with_cyst))
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
    work.predict_scan(0, Scan("a", "a.npy", deep.copy, volume="v", position=0))
    work.predict_scan(1, Scan("b", "b.npy", deep.copy, volume="v", position=1))
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
    work.predict_scan(0, Scan("a", "a.npy", with_cyst, volume="v", position=7))
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


def test_memory_stays_flat(tmp_path, monkeypatch):
    """50 more scans of 0.13 MB (in all 6 MB, as much for each step) leave only their rows."""
    image = phantom_bscan(5, 260, 500).image
    np.save(tmp_path / "one.npy", image)
    by_class = torch.from_numpy(np.stack([image] * 2) / np.float32(255))
    monkeypatch.setattr("dme.report.batch.class_probabilities", lambda *_: by_class)
    monkeypatch.setattr("dme.report.batch.save_png", lambda path, picture, fast: None)

    def peak_mb(count: int) -> float:
        items, _ = list_items([str(links_to(tmp_path / "one.npy", count))])
        work = work_in(tmp_path / "out", fluid=Bright())
        tracemalloc.start()
        work.run(items)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(work.rows) == count
        return peak / 2**20

    peak_mb(1)
    few = peak_mb(5)
    many = peak_mb(55)
    assert many - few < 1


def test_columns_without_data_are_unknown_not_thin(tmp_path):
    """The rows that the network gives there meet: 0 px."""
    rows = flat()
    rows[:, :6] = 30
    image = with_cyst()
    image[:, :6] = 0
    image[:, -2:] = 255
    network = Knows([rows], fluid=True)
    work = work_in(tmp_path, fluid=network, layers=network)
    work.predict_scan(0, Scan("a", "a.npy", image.copy, volume="v", position=7))
    (row,) = work.rows
    assert row["retina_thickness_px"] == pytest.approx(56, abs=0.1)
    unknown = [*range(6), 58, 59]
    for kind in ("fluid", "retina"):
        line = work.thickness_px["v", kind][7]
        assert np.flatnonzero(np.isnan(line)).tolist() == unknown
    lines = (tmp_path / "boundaries" / "a.csv").read_text().splitlines()[1:]
    assert [i for i, text in enumerate(lines) if "nan" in text] == unknown
