"""What may be compared, and how changes are told."""

import json

import pytest

from dme.common.errors import InputError
from dme.report.compare import (
    COLUMNS,
    RETINA_COLUMNS,
    Comparison,
    change_columns,
    change_lines,
    compare,
    same_place,
)
from dme.report.compare_page import headline_of
from dme.report.visits import Visit
from dme.retina.shift import Shift


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
    "same_place": "yes",
}
RETINA = {
    "level": "retina",
    "place": "center",
    "retina_a_um": 0.0,
    "retina_b_um": 300.0,
    "retina_change_um": 300.0,
    "change_percent": None,
    "same_place": "unknown",
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


def pair_of(bscans: float, columns: float) -> tuple[dict, dict]:
    """A volume at two visits, between which the sectors' centre moved so far."""
    at_a = {"volume": "eye", "fovea_column": 300.0, "fovea_bscan": 12.0}
    at_b = at_a | {"fovea_column": 300.0 + columns, "fovea_bscan": 12.0 + bscans}
    return at_a, at_b


@pytest.mark.parametrize(
    ("shift", "centre", "bscans_stay", "sectors_stay"),
    [
        ((0, 0), (0, 0), "yes", "yes"),
        ((0, 8), (0, 0), "yes", "yes"),
        ((0, 12), (0, 0), "no", "no"),
        ((-1, 0), (0, 0), "no", "no"),
        ((3, 40), (3.2, 36), "no", "yes"),  # the sectors moved along
        ((3, 40), (-3, -40), "no", "no"),
        ((0, 0), (0, 20), "yes", "no"),  # they moved, and the eye did not
        (None, (0, 0), "unknown", "unknown"),
    ],
)
def test_which_rows_show_one_place(shift, centre, bscans_stay, sectors_stay):
    shift = None if shift is None else Shift(*shift, correlation=1.0)
    pair = pair_of(*centre)
    assert same_place("bscan", shift, pair) == bscans_stay
    assert same_place("sector", shift, pair) == same_place("retina", shift, pair) == sectors_stay
    assert same_place("total", shift, pair) is None


def test_what_another_place_shows_is_marked_and_makes_no_headline():
    (other,) = change_lines([RETINA | {"same_place": "no"}])[2:]
    assert other.endswith("  other place")
    assert "other place" not in "".join(change_lines([RETINA, BSCAN]))

    nobody = Visit("a", {}, [], [])
    for place, number in (("yes", "+300 µm"), ("unknown", "+300 µm"), ("no", "unknown")):
        rows = [RETINA | {"same_place": place}]
        comparison = Comparison(nobody, nobody, ["retina"], [pair_of(0, 0)], [None], rows)
        ((title, shown),) = headline_of(comparison)
        assert shown == number
        assert title.endswith("the eye moved") == (place == "no")
