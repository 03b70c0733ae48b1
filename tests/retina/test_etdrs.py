"""The ETDRS grid: areas against geometry, sides of each eye, sampling, unknown cells."""

import math

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.retina.etdrs import sector_areas_mm2, sector_names, sector_shares, sector_table

SPECTRALIS = dict(lateral_um=11.33, spacing_um=123.0)  # 768 columns, 61 B-scans: 8.7 x 7.5 mm
CENTRE = (383.5, 30)


def table(thickness, eye=None, centre=CENTRE, **scale):
    """Rows of `sector_table` by sector."""
    rows = sector_table(thickness, **(scale or SPECTRALIS), centre=centre, eye=eye)
    return {row["sector"]: row for row in rows}


def test_areas():
    areas = sector_areas_mm2()
    assert areas[0] == pytest.approx(math.pi / 4)  # disc of 1 mm
    assert areas[1:5] == pytest.approx([math.pi / 2] * 4)  # (9 - 1) / 4 quarter rings of pi / 4
    assert areas[5:] == pytest.approx([math.pi * 27 / 16] * 4)
    assert sum(areas) == pytest.approx(math.pi * 9)


def test_shares_cover_the_disc_once_and_match_the_areas():
    shares = sector_shares((61, 768), **SPECTRALIS, centre=CENTRE)
    assert shares.shape == (9, 61, 768)
    assert shares.min() == 0
    assert shares.max() == 1
    total = shares.sum(0)
    y, x = np.mgrid[:61, :768]
    radius_mm = np.hypot((x - CENTRE[0]) * 0.01133, (y - CENTRE[1]) * 0.123)
    assert total[radius_mm < 2.93] == pytest.approx(1)  # a cell reaches 0.062 mm from its middle
    assert (total[radius_mm > 3.07] == 0).all()
    measured_mm2 = shares.sum((1, 2)) * 0.01133 * 0.123
    np.testing.assert_allclose(measured_mm2, sector_areas_mm2(), rtol=5e-3)


def test_constant_thickness():
    found = table(np.full((61, 768), 100.0))
    assert list(found) == sector_names()
    for row, area_mm2 in zip(found.values(), sector_areas_mm2(), strict=True):
        assert row["mean_um"] == pytest.approx(100)
        assert row["volume_mm3"] == pytest.approx(0.1 * area_mm2, rel=5e-3)
        assert row["covered_percent"] == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize(
    "eye, right, left",
    [("OD", "nasal", "temporal"), ("OS", "temporal", "nasal"), (None, "right", "left")],
)
def test_sides(eye, right, left):
    # 1 mm from the fovea lies the inner ring, 2 mm the outer one
    cells = {
        "center": (30, 383),
        f"inner_{right}": (30, 472),  # 88 columns away
        f"inner_{left}": (30, 295),
        "inner_superior": (38, 383),  # 8 B-scans away; the last one is the highest
        "inner_inferior": (22, 383),
        f"outer_{right}": (30, 560),
        f"outer_{left}": (30, 206),
        "outer_superior": (46, 383),
        "outer_inferior": (14, 383),
    }
    for sector, cell in cells.items():
        thickness = np.zeros((61, 768))
        thickness[cell] = 50
        volumes = {name: row["volume_mm3"] for name, row in table(thickness, eye).items()}
        assert volumes.pop(sector) == pytest.approx(50 * 11.33 * 123 / 1e9)
        assert set(volumes.values()) == {0}


def test_the_grid_follows_the_fovea():
    thickness = np.zeros((61, 768))
    thickness[10:13, 100:130] = 80
    volume_mm3 = 90 * 80 * 11.33 * 123 / 1e9
    moved = table(thickness, centre=(114.5, 11))
    assert moved["center"]["volume_mm3"] == pytest.approx(volume_mm3)
    assert table(thickness)["center"]["volume_mm3"] == 0


def hill(bscans, columns):
    """Table of a smooth hill of 3 mm in a map of 8 x 8 mm, off the centre."""
    y, x = np.mgrid[:bscans, :columns]
    x_mm = (x + 0.5) * 8 / columns - 4
    y_mm = (y + 0.5) * 8 / bscans - 4
    distance = (x_mm - 1) ** 2 + (y_mm - 0.4) ** 2
    thickness = 200 * np.exp(-distance / 1.5)
    scale = dict(lateral_um=8000 / columns, spacing_um=8000 / bscans)
    return table(thickness, centre=((columns - 1) / 2, (bscans - 1) / 2), **scale)


def test_same_hill_sampled_differently():
    fine = hill(400, 400)
    coarse = hill(64, 512)
    for name in sector_names():
        expected = fine[name]["volume_mm3"]
        assert coarse[name]["volume_mm3"] == pytest.approx(expected, rel=0.02)


def test_unknown_cells_are_not_covered():
    thickness = np.full((61, 768), 100.0)
    thickness[:, 384:] = np.nan  # the right half
    sectors = table(thickness)
    right = sectors["inner_right"]
    centre = sectors["center"]
    left = sectors["inner_left"]
    assert right["covered_percent"] == 0 and right["mean_um"] is None
    assert centre["covered_percent"] == pytest.approx(50, abs=1)
    assert centre["mean_um"] == pytest.approx(100)
    assert centre["volume_mm3"] == pytest.approx(0.1 * math.pi / 8, rel=0.02)
    assert left["covered_percent"] == pytest.approx(100, abs=0.5)


def test_map_smaller_than_the_grid():
    scale = dict(lateral_um=10.0, spacing_um=50.0)  # 1 x 1 mm
    sectors = table(np.full((20, 100), 10.0), centre=(49.5, 9.5), **scale)
    assert sectors["center"]["covered_percent"] == pytest.approx(100, abs=0.5)
    corner_mm2 = (1 - math.pi / 4) / 4
    expected = 100 * corner_mm2 / (math.pi / 2)
    assert sectors["inner_left"]["covered_percent"] == pytest.approx(expected, abs=0.3)
    assert sectors["outer_left"]["covered_percent"] == 0


def test_unknown_eye():
    with pytest.raises(InputError, match="'left'.*OD or OS"):
        sector_names("left")
