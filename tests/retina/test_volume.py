"""Areas, regions, maps and volumes by hand."""

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.retina.fluid import CONNECTIVITY, measure_scan
from dme.retina.volume import enface_map, measure_volume, rows_of_gaps, volume_mm3


def test_scan_by_hand():
    mask = np.zeros((8, 10), np.uint8)
    mask[1:3, 1:4] = 1  # 6 px
    mask[3, 4] = 1  # touches it at a corner
    mask[6, 8] = 1  # alone
    probability = np.where(mask == 1, 0.75, 0.25).astype(np.float32)
    probability[6, 8] = 0.95
    measured = measure_scan(mask, probability, (3.87, 11.33, 123.0))
    assert measured["fluid_px"] == 8
    assert measured["regions"] == 2
    assert measured["largest_region_px"] == 7
    assert measured["fluid_area_mm2"] == pytest.approx(8 * 0.00387 * 0.01133)
    assert measured["largest_region_mm2"] == pytest.approx(7 * 0.00387 * 0.01133)
    assert measured["mean_fluid_probability"] == pytest.approx((7 * 0.75 + 0.95) / 8)
    assert measure_scan(mask, probability, (3.87, 11.33)) == measured  # areas need no spacing


@pytest.mark.parametrize("mirrored", [False, True])
def test_regions_are_connected_as_the_results_say(mirrored):
    """8-connected: at sides and at all four corners; what lies a pixel apart is another region."""
    mask = np.zeros((6, 9), np.uint8)
    mask[[0, 1, 2, 1, 0], [0, 1, 2, 3, 4]] = 1  # a V of corners
    mask[0, 6] = mask[1, 6] = mask[4, 6] = 1
    if mirrored:
        mask = mask[::-1, ::-1]
    measured = measure_scan(mask, mask.astype(np.float32), None)
    assert CONNECTIVITY == 8
    assert measured["regions"] == 3
    assert measured["largest_region_px"] == 5


def test_scan_without_scale_or_without_fluid():
    ones = np.ones((4, 5), np.uint8)
    measured = measure_scan(ones, ones * 0.5, None)
    assert measured["fluid_px"] == 20
    assert measured["fluid_area_mm2"] is measured["largest_region_mm2"] is None
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
    columns = {7: np.array([8, 0]), 3: np.array([0, 4]), 4: np.array([2, 4])}
    nan = np.nan
    expected = [[nan, nan], [0, 4], [2, 4], [4, 8 / 3], [6, 4 / 3], [8, 0], [nan, nan]]
    np.testing.assert_allclose(enface_map(columns, first=2, last=8), expected)


def test_equal_gaps_change_nothing_and_unequal_ones_are_kept():
    assert rows_of_gaps(None) is None and rows_of_gaps([30, 31, 30, 29]) is None
    assert rows_of_gaps([30, 60, 30]) == [0, 0.75, 2.25, 3]
    # a ramp over the real distance stays one, and what lies under it is kept
    rows_at = rows_of_gaps([10, 20, 60, 30])
    ramp = {position: np.array([rows_at[position]]) for position in range(5)}
    ramp_map = enface_map(ramp, 0, 4, rows_at)
    np.testing.assert_allclose(ramp_map[1:4, 0], [1, 2, 3], atol=1e-9)
    thickness = {0: [0.0], 1: [6.0], 2: [2.0], 3: [4.0], 4: [0.0]}
    columns = {position: np.array(value) for position, value in thickness.items()}
    inner = enface_map(columns, 0, 4, rows_at)[1:4].sum()
    fine = np.interp((np.arange(3000) + 0.5) / 1000 + 0.5, rows_at, [0, 6, 2, 4, 0])
    assert inner == pytest.approx(fine.mean() * 3, rel=0.02)


# ---- volumes ----------------------------------------------------------------------------------


