"""The page's viewer: what its scripts are given, and what the files of scans hold."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from helpers.viewer_pages import HEIGHT, WIDTH, scan_rows, write_viewer_page
from scipy import ndimage

from dme.data.phantom import phantom_bscan
from dme.drawing.canvas import save_png
from dme.drawing.html import Column
from dme.report.scan_files import write_values
from dme.report.viewer import flags_of, viewer_content


def test_values_come_back_from_their_script(tmp_path):
    generator = np.random.default_rng(0)
    mask = generator.integers(0, 2, (5, 7)).astype(np.uint8)
    rows = generator.normal(size=(8, 7)).astype(np.float32)
    rows[2, 3] = np.nan
    name = "a</script>\u2028é"
    write_values(tmp_path / "a.js", name, {"mask": mask, "rows": rows, "truth": None})

    text = (tmp_path / "a.js").read_bytes().decode("ascii")
    record = json.loads(re.fullmatch(r"dme\.receive\((.*)\);\n", text)[1])
    assert record.keys() == {"name", "mask", "rows"}
    assert record["name"] == name
    stored = {key: zlib.decompress(base64.b64decode(record[key])) for key in ("mask", "rows")}
    np.testing.assert_array_equal(np.frombuffer(stored["mask"], "u1").reshape(5, 7), mask)
    np.testing.assert_array_equal(np.frombuffer(stored["rows"], "<f4").reshape(8, 7), rows)


COLUMNS = [Column("fluid_area_mm2", "fluid mm²", 4)]


def test_intervals_and_flags_of_rows_are_shown(tmp_path):
    rows = scan_rows(2)
    rows[0] |= {"fluid_area_low_mm2": 0.25, "fluid_area_high_mm2": 0.75}
    rows[1] |= {"fluid_area_low_mm2": None, "fluid_area_high_mm2": None}
    rows[1] |= {"doubt": "dim; thin (below 100 um); odd"}
    content = viewer_content(tmp_path, rows, [], COLUMNS, "fluid_area_mm2")
    area, low, high = content["columns"]
    assert area["interval"] == ["fluid_area_low_mm2", "fluid_area_high_mm2"]
    assert (low["key"], low["title"], low["digits"]) == (
        "fluid_area_low_mm2",
        "fluid area low mm²",
        4,
    )
    assert high["key"] == "fluid_area_high_mm2"
    assert content["scans"][0]["numbers"]["fluid_area_low_mm2"] == 0.25
    assert content["scans"][1]["numbers"]["fluid_area_high_mm2"] is None
    assert content["scans"][1]["flags"] == ["dim", "thin (below 100 µm)", "odd"]
    assert flags_of(rows[0]) == []


def test_the_list_has_pixels_of_scans_without_scale(tmp_path):
    rows = scan_rows(1)
    rows[0] |= {"fluid_area_mm2": None, "fluid_px": 77}
    content = viewer_content(tmp_path, rows, [], COLUMNS, "fluid_area_mm2")
    assert content["columns"][0]["inPx"] == "fluid_px"
    assert content["scans"][0]["numbers"] == {"fluid_area_mm2": None, "fluid_px": 77}


def test_the_scan_with_most_opens_first(tmp_path):
    rows = scan_rows(3)
    for row, area_mm2 in zip(rows, (0.1, 0.3, None), strict=True):
        row["fluid_area_mm2"] = area_mm2
    assert viewer_content(tmp_path, rows, [], COLUMNS, "fluid_area_mm2")["first"] == 1


def test_files_of_a_volume_stay_below_40_mb(tmp_path):
    scan = phantom_bscan(5)
    noise = np.random.default_rng(0).normal(0, 3, scan.image.shape)
    probability = (ndimage.gaussian_filter(scan.fluid * 255.0, 4) + noise).clip(0, 255)
    values = {"mask": scan.fluid, "probability": probability.astype(np.uint8)}
    values |= {"rows": scan.layers, "truth": scan.fluid, "truth_rows": scan.layers}
    assert scan.image.shape == (496, 768)
    save_png(tmp_path / "a.png", scan.image, fast=True)
    write_values(tmp_path / "a.js", "a", values)
    used = sum((tmp_path / name).stat().st_size for name in ("a.png", "a.js"))
    assert used * 61 < 40_000_000


def test_page_of_two_thousand_scans_stays_small(tmp_path):
    page = write_viewer_page(tmp_path, scan_rows(2000), with_files=1)
    assert page.stat().st_size < 200_000
    assert (tmp_path / "viewer" / "scans.js").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["</script><b>", "a'b\"c&d", "100%#?"])
def test_names_stay_names(tmp_path, name):
    rows = scan_rows(1)
    rows[0]["scan"] = name
    rows[0]["doubt"] = "dim"
    page = write_viewer_page(tmp_path, rows, with_files=1)
    text = page.read_text(encoding="utf-8")
    assert name not in text.replace("100%#?", "")
    scripts = (tmp_path / "viewer" / "scans.js").read_text(encoding="utf-8")
    content = json.loads(scripts.removeprefix("dme.start(").removesuffix(");\n"))
    assert content["scans"][0]["name"] == name
    assert (content["scans"][0]["width"], content["scans"][0]["height"]) == (WIDTH, HEIGHT)
