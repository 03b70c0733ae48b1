import numpy as np
import pytest
from helpers.vendor_files import NO_DATA, raster, write_vol

from dme.report.device_layers import device_distances, distance_lines
from dme.report.scans import Scan, open_device_file


def test_distance_from_the_devices_lines_where_it_has_them(tmp_path):
    export = raster(bscans=2)
    bm = np.full(60, 30.0)
    bm[:20] = NO_DATA
    export.lines = {0: np.full(60, 12.5), 1: bm}
    scans = open_device_file(write_vol(tmp_path / "a.vol", export), [])
    boundaries = np.tile(np.linspace(12, 33, 8)[:, None], (1, 60))
    boundaries[0, :3] = np.nan
    rows = [device_distances(scan, boundaries) for scan in scans]
    expected = {
        "device_ilm_px": 0.5,
        "device_ilm_columns": 57,
        "device_bm_px": 3.0,
        "device_bm_columns": 40,
    }
    assert rows[0] == rows[1] == pytest.approx(expected)
    lines = distance_lines([*rows, {"scan": "of no device"}])
    assert lines == [
        "mean distance from the device's ILM: 0.50 px (114 columns of 2 scans)",
        "mean distance from the device's BM: 3.00 px (80 columns of 2 scans)",
    ]
    assert device_distances(Scan("a", "a.png", lambda: None), boundaries) == {}


def test_scans_that_a_person_corrected_are_left_out():
    rows = [
        {"device_ilm_px": 2.0, "device_ilm_columns": 10},
        {"device_ilm_px": None, "device_ilm_columns": None},
    ]
    (line,) = distance_lines(rows)
    assert "2.00 px (10 columns of 1 scans)" in line
    assert not distance_lines(rows[1:])
