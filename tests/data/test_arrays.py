"""Arrays in .npy files: read part by part, axes told apart, files that shrink meanwhile."""

import numpy as np
import pytest

from dme.common.errors import InputError
from dme.data import arrays
from dme.data.arrays import check_axes, open_npy
from dme.data.phantom import phantom_set
from dme.report.scans import open_array
from dme.retina.recognise import is_inverted


@pytest.fixture(scope="module")
def volume():
    """Twelve B-scans of a made-up eye, (12, 496, 768)."""
    return np.stack([scan.image for scan in phantom_set(subjects=1, scans_per_subject=12)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "v.npy"


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("rows", [slice(None), slice(None, None, 31)])
def test_other_orders_of_axes_are_refused(path, volume, axis, rows):
    moved = np.moveaxis(volume[:, rows], 0, axis)
    np.save(path, moved)
    with pytest.raises(InputError) as caught:
        open_array(path, [])
    message = str(caught.value)
    assert f"shape {moved.shape} would be" in message
    assert f"save np.moveaxis(array, {axis - 3}, 0)" in message
    # as advised
    right = np.moveaxis(moved, axis - 3, 0)
    assert right.shape[0] == 12


@pytest.mark.parametrize("size", [(496, 192, 128), (200, 200, 200)])
def test_axes_are_told_by_their_numbers_where_shapes_may_be_any(path, size):
    """B-scans of a cube: smooth along two axes, unlike each other along the third."""
    count = size[2]
    smooth = np.add.outer(np.arange(size[0]), np.arange(size[1])) % 97
    cube = smooth[..., None] + np.random.default_rng(0).integers(0, 100, count)
    np.save(path, cube.astype(np.uint8))
    with pytest.raises(InputError, match=r"looks like \(height, width, B-scans\)"):
        open_array(path, [])
    np.save(path, np.moveaxis(cube, 2, 0).astype(np.uint8))
    assert len(open_array(path, [])) == count


def test_usual_volumes_are_read(path, volume):
    for shape in [(61, 496, 768), (128, 885, 512), (200, 1024, 200), (3, 40, 60), (1, 496, 768)]:
        check_axes(path, shape)
    for stack in (volume, volume[:, :, :400], np.repeat(volume[:1], 9, axis=0)):
        check_axes(path, stack.shape, stack)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_volumes_in_colour(path, channels):
    grey = np.random.default_rng(0).integers(0, 90, (3, 40, 60)).astype(np.uint8)
    np.save(path, np.repeat(grey[..., None], channels, axis=3))
    scans = open_array(path, [])
    assert [scan.position for scan in scans] == [0, 1, 2]
    for scan, pixels in zip(scans, grey, strict=True):
        np.testing.assert_array_equal(scan.read(), pixels)
    np.save(path, np.repeat(grey[:, None], 3, axis=1))
    with pytest.raises(InputError, match="channels last"):
        open_array(path, [])


@pytest.mark.parametrize("order", "CF")
def test_parts_are_those_of_the_array(path, order):
    numbers = np.random.default_rng(0).integers(0, 4096, (5, 33, 40)).astype(">u2")
    np.save(path, np.asarray(numbers, order=order))
    stored = open_npy(path)
    np.testing.assert_array_equal(stored.read(), numbers)
    for i, part in enumerate(numbers):
        np.testing.assert_array_equal(stored.read_part(i), part)


def test_12_bits_in_16_and_a_hot_pixel(path):
    numbers = np.random.default_rng(0).integers(0, 4096, (3, 40, 60)).astype(np.uint16)
    numbers[1, 3, 4] = 65535
    np.save(path, numbers)
    notes = []
    scans = open_array(path, notes)
    expected = np.minimum(np.rint(numbers * (255 / 4095)), 255)
    for scan, pixels in zip(scans, expected, strict=True):
        np.testing.assert_array_equal(scan.read(), pixels)
    assert any("uint16 values scaled by 255/4095" in note for note in notes)


def test_a_file_that_shrinks_is_refused_in_words(path):
    np.save(path, np.full((30, 64, 64), 60, np.uint8))
    scans = open_array(path, [])
    with open(path, "r+b") as file:
        file.truncate(5000)
    assert scans[0].read().shape == (64, 64)
    with pytest.raises(InputError, match="v.npy: ends early"):
        scans[29].read()
    with pytest.raises(InputError, match="v.npy: not a readable .npy array"):
        open_array(path, [])


def test_black_on_white_is_seen(path, volume):
    """`predict` refuses it unless it is forced (tests/commands/test_predict_odd.py)."""
    np.save(path, 255 - volume)
    scan = open_array(path, [])[0].read()
    np.testing.assert_array_equal(scan, 255 - volume[0])
    assert is_inverted(scan)


def test_other_arrays_are_refused(path, monkeypatch):
    np.save(path, np.zeros((4, 5), complex))
    with pytest.raises(InputError, match="holds complex128"):
        open_npy(path)
    np.save(path, np.zeros((0, 5, 5)))
    with pytest.raises(InputError, match="holds no pixels"):
        open_npy(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="expected numbers"):
        open_npy(path)
    np.save(path, np.eye(40, dtype=bool))
    with pytest.raises(InputError, match="true and false, a mask"):
        open_array(path, [])[0].read()
    np.save(path, np.zeros((40, 50)))
    monkeypatch.setattr(arrays, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="save fewer B-scans in a file"):
        open_npy(path).read()
