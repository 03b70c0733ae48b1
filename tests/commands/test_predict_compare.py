"""`predict --compare`: two visits by hand, and visits that must not be compared."""

import re

import numpy as np
import pytest
from helpers.knowing_networks import Knows
from helpers.scan_files import flat, indexed, picture, save
from helpers.scripts import table


@pytest.fixture
def visits(script, tmp_path):
    """Two results: 40 px of fluid in each of 3 B-scans, later none in the first and a part in the second."""
    before = np.stack([picture(width=600)] * 3)
    after = before.copy()
    after[0, 10:15, 20:28] = 50
    after[1, 10:15, 20:24] = 50
    for name, stack in (("a", before), ("b", after)):
        script(save(tmp_path / f"{name}.npy", stack), "--scale", "4,10,120", out=tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_comparison_by_hand(script, visits, tmp_path, capsys):
    code, out = script("--compare", *visits, out=tmp_path / "c")
    assert code == 0
    rows = {(row["level"], row["place"]): row for row in table(out / "comparison.csv")}
    assert len(rows) == 3 + 9 + 1
    area, volume = 40 * 4 * 10 / 1e6, 40 * 4 * 10 * 120 / 1e9
    for place, a, b in [("0", 1, 0), ("1", 1, 0.5), ("2", 1, 1)]:
        row = rows["bscan", place]
        assert float(row["area_a_mm2"]) == pytest.approx(a * area)
        assert float(row["area_b_mm2"]) == pytest.approx(b * area)
        assert float(row["area_change_mm2"]) == pytest.approx((b - a) * area)
        assert row["volume_a_mm3"] == ""
    total = rows["total", "all"]
    assert float(total["volume_change_mm3"]) == pytest.approx(-1.5 * volume)
    assert float(total["change_percent"]) == pytest.approx(-50)
    assert float(rows["sector", "outer_left"]["volume_change_mm3"]) == pytest.approx(-1.5 * volume)
    center = rows["sector", "center"]
    assert (float(center["volume_change_mm3"]), center["change_percent"]) == (0, "")
    assert "-50.0" in capsys.readouterr().out


def test_comparisons_that_would_mislead(script, visits, tmp_path, capsys):
    a, b = visits
    stack, good = tmp_path / "a.npy", ["--scale", "4,10,120"]
    for name, arguments, text in [
        ("scale", [stack, "--scale", "4,11,120"], "lateral_um is 10.0 in volume a and 11.0 in a"),
        (
            "threshold",
            [stack, *good, "--threshold", "0.3"],
            "threshold is 0.5 .* and 0.3 .*predict both",
        ),
        ("eye", [stack, *good, "--eye", "OD"], "eye is None in volume a and OD"),
        ("flat", [stack], "axial_um is 4.0 in volume a and None"),
        ("single", [save(tmp_path / "s.png", picture())], "holds no volume"),
    ]:
        script(*arguments, out=tmp_path / name)
        capsys.readouterr()
        code, _ = script("--compare", a, tmp_path / name, out=tmp_path / "c")
        stderr = capsys.readouterr().err
        assert code == 2 and re.search(text, stderr), stderr
    flat = tmp_path / "flat"
    assert script("--compare", flat, flat, out=tmp_path / "c")[0] == 2
    assert "no ETDRS sectors: its scale is unknown" in capsys.readouterr().err
    (b / "measurements.json").write_text('{"finished": false}')
    assert script("--compare", a, b, out=tmp_path / "c")[0] == 2
    assert "holds no results" in capsys.readouterr().err
    assert not (tmp_path / "c" / "comparison.csv").exists()


def test_comparison_of_thickness(script, tmp_path, capsys):
    file = save(tmp_path / "eye.npy", [indexed(0, 80, 64)] * 5)
    arguments = [file, "--scale", "4,50,250", "--weights", "m", "--task"]
    for name, extra_px, task in (
        ("a", 0, "layers"),
        ("b", 7, "layers"),
        ("c", 0, "both"),
        ("d", 0, "fluid"),
    ):
        network = {"m": Knows([flat(extra_px, 64)], fluid=True)}
        assert script(*arguments, task, out=tmp_path / name, networks=network)[0] == 0
    code, out = script(
        "--compare", tmp_path / "a", tmp_path / "b", out=tmp_path / "ab", networks={}
    )
    assert code == 0
    rows = {row["place"]: row for row in table(out / "comparison.csv")}
    assert {row["level"] for row in rows.values()} == {"retina"}
    for place in ("center", "inner_left"):
        row = rows[place]
        assert float(row["retina_a_um"]) == pytest.approx(224, abs=0.4)
        assert float(row["retina_change_um"]) == pytest.approx(28, abs=0.4)
        assert float(row["change_percent"]) == pytest.approx(12.5, abs=0.2)
    _, out = script("--compare", tmp_path / "c", tmp_path / "c", out=tmp_path / "cc", networks={})
    levels = [row["level"] for row in table(out / "comparison.csv")]
    assert {level: levels.count(level) for level in levels}["bscan"] == 5 and "retina" in levels
    _, out = script("--compare", tmp_path / "c", tmp_path / "d", out=tmp_path / "cd", networks={})
    mixed = table(out / "comparison.csv")
    assert {row["level"] for row in mixed} == {
        "bscan",
        "sector",
        "total",
    } and "retina_a_um" not in mixed[0]
    capsys.readouterr()
    assert (
        script("--compare", tmp_path / "a", tmp_path / "d", out=tmp_path / "ad", networks={})[0]
        == 2
    )
    assert "holds fluid, the other layers; predict both with one --task" in capsys.readouterr().err
