"""Maps and B-scans on the device's picture of the eye's surface, by hand."""

import dataclasses

import numpy as np
import pytest
from helpers.vendor_files import raster, write_vol

from dme.data.volume_files import open_volume
from dme.drawing.surface import READ, Trace, surface_picture
from dme.report.surfaces import on_surface, traces_of


@pytest.mark.parametrize("superior_first", [False, True])
def test_a_map_lies_where_its_bscans_do(tmp_path, superior_first):
    """Pixels of 0.1 mm; B-scans from 0.3 to 0.9 mm across, at 1.5, 1.3 ... 0.9 mm down."""
    export = raster(bscans=4, spacing_mm=0.2)
    if superior_first:
        export.places.reverse()
    record = open_volume(write_vol(tmp_path / "a.vol", export))
    assert record.superior_first is superior_first
    values = np.arange(4)[:, None] * 100.0 + np.arange(60)  # inferior first
    surface = on_surface(values, record)
    assert surface.shape == (20, 20)
    # middles of pixels: 0.35 mm across is column 5, 1.45 mm down is nearest to the B-scan at 1.5
    assert surface[14, 3] == 5 and surface[14, 8] == 55
    assert surface[13, 3] == 105 and surface[9, 3] == 305
    assert np.isnan(surface[[5, 17], 5]).all() and np.isnan(surface[10, [2, 9]]).all()
    assert np.isfinite(surface).sum() == 6 * 8


def test_bscans_are_drawn_in_their_places(tmp_path):
    record = open_volume(write_vol(tmp_path / "a.vol", raster(bscans=3)))
    record = dataclasses.replace(record, available=(0, 2))
    traces = traces_of(record)
    assert [trace.read for trace in traces] == [True, False, True]
    assert traces[1].start_mm == pytest.approx((0.3, 1.38))
    picture = surface_picture(np.zeros((20, 20), np.uint8), (100, 100), traces, "a")
    green = (np.abs(picture.astype(int) - READ).sum(axis=2) < 90).nonzero()
    # 640 px are 2 mm, 24 px left and 56 px above of the picture
    down_mm = (green[0] - 56) / 320
    across_mm = (green[1] - 24) / 320
    assert set(down_mm.round(1)) == {1.3, 1.5}
    assert across_mm.min() == pytest.approx(0.3, abs=0.02)
    assert across_mm.max() == pytest.approx(0.9, abs=0.02)


def test_a_circle_and_its_fluid():
    circle = Trace((0.5, 1), (1, 1), circle=True)
    fluid_um = np.zeros((20, 20))
    fluid_um[10, 10] = 50
    black = np.zeros((20, 20), np.uint8)
    dry = surface_picture(black, (100, 100), [circle], "a", fluid_um * 0).astype(int)
    wet = surface_picture(black, (100, 100), [circle], "a", fluid_um).astype(int)
    for x, y in ((0.5, 1), (1.5, 1), (1, 0.5), (1, 1.5)):
        assert dry[56 + round(y * 320), 24 + round(x * 320)].sum() > 100
    changed = (np.abs(wet - dry).sum(axis=2) > 200).nonzero()
    inside = changed[0] < 690  # above the legend
    assert ((changed[0][inside] - 56) / 320).mean() == pytest.approx(1.05, abs=0.02)
    assert ((changed[1][inside] - 24) / 320).mean() == pytest.approx(1.05, abs=0.02)
