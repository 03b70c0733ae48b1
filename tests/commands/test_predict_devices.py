"""`predict` on files of devices, SYNTHETIC ones: scale, gaps, patterns, what is refused."""

import math

import numpy as np
import pytest
from helpers.vendor_files import AXIAL_MM, LATERAL_MM, Export, raster, write_vol, write_xml


def test_a_raster_is_measured_in_mm_by_its_own_scale(predict, tmp_path):
    path = write_vol(tmp_path / "a.vol", raster(bscans=4))
    done = predict(path)
    assert done.code == 0
    volume = done.volume()
    assert volume["eye"] == "OD" and volume["missing_bscans"] == "0"
    scale_mm = [float(volume[key]) / 1e3 for key in ("axial_um", "lateral_um", "spacing_um")]
    assert scale_mm == pytest.approx([AXIAL_MM, LATERAL_MM, 0.12])
    assert done.has("maps/a.png") and done.table("sectors.csv")[2]["sector"] == "inner_nasal"
    assert "Heidelberg .vol, raster of 4 B-scans of 40 x 60 px, OD" in done.page()
    # where its B-scans lie
    assert done.has("surfaces/a.png") and "En-face pictures of the device" in done.page()
    assert "surfaces/a.png" in done.results()["files"]


def test_pictures_that_are_missing_leave_their_gaps(predict, tmp_path):
    path = write_xml(tmp_path / "a", raster(bscans=6))
    for number in (2, 3, 6):
        (path.parent / f"B{number}.tif").unlink()
    done = predict(path.parent)
    assert done.code == 0
    volume = done.volume()
    counts = [volume[key] for key in ("bscans", "missing_bscans", "first_bscan", "last_bscan")]
    assert counts == ["3", "3", "0", "5"]
    assert [row["bscan"] for row in done.table()] == ["0", "3", "4"]
    assert "3 of its 6 B-scans have no picture" in done.printed
    assert "1 B-scans missing at the end of volumes" in done.printed


def test_a_contradictory_scale_is_refused_unless_one_is_given(predict, tmp_path):
    path = write_vol(tmp_path / "a.vol", raster(), lateral_mm=0.02)
    done = predict(path)
    assert done.code == 2
    assert "times 60 px is 1.200 mm, but B-scan 0 is 0.600 mm long" in done.errors
    assert "give the right one with --scale" in done.errors

    done = predict(path, "--scale", "4,10,120", out=tmp_path / "given")
    assert done.code == 0 and done.table()[0]["lateral_um"] == "10.0"
    assert "its scale, 4, 20, 120 µm, replaced by --scale (lateral 20 µm" in done.page()
    # without a spacing, that of the file must be right
    path = write_vol(tmp_path / "b.vol", raster(), spacing_mm=0.2)
    done = predict(path, "--scale", "4,10", out=tmp_path / "short")
    assert done.code == 2 and "spacing 200 um contradicts" in done.errors


def test_uneven_gaps_are_kept(predict, tmp_path):
    export = raster(bscans=4)
    places = []
    for y in (1.5, 1.4, 1.3, 0.9):
        places.append((0.3, y, 0.9, y))
    export.places = places
    done = predict(write_vol(tmp_path / "a.vol", export))
    assert "B-scans lie 100 to 400 um apart" in done.printed
    (volume,) = done.results()["volumes"]
    assert volume["bscan_rows"] == pytest.approx([0, 0.5, 1, 3])
    assert volume["spacing_um"] == pytest.approx(200)


@pytest.mark.parametrize("pattern", ["line", "circle", "radial", "turned"])
def test_what_is_no_raster_has_no_map(predict, tmp_path, pattern):
    width_mm = 60 * LATERAL_MM
    export = raster(bscans=1 if pattern in ("line", "circle") else 4)
    if pattern == "line":
        export = Export(export.pixels, [(0, 1, width_mm, 1)], pattern=1)
    elif pattern == "circle":
        export = Export(export.pixels, [(1 + width_mm / 2 / math.pi, 1, 1, 1)], pattern=2)
    elif pattern == "radial":
        export.pattern = 5
        angles = np.arange(4) * math.pi / 4
        export.places = [star(1.0, 1.0, width_mm, angle) for angle in angles.tolist()]
    else:
        export.places = [(y, x, end_y, end_x) for x, y, end_x, end_y in export.places]
    done = predict(write_vol(tmp_path / "a.vol", export))
    assert done.code == 0 and not done.has("maps") and not done.has("volumes.csv")
    assert len(done.table()) == len(export.pixels)
    said = "B-scans turned by -90 degrees" if pattern == "turned" else pattern
    assert said in done.page()


def star(x: float, y: float, length: float, angle: float) -> tuple[float, float, float, float]:
    right = length / 2 * math.cos(angle)
    down = length / 2 * math.sin(angle)
    return (x - right, y - down, x + right, y + down)


@pytest.mark.slow
def test_real_exports_end_with_maps_or_profiles(predict, vendor, tmp_path):
    drusen = predict(vendor / "heidelberg_xml" / "drusen", "--task", "layers+fluid", networks={})
    assert drusen.code == 0 and len(drusen.table()) == 11
    volume = drusen.volume()
    assert (volume["bscans"], volume["missing_bscans"]) == ("11", "134")
    assert float(volume["fluid_volume_mm3"]) > 0
    assert 250 < float(volume["central_subfield_thickness_um"]) < 350
    assert drusen.has("maps/OCT-Info.png") and drusen.has("retina_maps/OCT-Info.png")
    assert "134 of its 145 B-scans have no picture" in drusen.page()

    folder = vendor / "heidelberg_vol"
    out = tmp_path / "alone"
    alone = predict(
        folder / "line.vol", folder / "ring.vol", "--task", "layers", networks={}, out=out
    )
    assert alone.code == 0 and not alone.has("retina_maps")
    for name in ("line", "ring"):
        assert alone.has(f"profiles/{name}.png") and alone.has(f"surfaces/{name}.png")
    assert "mean distance from the device's ILM" in alone.printed

    for dummy in (folder / "raster_dummy.vol", vendor / "heidelberg_xml" / "dummy"):
        done = predict(dummy, networks=None, out=tmp_path / "dummy")
        assert done.code == 2 and "B-scan 0 is 6.051 mm long" in done.errors
