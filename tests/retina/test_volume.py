"""Areas, regions, maps and volumes by hand."""

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.retina.fluid import measure_scan
from dme.retina.volume import SCALE, enface_map, measure_volume, volume_mm3


def test_scan_by_hand():
    mask = np.zeros((8, 10), np.uint8)
    mask[1:3, 1:4] = 1  # 6 px
    mask[3, 4] = 1  # touches it at a corner
    mask[6, 8] = 1  # alone
    probability = np.where(mask == 1, 0.75, 0.25).astype(np.float32)
    probability[6, 8] = 0.95
    found = measure_scan(mask, probability, (3.87, 11.33, 123.0))
    assert (found["fluid_px"], found["regions"], found["largest_region_px"]) == (8, 2, 7)
    assert found["fluid_area_mm2"] == pytest.approx(8 * 0.00387 * 0.01133)
    assert found["largest_region_mm2"] == pytest.approx(7 * 0.00387 * 0.01133)
    assert found["mean_fluid_probability"] == pytest.approx((7 * 0.75 + 0.95) / 8)
    assert measure_scan(mask, probability, (3.87, 11.33)) == found  # areas need no spacing


def test_scan_without_scale_or_without_fluid():
    ones = np.ones((4, 5), np.uint8)
    found = measure_scan(ones, ones * 0.5, None)
    assert (
        found["fluid_px"] == 20 and found["fluid_area_mm2"] is found["largest_region_mm2"] is None
    )
    dry = measure_scan(ones * 0, ones * 0.5, (2.0, 3.0))
    assert dry == {
        "fluid_px": 0,
        "fluid_area_mm2": 0,
        "regions": 0,
        "largest_region_px": 0,
        "largest_region_mm2": 0,
        "mean_fluid_probability": None,
    }


def test_map_interpolates_between_scans_only():
    found = enface_map(
        {7: np.array([8, 0]), 3: np.array([0, 4]), 4: np.array([2, 4])}, first=2, last=8
    )
    nan = np.nan
    expected = [[nan, nan], [0, 4], [2, 4], [4, 8 / 3], [6, 4 / 3], [8, 0], [nan, nan]]
    np.testing.assert_allclose(found, expected)


def scans(counts: dict[int, list[int]], scale=(4.0, 10.0, 100.0), height=50):
    """Rows and columns of a volume "v" with these fluid pixels per column."""
    columns = {position: np.array(line, np.int32) for position, line in counts.items()}
    rows = [
        {
            "volume": "v",
            "bscan": position,
            "height_px": height,
            "width_px": len(line),
            "fluid_px": sum(line),
        }
        | dict(zip(SCALE, scale, strict=True))
        for position, line in counts.items()
    ]
    return rows, columns


def measured(rows, columns, *arguments, **options):
    found, maps = measure_volume(rows, {"fluid": columns}, *arguments, **options)
    return found, maps["fluid"]


def test_volume_is_area_times_spacing():
    rows, columns = scans({0: [1, 2, 3], 1: [0, 0, 6], 2: [5, 0, 0]})
    found, thickness = measured(rows, columns, (0, 2))
    areas_mm2 = [sum(line) * 4 * 10 / 1e6 for line in columns.values()]
    assert found["fluid_volume_mm3"] == pytest.approx(sum(areas_mm2) * 0.1)
    assert found["fluid_px"] == 17 and found["bscans"] == 3 and found["missing_bscans"] == 0
    np.testing.assert_array_equal(thickness, [[4, 8, 12], [0, 0, 24], [20, 0, 0]])
    assert (found["fovea_column"], found["fovea_bscan"]) == (1, 1)
    # 30 x 300 um lie in the central circle whole
    assert found["sectors"][0]["volume_mm3"] == pytest.approx(found["fluid_volume_mm3"])


def test_missing_scans_are_shared_by_their_neighbours():
    rows, columns = scans({10: [10], 13: [4], 14: [0]})
    found, _ = measured(rows, columns, (10, 14))
    # of two missing scans each neighbour takes one: 10 stands for two spacings, 13 for two
    assert found["fluid_volume_mm3"] == pytest.approx((2 * 10 + 2 * 4) * 4 * 10 * 100 / 1e9)
    assert found["missing_bscans"] == 2


def test_volume_with_less_scale():
    counts = {0: [1, 2], 1: [3, 4]}
    flat, thickness = measured(*scans(counts, scale=(4.0, 10.0, None)), (0, 1))
    assert flat["fluid_volume_mm3"] is None and flat["sectors"] == [] and thickness.max() == 16
    bare, thickness = measured(*scans(counts, scale=(None, None, None)), (0, 1))
    assert bare["fluid_volume_mm3"] is None and bare["fluid_px"] == 10 and thickness.max() == 4


def test_fovea_moves_the_sectors_or_lies_outside():
    rows, columns = scans({i: [0] * 200 for i in range(30)}, scale=(4.0, 20.0, 100.0))
    columns[25][110] = rows[25]["fluid_px"] = 7
    volume = 7 * 4 * 20 * 100 / 1e9
    centred, _ = measured(rows, columns, (0, 29), eye="OS")
    assert {s["sector"]: s["volume_mm3"] for s in centred["sectors"]}[
        "inner_superior"
    ] == pytest.approx(volume)
    moved, _ = measured(rows, columns, (0, 29), eye="OS", fovea=(110, 25))
    assert moved["sectors"][0]["volume_mm3"] == pytest.approx(volume)
    for outside in ((200, 5), (5, 30), (-1, 5)):
        found, _ = measured(rows, columns, (0, 29), fovea=outside)
        assert found["sectors"] == [] and found["fluid_volume_mm3"] == pytest.approx(volume)


def test_volume_of_unlike_scans_is_refused():
    for key, value in (("height_px", 51), ("axial_um", 5.0)):
        rows, columns = scans({0: [1], 1: [1]})
        rows[1][key] = value
        with pytest.raises(InputError, match="v: its B-scans differ in size or scale"):
            measured(rows, columns, (0, 1))


def test_volume_skips_unknown_cells():
    assert volume_mm3(np.array([[np.nan, 10.0], [5.0, np.nan]]), 20.0, 100.0) == pytest.approx(
        15 * 2000 / 1e9
    )
