"""What may be compared, and how changes are told."""

import json

import pytest

from dme.common.errors import InputError
from dme.report.compare import (
    COLUMNS,
    RETINA_COLUMNS,
    change_columns,
    change_lines,
    compare,
)


def test_thickness_that_one_visit_was_helped_to_is_not_compared(tmp_path):
    layers = {"layers_weights_sha256": "b" * 64, "tta": False}
    fluid = {"weights_sha256": "a" * 64, "threshold": 0.5}
    for visit, settings in (("a", layers | fluid), ("b", layers)):
        (tmp_path / visit).mkdir()
        content = {"finished": True, "settings": settings, "volumes": [], "scans": []}
        (tmp_path / visit / "measurements.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="weights_sha256 is aaa.* and None in .*b; predict both"):
        compare(tmp_path / "a", tmp_path / "b")


def test_results_of_an_unfinished_prediction_are_refused(tmp_path):
    content = {"finished": False, "settings": {}, "volumes": [], "scans": []}
    (tmp_path / "measurements.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="the prediction did not finish; run it again"):
        compare(tmp_path, tmp_path)


BSCAN = {
    "level": "bscan",
    "place": "3",
    "area_a_mm2": 0.5,
    "area_b_mm2": 0.25,
    "area_change_mm2": -0.25,
    "change_percent": -50.0,
}
RETINA = {
    "level": "retina",
    "place": "center",
    "retina_a_um": 0.0,
    "retina_b_um": 300.0,
    "retina_change_um": 300.0,
    "change_percent": None,
}


def test_columns_of_thickness_only_where_there_is_some():
    assert change_columns([BSCAN]) == COLUMNS
    assert change_columns([BSCAN, RETINA]) == COLUMNS + RETINA_COLUMNS


def test_lines_tell_the_unit_once_a_level():
    lines = [line.split() for line in change_lines([RETINA, BSCAN])]
    assert lines == [
        [],
        ["bscan", "A", "mm2", "B", "mm2", "change", "%"],
        ["3", "0.5000", "0.2500", "-0.2500", "-50.0"],
        [],
        ["retina", "A", "um", "B", "um", "change", "%"],
        ["center", "0.0000", "300.0000", "+300.0000", "-"],
    ]
