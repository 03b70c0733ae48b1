"""`predict --compare`: two visits by hand, and visits that must not be compared."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.knowing_networks import Knows
from helpers.pixels import is_colour
from helpers.scan_files import flat, indexed, picture, save
from PIL import Image
from scipy import ndimage

from dme.common.errors import InputError
from dme.common.files import SEAL, sealed, unsealed
from dme.drawing.enface import CHANGE_COLOURS
from dme.report.compare import compare

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


def test_a_comparison_replaces_nothing(predict, visits, tmp_path):
    out = tmp_path / "c"
    out.mkdir()
    (out / "comparison.csv").write_text("mine")
    for folder in ("c-2", "c-3"):  # nor does it replace an earlier one
        done = predict("--compare", *visits, out=out)
        assert done.code == 0
        assert (
            f"{out} holds other results or files: writing into {tmp_path / folder}" in done.printed
        )
        assert done.out == tmp_path / folder and done.has("comparison.html")
    assert [path.name for path in out.iterdir()] == ["comparison.csv"]
    assert (out / "comparison.csv").read_text() == "mine"


@pytest.mark.parametrize(
    "option", [["--eye", "OD"], ["--overwrite"], ["--weights", "x"], ["--scale", "4,10"]]
)
def test_what_a_comparison_cannot_heed_is_refused(predict, visits, tmp_path, option):
    done = predict("--compare", *visits, *option, out=tmp_path / "c")
    assert done.code == 2
    assert "error: --compare takes results as they are, and beside them --out alone" in done.errors
    assert not done.out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--scale", "4,11,120"],
            "lateral_um is 10.0 in volume a and 11.0 in a; predict both vis",
        ),
        ([*SCALE, "--threshold", "0.3"], "threshold is 0.5 .* and 0.3 .*predict both"),
        (
            [*SCALE, "--eye", "OD"],
            "eye is unknown in volume a and OD in a; compare visits of one eye, .* its --eye",
        ),
        ([], "axial_um is 4.0 in volume a and unknown in a; predict both visits with one --scale"),
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
    shutil.copytree(flat_volume, tmp_path / "again")
    done = predict("--compare", flat_volume, tmp_path / "again", out=tmp_path / "c")
    assert done.code == 2
    assert "no ETDRS sectors: its scale is unknown" in done.errors
    assert "(predict both visits with --scale axial,lateral,spacing)" in done.errors

    (b / "measurements.json").write_text('{"finished": false}')
    done = predict("--compare", a, b, out=tmp_path / "c")
    assert done.code == 2
    assert "holds no results" in done.errors
    assert not done.has("comparison.csv")


def test_one_folder_twice_is_refused(predict, visits, tmp_path):
    a, _ = visits
    (tmp_path / "link").symlink_to(a)
    for again in (a, f"{a}/", tmp_path / "link"):
        done = predict("--compare", a, again, out=tmp_path / "c")
        assert done.code == 2
        assert "one folder twice; give two visits" in done.errors
        assert not done.out.exists()


def test_damaged_results_are_refused_in_one_line(predict, visits, tmp_path):
    a, b = visits
    path = b / "measurements.json"
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    places = generator.integers(0, len(content), 60)
    cut = int(generator.integers(len(content)))
    damages = [b"", b"null", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, content[:cut]]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        damages.append(bytes(flipped))

    expected = compare(a, b).rows
    for damage in damages:
        path.write_bytes(damage)
        try:
            rows = compare(a, b).rows
        except InputError as e:
            assert "holds no results of ./run.sh predict" in str(e)
        else:
            assert rows == expected  # white space

    path.write_bytes(content.replace(b'"finished": true', b'"finished": True'))
    done = predict("--compare", a, b, out=tmp_path / "c")
    assert done.code == 2
    assert done.errors.count("\n") == 1

    # edited by hand
    path.write_bytes(content.replace(b'"fluid_px": 40', b'"fluid_px": 41', 1))
    done = predict("--compare", a, b, out=tmp_path / "c")
    assert done.code == 2
    assert "(no readable measurements.json: its checksum differs)" in done.errors


def test_results_that_another_program_wrote(visits):
    a, b = visits
    content = unsealed(json.loads((b / "measurements.json").read_text()))
    for key in ("scans", "volumes", "settings"):
        for value in (None, 3, "text", [None], {"a": 1}, [[1]]):
            (b / "measurements.json").write_text(json.dumps(content | {key: value}))
            with pytest.raises(InputError) as error:
                compare(a, b)
            assert "\n" not in str(error.value)


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
    shutil.copytree(folders["both"], tmp_path / "again")
    done = predict("--compare", folders["both"], tmp_path / "again", out=tmp_path / "c")
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


# ---- the page, the shift, damaged results -------------------------------------------------------
def test_comparison_has_a_page_with_maps(predict, thickness_visits, visits, tmp_path):
    done = predict("--compare", *visits, out=tmp_path / "c")
    page = (done.out / "comparison.html").read_text(encoding="utf-8")
    assert "<b>-0.0003 mm³</b><span>fluid</span>" in page
    assert str(tmp_path) not in page and f"<dd>{Path(visits[0]).name}</dd>" in page
    for name in ("A", "B", "B-A"):
        picture = np.asarray(Image.open(done.out / "comparison_maps" / f"0_fluid_{name}.png"))
        assert f'href="comparison_maps/0_fluid_{name}.png"' in page
        assert picture.shape[1] == 760
    # the change is blue: less
    blue = is_colour(picture, CHANGE_COLOURS[0])
    assert blue[64:-62, :640].any()
    assert not is_colour(picture[64:-62, :640], CHANGE_COLOURS[-1]).any()

    folders = thickness_visits
    done = predict("--compare", folders["thin"], folders["thick"], out=tmp_path / "d")
    page = (done.out / "comparison.html").read_text(encoding="utf-8")
    assert "<b>+28 µm</b><span>central subfield thickness</span>" in page
    assert "comparison_maps/0_retina_B-A.png" in page


def test_a_page_without_the_files_of_its_maps(predict, visits, tmp_path):
    shutil.rmtree(visits[0] / "masks")
    done = predict("--compare", *visits, out=tmp_path / "c")
    assert done.code == 0
    assert not done.has("comparison_maps")
    assert "Fluid of B-scans" in (done.out / "comparison.html").read_text(encoding="utf-8")


def vessels(first: int) -> list[np.ndarray]:
    """Six B-scans of an eye with vessels that run across them, from this one on."""
    noise = np.random.default_rng(0).normal(size=(20, 600))
    shadows = ndimage.gaussian_filter(noise, (1, 8))
    scans = []
    for line in shadows[first : first + 6]:
        scan = picture(height=80, width=600).astype(float)
        dark = 1 + 0.8 * line / np.abs(shadows).max()
        scan[20:] *= dark
        scans.append(scan.round().astype(np.uint8))
    return scans


def test_a_moved_eye_is_said(predict, tmp_path):
    for name, first in (("a", 4), ("b", 4), ("c", 5)):
        file = save(tmp_path / f"{name}.npy", vessels(first))
        predict(file, *SCALE, out=tmp_path / name)
    still = predict("--compare", tmp_path / "a", tmp_path / "b", out=tmp_path / "s")
    assert "a: the eye did not move (less than one B-scan, and 0 columns)" in still.printed
    moved = predict("--compare", tmp_path / "a", tmp_path / "c", out=tmp_path / "m")
    assert "a: MOVED: in B the eye lies at -1 B-scans (-120 um), +0 columns" in moved.printed
    page = (moved.out / "comparison.html").read_text(encoding="utf-8")
    assert "MOVED: in B the eye lies at -1 B-scans (-120 µm)" in page

    # what is not to be trusted is marked wherever it stands
    assert "other place" not in still.printed
    assert {row["same_place"] for row in still.table("comparison.csv")} == {"yes", ""}
    assert moved.printed.count("other place") == 6 + 9
    for row in moved.table("comparison.csv"):
        assert row["same_place"] == ("" if row["level"] == "total" else "no")
    assert "same place" in page

    # results without the picture that shows it
    (tmp_path / "a" / "enface" / "a.png").unlink()
    done = predict("--compare", tmp_path / "a", tmp_path / "c", out=tmp_path / "n")
    assert (
        "whether the eye moved between the visits is unknown (no en-face picture" in done.printed
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d["volumes"][0].pop("eye"), "a volume has no eye"),
        (lambda d: d["scans"][0].pop("fluid_area_mm2"), "fluid_area_mm2 of a scan of volume b"),
        (lambda d: d["scans"][1].update(fluid_area_mm2=None), "fluid_area_mm2 of a scan"),
        (lambda d: d["scans"][0].pop("volume"), "a scan has no volume"),
        (lambda d: d["scans"][0].update(bscan="0"), "bscan of a scan of volume b is no number"),
        (lambda d: d.update(volumes=[None]), "volumes are no list of tables"),
        (lambda d: d.update(scans=None), "scans are no list of tables"),
        (lambda d: d.update(settings=[]), "settings are no table"),
        (lambda d: d["volumes"][0].update(fluid_volume_mm3="1"), "fluid_volume_mm3 of volume b"),
        (lambda d: d["volumes"][0].update(first_bscan=True), "first_bscan of volume b"),
        (lambda d: d["volumes"][0].pop("sectors"), "sectors of volume b are not nine"),
        (lambda d: d["volumes"][0]["sectors"].pop(), "sectors of volume b are not nine"),
        (lambda d: d["volumes"][0]["sectors"][2].clear(), "a sector of volume b has no name"),
        (lambda d: d["volumes"][0]["sectors"][2].pop("volume_mm3"), "volume_mm3 of sector inner"),
    ],
)
def test_results_of_another_version_are_refused_in_one_line(
    predict, visits, tmp_path, damage, message
):
    path = visits[1] / "measurements.json"
    content = json.loads(path.read_text())
    del content[SEAL]
    damage(content)
    path.write_text(json.dumps(sealed(content)))
    done = predict("--compare", *visits, out=tmp_path / "c")
    assert done.code == 2
    (line,) = done.errors.splitlines()
    assert f"measurements.json: {message}" in line
    assert "predict this visit again" in line


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "[" * 100000])
def test_what_is_no_results_file_is_refused_in_one_line(predict, visits, tmp_path, content):
    (visits[1] / "measurements.json").write_text(content)
    done = predict("--compare", *visits, out=tmp_path / "c")
    assert done.code == 2
    assert "holds no results of ./run.sh predict" in done.errors


def test_comparison_says_when_the_precision_differs(predict, visits, tmp_path):
    a, b = visits
    content = unsealed(json.loads((b / "measurements.json").read_text()))
    assert content["settings"]["precision"] == "float32"
    del content["settings"]["precision"]  # as older results are
    (b / "measurements.json").write_text(json.dumps(content))
    assert "computed in" not in predict("--compare", a, b, out=tmp_path / "c").printed
    content["settings"]["precision"] = "bfloat16"
    (b / "measurements.json").write_text(json.dumps(content))
    printed = predict("--compare", a, b, out=tmp_path / "d").printed
    assert "fluid was computed in float32 in A and in bfloat16 in B" in printed
    assert "predict both with one --precision" in printed
