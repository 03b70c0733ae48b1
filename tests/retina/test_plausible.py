"""Retinas without thickness, cut by the frame, or jumping between B-scans."""

import numpy as np
import pytest
from helpers.scan_files import flat

from dme.retina.plausible import impossible_columns, mend

WIDTH = 60


def lines(thickness_um=300.0, bscans=9) -> dict[int, np.ndarray]:
    """Thickness of B-scans 3, 4, ..., which rises by 2 um from each to the next."""
    return {3 + i: np.full(WIDTH, thickness_um + 2 * i) for i in range(bscans)}


def test_columns_in_which_no_retina_can_be():
    rows = flat()  # 56 px thick, from row 9.5
    assert not impossible_columns(rows, 100, 4.0).any()
    rows[:, :5] = 20  # boundaries that meet
    rows[:, 5] = np.nan  # unknown is not impossible
    rows[0, 6] = -0.5  # cut by the frame above
    rows[7, 7] = 99  # and below
    expected = [True] * 5 + [False, True, True] + [False] * 52
    assert impossible_columns(rows, 100, 4.0).tolist() == expected
    assert impossible_columns(rows, 100, None).tolist() == expected


def test_a_smooth_volume_stays_as_it_is():
    given = lines()
    given[5][10:20] = np.nan
    mended = mend(given, 120.0)
    for position, line in given.items():
        np.testing.assert_array_equal(mended.lines[position], line)
        assert not mended.mended[position].any()
        assert not mended.left_out[position].any()


@pytest.mark.parametrize("wrong_um", [0.0, 5.0, 150.0, 420.0])
def test_a_bscan_unlike_its_neighbours_is_mended(wrong_um):
    given = lines()
    given[7][:] = wrong_um
    mended = mend(given, 120.0)
    np.testing.assert_allclose(mended.lines[7], 308.0)
    assert mended.mended[7].all()
    assert mended.jumping[7].all() == (wrong_um >= 20)
    for position in given:
        assert not mended.left_out[position].any()
        assert position == 7 or not mended.mended[position].any()


def test_two_wrong_bscans_beside_each_other_are_mended():
    given = lines()
    given[7][:30] = 0
    given[8][:30] = 100
    mended = mend(given, 120.0)
    np.testing.assert_allclose(mended.lines[7][:30], 308.0)
    np.testing.assert_allclose(mended.lines[8][:30], 310.0)
    np.testing.assert_allclose(mended.lines[7][50:], 308.0)


def test_what_no_neighbour_tells_is_left_out():
    """At the end of a volume, where neighbours differ, and where they are far away."""
    given = lines()
    given[3][:] = 0
    at_end = mend(given, 120.0)
    assert at_end.left_out[3].all()
    assert np.isnan(at_end.lines[3]).all()

    given = lines()
    for position in (8, 9, 10, 11):
        given[position][:] = 500
    given[7][:] = 0
    assert mend(given, 120.0).left_out[7].all()
    far = lines()
    far[7][:] = 0
    assert mend(far, 450.0).left_out[7].all()
    assert mend(far, 120.0).mended[7].all()


def test_an_oedema_is_no_jump():
    """A hump of 300 um within a millimetre, as steep as any."""
    given = lines(bscans=25)
    for position, line in given.items():
        line += 300 * np.exp(-(((position - 15) * 120 / 500) ** 2))
    mended = mend(given, 120.0)
    assert not any(columns.any() for columns in mended.mended.values())
    assert not any(columns.any() for columns in mended.left_out.values())


def test_few_neighbours_tell_nothing():
    given = lines(bscans=4)
    given[5][:] = 420
    mended = mend(given, 120.0)
    assert not mended.mended[5].any()
    np.testing.assert_array_equal(mended.lines[5], given[5])
