"""Volumes whose B-scans contradict each other: maps, tables and files after the comparison."""

import csv

import numpy as np
import pytest
from helpers.knowing_networks import Knows
from helpers.scan_files import flat, indexed

from dme.report.batch import Job, Work
from dme.report.doubts import JUMPING
from dme.report.mending import mending_lines
from dme.report.scans import Scan
from dme.report.volumes import measure_volumes
from dme.retina.rows import BOUNDARIES

BSCANS = 9
JUMPS = 3  # is 100 px thicker than the others
COLLAPSED = 6  # has no thickness at all
SCALE_UM = (4.0, 10.0, 120.0)


@pytest.fixture
def work(tmp_path):
    """Nine B-scans of an even retina of 56 px, two of which the network gets wrong."""
    rows = [flat() for _ in range(BSCANS)]
    rows[JUMPS] = flat(extra_px=100)
    rows[COLLAPSED] = np.repeat(flat()[3:4], len(BOUNDARIES), axis=0)
    network = Knows(rows)
    work = Work(tmp_path, {"layers": network}, 0.5, False, None)
    for position in range(BSCANS):
        image = indexed(position, height=200)
        scan = Scan(f"b{position}", "v", image.copy, "v", position, SCALE_UM)
        work.predict([Job(position, scan)])
        work.ranges["v"] = (0, BSCANS - 1)
    return work


def test_the_map_is_mended_from_the_neighbours(work):
    (volume,) = measure_volumes(work, None, None, [])
    assert volume["retina_thickness_um"] == pytest.approx(4 * 56, abs=1)
    assert volume["mended_percent"] == pytest.approx(100 * 2 / BSCANS)
    assert volume["left_out_percent"] == 0
    (line,) = mending_lines([volume])
    assert "22.2 % of the columns mended from neighbouring B-scans, 0.0 % left out" in line
    assert mending_lines([volume | {"mended_percent": 0.0}]) == []


def test_wrong_bscans_have_no_thickness_of_their_own(work):
    before = dict(work.rows[JUMPS])
    assert before["retina_thickness_px"] == pytest.approx(156, abs=1)
    assert work.rows[COLLAPSED]["retina_thickness_px"] is None  # known without neighbours
    measure_volumes(work, None, None, [])
    for position, row in enumerate(work.rows):
        wrong = position in (JUMPS, COLLAPSED)
        assert (row["retina_thickness_px"] is None) == wrong
        assert row["left_out_columns"] == (60 if wrong else 0)
        assert (JUMPING in row["doubt"]) == (position == JUMPS)
        with open(work.out / row["boundaries"]) as file:
            (_, *lines) = csv.reader(file)
        assert all(("nan" in line) == wrong for line in lines)


def test_bscans_of_other_widths_are_not_compared(work):
    work.thickness_px["v", "retina"][JUMPS] = np.full(50, 9.0)
    work.rows[JUMPS]["width_px"] = 50
    assert measure_volumes(work, None, None, []) == []
    assert "differ in size" in work.skipped[0]["reason"]
