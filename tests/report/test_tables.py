"""Tables: their columns by task, and what stands in the files."""

import numpy as np
import pytest
from helpers.scan_files import files, flat
from helpers.scripts import column, table

from dme.common.tasks import TASKS
from dme.report.columns import ROW_COLUMNS, SCAN_COLUMNS, SECTOR_COLUMNS, VOLUME_COLUMNS
from dme.report.tables import sectors_of, write_csv, write_rows, write_tables


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
