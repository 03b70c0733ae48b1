"""`predict --compare`: two visits by hand, and visits that must not be compared."""

import re

import numpy as np
import pytest
from helpers.knowing_networks import Knows
from helpers.scan_files import flat, indexed, picture, save

SCALE = ["--scale", "4,10,120"]
AREA_MM2 = 40 * 4 * 10 / 1e6  # of the fluid in one B-scan
VOLUME_MM3 = 40 * 4 * 10 * 120 / 1e9


@pytest.fixture
def visits(predict, tmp_path):
    """Results of two visits, each of 3 B-scans: first 40 px of fluid in each.

    Later there is none in the first B-scan and half of it in the second.
    """
    before = np.stack([picture(height=100, width=600)] * 3)
    after = before.copy()
    after[0, 10:15, 20:28] = 50
    after[1, 10:15, 20:24] = 50
    for name, stack in (("a", before), ("b", after)):
        file = save(tmp_path / f"{name}.npy", stack)
        predict(file, *SCALE, out=tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_comparison_by_hand(predict, visits, tmp_path):
    done = predict("--compare", *visits, out=tmp_path / "c")
    assert done.code == 0
    assert "-50.0" in done.printed
    rows = {(row["level"], row["place"]): row for row in done.table("comparison.csv")}
    assert len(rows) == 3 + 9 + 1

    # B-scans
    for place, a, b in [("0", 1, 0), ("1", 1, 0.5), ("2", 1, 1)]:
        row = rows["bscan", place]
        assert float(row["area_a_mm2"]) == pytest.approx(a * AREA_MM2)
        assert float(row["area_b_mm2"]) == pytest.approx(b * AREA_MM2)
        assert float(row["area_change_mm2"]) == pytest.approx((b - a) * AREA_MM2)
        assert row["volume_a_mm3"] == ""

    # the volume and its sectors
    total = rows["total", "all"]
    outer = rows["sector", "outer_left"]
    center = rows["sector", "center"]
    assert float(total["volume_change_mm3"]) == pytest.approx(-1.5 * VOLUME_MM3)
    assert float(total["change_percent"]) == pytest.approx(-50)
    assert float(outer["volume_change_mm3"]) == pytest.approx(-1.5 * VOLUME_MM3)
    assert float(center["volume_change_mm3"]) == 0
    assert center["change_percent"] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "4,11,120"], "lateral_um is 10.0 in volume a and 11.0 in a"),
        ([*SCALE, "--threshold", "0.3"], "threshold is 0.5 .* and 0.3 .*predict both"),
        ([*SCALE, "--eye", "OD"], "eye is None in volume a and OD"),
        ([], "axial_um is 4.0 in volume a and None"),
    ],
)
def test_other_settings_would_mislead(predict, visits, tmp_path, options, message):
    a, _ = visits
    other = predict(tmp_path / "a.npy", *options, out=tmp_path / "other").out
    done = predict("--compare", a, other, out=tmp_path / "c")
    assert done.code == 2
    assert re.search(message, done.errors), done.errors
    assert not done.has("comparison.csv")


def test_results_that_hold_nothing_to_compare(predict, visits, tmp_path):
    a, b = visits
    scan = save(tmp_path / "s.png", picture())
    single = predict(scan, out=tmp_path / "single").out
    done = predict("--compare", a, single, out=tmp_path / "c")
    assert done.code == 2
    assert "holds no volume" in done.errors

    flat_volume = predict(tmp_path / "a.npy", out=tmp_path / "flat").out
    done = predict("--compare", flat_volume, flat_volume, out=tmp_path / "c")
    assert done.code == 2
    assert "no ETDRS sectors: its scale is unknown" in done.errors
    assert "(predict both visits with --scale axial,lateral,spacing)" in done.errors

    (b / "measurements.json").write_text('{"finished": false}')
    done = predict("--compare", a, b, out=tmp_path / "c")
    assert done.code == 2
    assert "holds no results" in done.errors
    assert not done.has("comparison.csv")


@pytest.fixture
def thickness_visits(predict, tmp_path):
    """Results by name: layers, layers 28 um thicker, layers and fluid, fluid."""
    file = save(tmp_path / "eye.npy", [indexed(0, 80, 80)] * 5)
    arguments = [file, "--scale", "4,40,250", "--weights", "m", "--task"]
    folders = {}
    for name, extra_px, task in (
        ("thin", 0, "layers"),
        ("thick", 7, "layers"),
        ("both", 0, "both"),
        ("fluid", 0, "fluid"),
    ):
        networks = {"m": Knows([flat(extra_px, 80)], fluid=True)}
        done = predict(*arguments, task, out=tmp_path / name, networks=networks)
        assert done.code == 0
        folders[name] = done.out
    return folders


def test_comparison_of_thickness(predict, thickness_visits, tmp_path):
    folders = thickness_visits
    done = predict("--compare", folders["thin"], folders["thick"], out=tmp_path / "c")
    assert done.code == 0
    rows = {row["place"]: row for row in done.table("comparison.csv")}
    assert {row["level"] for row in rows.values()} == {"retina"}
    for place in ("center", "inner_left"):
        row = rows[place]
        assert float(row["retina_a_um"]) == pytest.approx(224, abs=0.4)
        assert float(row["retina_change_um"]) == pytest.approx(28, abs=0.4)
        assert float(row["change_percent"]) == pytest.approx(12.5, abs=0.2)


def test_what_both_visits_measured_is_compared(predict, thickness_visits, tmp_path):
    folders = thickness_visits
    done = predict("--compare", folders["both"], folders["both"], out=tmp_path / "c")
    levels = [row["level"] for row in done.table("comparison.csv")]
    assert levels.count("bscan") == 5
    assert "retina" in levels

    done = predict("--compare", folders["both"], folders["fluid"], out=tmp_path / "d")
    rows = done.table("comparison.csv")
    assert {row["level"] for row in rows} == {"bscan", "sector", "total"}
    assert "retina_a_um" not in rows[0]

    done = predict("--compare", folders["thin"], folders["fluid"], out=tmp_path / "e")
    assert done.code == 2
    assert "holds fluid, the other layers; predict both with one --task" in done.errors
