"""Tables: their columns by task, and what stands in the files."""

import numpy as np
import pytest
from helpers.scan_files import files, flat
from helpers.scripts import column, table

from dme.common.tasks import TASKS
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.report.tables import rounded, sectors_of, write_csv, write_rows, write_tables


@pytest.mark.parametrize("columns", [SCAN_COLUMNS, VOLUME_COLUMNS])
def test_both_tasks_together_have_the_columns_of_each(columns):
    assert columns.keys() == TASKS.keys()
    for names in columns.values():
        assert len(set(names)) == len(names)
    alone = set(columns["fluid"]) | set(columns["layers"])
    extra = set(columns["layers+fluid"]) - alone
    assert alone <= set(columns["layers+fluid"])
    assert all(name.startswith("fluid_") for name in extra)  # in which layer it lies


def test_what_has_no_column_is_left_out_and_unknown_is_empty(tmp_path):
    rows = [{"a": 1, "b": None, "c": 3}, {"a": "x, y"}]
    write_csv(tmp_path / "t.csv", ("a", "b"), rows)
    first, second = table(tmp_path / "t.csv")
    assert first == {"a": "1", "b": ""}
    assert second == {"a": "x, y", "b": ""}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_text_is_never_a_formula(tmp_path, name):
    write_csv(
        tmp_path / "t.csv", ("scan", "change_percent"), [{"scan": name, "change_percent": -3}]
    )
    (row,) = table(tmp_path / "t.csv")
    assert row["scan"].startswith("'")
    assert row["change_percent"] == "-3"  # a number is a number


def test_numbers_have_the_decimals_that_mean_something(tmp_path):
    row = {
        "fluid_area_mm2": 0.00026308260000000003,
        "fluid_volume_mm3": 3.2359159800000004e-05,
        "retina_thickness_um": 287.34567,
        "covered_percent": 99.9999,
        "mean_fluid_probability": 0.987654,
        "area_change_mm2": -0.0,
        "axial_um": 3.8699999999999997,
        "fluid_px": 6,
        "sectors": [{"mean_um": -0.0001}],
    }
    expected = {
        "fluid_area_mm2": 0.000263,
        "fluid_volume_mm3": 3.236e-05,
        "retina_thickness_um": 287.35,
        "covered_percent": 100.0,
        "mean_fluid_probability": 0.9877,
        "area_change_mm2": 0.0,
        "axial_um": 3.87,
        "fluid_px": 6,
        "sectors": [{"mean_um": 0.0}],
    }
    assert rounded(row) == expected
    assert str(rounded(row)["area_change_mm2"]) == "0.0"
    assert str(rounded(row)["sectors"][0]["mean_um"]) == "0.0"


def test_a_line_for_each_column_of_the_image(tmp_path):
    rows = flat(width=4)
    rows[0, 2] = np.nan
    write_rows(tmp_path / "rows.csv", rows)
    lines = table(tmp_path / "rows.csv")
    assert tuple(lines[0]) == ROW_COLUMNS
    assert column(lines, "column") == ["0", "1", "2", "3"]
    assert column(lines, "ilm_px") == ["9.500", "9.500", "nan", "9.500"]
    assert column(lines, "rpe_choroid_px") == ["65.500"] * 4


def test_tables_are_written_for_what_there_is(tmp_path):
    sector = {"sector": "center", "covered_percent": 100, "mean_um": 300, "volume_mm3": 0.2}
    volumes = [{"volume": "v", "retina_sectors": [sector]}, {"volume": "w"}]
    assert sectors_of(volumes, "retina_sectors") == [{"volume": "v", **sector}]
    write_tables(tmp_path / "single", TASKS["layers"], [{"scan": "s"}], [])
    write_tables(tmp_path / "volumes", TASKS["layers"], [{"scan": "s"}], volumes)

    assert files(tmp_path / "single") == {"measurements.csv"}
    assert files(tmp_path / "volumes") == {
        "measurements.csv",
        "retina_sectors.csv",
        "volumes.csv",
    }
    (line,) = table(tmp_path / "volumes" / "retina_sectors.csv")
    assert tuple(line) == SECTOR_COLUMNS
    assert line["mean_um"] == "300"
