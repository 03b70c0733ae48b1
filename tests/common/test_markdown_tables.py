"""Tables in Markdown, by hand."""

import numpy as np
import pytest

from dme.common.tables import fewest_to_most, mean_sd, table_head, table_line, write_table


def test_lines_of_a_table(tmp_path):
    lines = [*table_head(["eye", "", "Dice"]), table_line([np.int64(3), "", "0.5000"])]
    assert lines == ["| eye |  | Dice |", "|---|---|---|", "| 3 |  | 0.5000 |"]
    write_table(tmp_path / "runs" / "table.md", "mm² ± 1\n")
    assert (tmp_path / "runs" / "table.md").read_bytes() == "mm² ± 1\n".encode()
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["table.md"]


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        ([], ""),
        ([0.12346], "0.1235"),
        ([1.0, 3.0], "2.0000 ± 1.4142"),
        (np.ones(2), "1.0000 ± 0.0000"),
    ],
)
def test_mean_and_standard_deviation(values, cell):
    assert mean_sd(values) == cell


@pytest.mark.parametrize(("counts", "cell"), [([3], "3"), ([2, 2], "2"), ({3, 1, 2}, "1-3")])
def test_how_many_runs(counts, cell):
    assert fewest_to_most(counts) == cell
