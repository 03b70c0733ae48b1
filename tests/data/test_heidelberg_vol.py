import math

import numpy as np
import pytest
from helpers.vendor_files import (
    AXIAL_MM,
    LATERAL_MM,
    NO_DATA,
    PLANTED,
    SPACING_MM,
    Export,
    raster,
    write_vol,
)

from dme.common.errors import InputError
from dme.data.heidelberg_vol import to_display
from dme.data.volume_files import open_volume
from dme.data.volume_scale import scale_fault
from dme.retina.wedge import saturated_wedge


def test_a_raster_is_read_as_it_was_written(tmp_path):
    export = raster(bscans=4)
    volume = open_volume(write_vol(tmp_path / "a.vol", export))
    assert (volume.bscans, volume.shape, volume.available) == (4, (40, 60), (0, 1, 2, 3))
    assert volume.pattern == "raster" and volume.eye == "OD" and not volume.superior_first
    scale_um = [1e3 * AXIAL_MM, 1e3 * LATERAL_MM, 1e3 * SPACING_MM]
    assert volume.scale_um == pytest.approx(scale_um)
    assert volume.gaps_um == pytest.approx([1e3 * SPACING_MM] * 3)
    assert scale_fault(volume) is None
    for index in range(4):
        expected = np.rint(255 * export.pixels[index].astype(np.float64) ** 0.25)
        assert np.abs(volume.read(index) - expected).max() <= 1
    assert np.array_equal(volume.enface.read(), export.enface)
    assert volume.enface.scale_um == pytest.approx((100, 100))
    assert volume.date == PLANTED["exam"]
    for key in ("patient", "visit", "birth", "exam", "time"):
        assert PLANTED[key] in volume.private
        assert PLANTED[key] not in repr(volume)


def test_layers_of_the_device(tmp_path):
    export = raster(bscans=2)
    known = np.full(60, 12.5)
    known[:5] = NO_DATA
    export.lines = {0: known, 1: np.full(60, 30.0), 2: np.full(60, NO_DATA)}
    lines = open_volume(write_vol(tmp_path / "a.vol", export)).lines(1)
    assert list(lines) == ["ILM", "BM"]
    assert np.isnan(lines["ILM"][:5]).all() and (lines["ILM"][5:] == 12.5).all()
    assert (lines["BM"] == 30).all()


def test_pixels_without_data_at_the_border_are_a_wedge():
    pixels = np.full((40, 60), 0.5, np.float32)
    pixels[:8, 20:30] = NO_DATA
    pixels[-3:, :4] = np.nan
    grey = to_display(pixels)
    assert np.array_equal(saturated_wedge(grey), ~(pixels < 1))
    assert (grey[pixels < 1] == round(255 * 0.5**0.25)).all()


def test_what_is_no_reflectivity_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 to 200, expected reflectivity 0 to 1"):
        to_display(np.linspace(0, 200, 100, dtype=np.float32).reshape(10, 10))
    export = raster()
    export.pixels -= 1
    with pytest.raises(InputError, match="a.vol: B-scan 2: pixels -0.9"):
        open_volume(write_vol(tmp_path / "a.vol", export)).read(2)


def test_a_circle_is_known_by_its_length(tmp_path):
    width_mm = 60 * LATERAL_MM
    radius_mm = width_mm / 2 / math.pi
    pixels = raster(bscans=1).pixels
    circle = Export(pixels, [(1 - radius_mm, 1, 1, 1)], pattern=2)
    volume = open_volume(write_vol(tmp_path / "circle.vol", circle))
    assert volume.pattern == "circle" and volume.gaps_um is None
    assert len(volume.scale_um) == 2 and scale_fault(volume) is None
    line = Export(pixels, [(0, 1, width_mm, 1)], pattern=1)
    volume = open_volume(write_vol(tmp_path / "line.vol", line))
    assert volume.pattern == "line" and scale_fault(volume) is None


def test_contradictions_and_damage_are_one_line(tmp_path):
    path = tmp_path / "a.vol"
    export = raster()
    for changed, message in (
        ({"pattern": 2}, "says that it is a circle scan, but its B-scans lie as: raster"),
        ({"width": 61}, "expected|does not begin"),
        ({"height": 1 << 29}, "B-scans of 536870912 x 60 px"),
        ({"bscans": 5}, "cut short or damaged"),
        ({"bscans": 1 << 30}, "cut short or damaged"),
        ({"bscans": -1}, "-1 B-scans"),
        ({"lateral_mm": math.nan}, "nan"),
    ):
        write_vol(path, export, **changed)
        with pytest.raises(InputError, match=message) as error:
            open_volume(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    content = write_vol(path, export).read_bytes()
    for length in (0, 100, 2047, 3000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cut short"):
            open_volume(path)


def test_a_scale_that_contradicts_the_places_is_a_fault(tmp_path):
    path = tmp_path / "a.vol"
    export = raster()
    for changed, message in (
        ({"lateral_mm": 0.02}, "times 60 px is 1.200 mm, but B-scan 0 is 0.600 mm long"),
        ({"spacing_mm": 0.2}, "spacing 200 um contradicts"),
        ({"axial_mm": 0.05}, "axial 50 um cannot be"),
    ):
        assert message in scale_fault(open_volume(write_vol(path, export, **changed)))