class Volume:
    """Volume "v" with these fluid pixels per column, by position."""

    def __init__(self, columns_px, axial_um=4.0, lateral_um=10.0, spacing_um=100.0):
        self.rows = []
        self.columns = {}
        for position, column_px in columns_px.items():
            self.columns[position] = np.array(column_px, np.int32)
            row = {
                "volume": "v",
                "bscan": position,
                "height_px": 50,
                "width_px": len(column_px),
                "fluid_px": sum(column_px),
                "axial_um": axial_um,
                "lateral_um": lateral_um,
                "spacing_um": spacing_um,
            }
            self.rows.append(row)

    def measure(self, span, **options):
        """Its numbers and its map."""
        numbers, maps = measure_volume(self.rows, {"fluid": self.columns}, span, **options)
        return numbers, maps["fluid"]


def test_volume_is_area_times_spacing():
    volume = Volume({0: [1, 2, 3], 1: [0, 0, 6], 2: [5, 0, 0]})
    numbers, thickness = volume.measure((0, 2))
    area_mm2 = 17 * 4 * 10 / 1e6
    assert numbers["fluid_volume_mm3"] == pytest.approx(area_mm2 * 0.1)
    assert numbers["fluid_px"] == 17
    assert numbers["bscans"] == 3 and numbers["missing_bscans"] == 0
    np.testing.assert_array_equal(thickness, [[4, 8, 12], [0, 0, 24], [20, 0, 0]])
    assert (numbers["fovea_column"], numbers["fovea_bscan"]) == (1, 1)
    # 30 x 300 um lie in the central circle whole
    assert numbers["sectors"][0]["volume_mm3"] == pytest.approx(numbers["fluid_volume_mm3"])


def test_missing_scans_are_shared_by_their_neighbours():
    numbers, _ = Volume({10: [10], 13: [4], 14: [0]}).measure((10, 14))
    # of two missing scans each neighbour takes one: 10 stands for two spacings, 13 for two
    expected_px = 2 * 10 + 2 * 4
    assert numbers["fluid_volume_mm3"] == pytest.approx(expected_px * 4 * 10 * 100 / 1e9)
    assert numbers["missing_bscans"] == 2


def test_volume_with_less_scale():
    columns_px = {0: [1, 2], 1: [3, 4]}
    flat, thickness = Volume(columns_px, spacing_um=None).measure((0, 1))
    assert flat["fluid_volume_mm3"] is None and flat["sectors"] == []
    assert thickness.max() == 16
    bare, thickness = Volume(columns_px, None, None, None).measure((0, 1))
    assert bare["fluid_volume_mm3"] is None and bare["fluid_px"] == 10
    assert thickness.max() == 4


@pytest.fixture
def blob():
    """30 B-scans of 200 columns with 7 px of fluid at column 110 of B-scan 25."""
    columns_px = {position: [0] * 200 for position in range(30)}
    columns_px[25][110] = 7
    return Volume(columns_px, lateral_um=20.0)


BLOB_MM3 = 7 * 4 * 20 * 100 / 1e9


def test_fovea_moves_the_sectors(blob):
    centred, _ = blob.measure((0, 29), eye="OS")
    volumes = {row["sector"]: row["volume_mm3"] for row in centred["sectors"]}
    assert volumes["inner_superior"] == pytest.approx(BLOB_MM3)
    moved, _ = blob.measure((0, 29), eye="OS", fovea=(110, 25))
    assert moved["sectors"][0]["volume_mm3"] == pytest.approx(BLOB_MM3)


@pytest.mark.parametrize("outside", [(200, 5), (5, 30), (-1, 5)])
def test_fovea_outside_leaves_no_sectors(blob, outside):
    numbers, _ = blob.measure((0, 29), fovea=outside)
    assert numbers["sectors"] == []
    assert numbers["fluid_volume_mm3"] == pytest.approx(BLOB_MM3)


@pytest.mark.parametrize("key, value", [("height_px", 51), ("axial_um", 5.0)])
def test_volume_of_unlike_scans_is_refused(key, value):
    volume = Volume({0: [1], 1: [1]})
    volume.rows[1][key] = value
    with pytest.raises(InputError, match="v: its B-scans differ in size or scale"):
        volume.measure((0, 1))


def test_volume_skips_unknown_cells():
    thickness_um = np.array([[np.nan, 10.0], [5.0, np.nan]])
    assert volume_mm3(thickness_um, 20.0, 100.0) == pytest.approx(15 * 2000 / 1e9)
