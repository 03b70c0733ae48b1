"""Images: grey values of any kind as uint8, and files that are refused."""

import numpy as np
import pytest
from helpers.scanfolder import GREY, read_scans, refused, save
from PIL import Image

from dme.data.images import read_grey, to_grey_uint8
from dme.data.opening import open_source

NOTHING = np.zeros_like(GREY)


def test_grey_images_are_unchanged():
    grey, how = to_grey_uint8(GREY)
    np.testing.assert_array_equal(grey, GREY)
    assert how == ""


def test_colour_becomes_luma():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    grey, how = to_grey_uint8(rgb)
    assert np.abs(grey - rgb @ [0.299, 0.587, 0.114]).max() <= 0.51
    assert "luma" in how and "alpha" not in how


def test_alpha_is_dropped():
    grey, how = to_grey_uint8(np.dstack([GREY, GREY, GREY, NOTHING]))
    np.testing.assert_array_equal(grey, GREY)
    assert "luma" in how and "alpha dropped" in how
    grey, how = to_grey_uint8(np.dstack([GREY, NOTHING]))
    np.testing.assert_array_equal(grey, GREY)
    assert how == "alpha dropped"


@pytest.mark.parametrize(
    "values, peak, expected, white",
    [
        ([0, 257, 32896, 65535], None, [0, 1, 128, 255], 65535),  # full range: divided by 257
        ([0, 16, 2048, 4095], None, [0, 1, 128, 255], 4095),  # 12 bits
        ([0, 16, 2048, 3000], None, [0, 1, 128, 187], 4095),
        ([0, 16, 2048, 3000], 60000, [0, 0, 8, 12], 65535),  # a dark image of a full-range set
        ([0, 1, 7, 200], None, [0, 1, 7, 200], 255),  # 8-bit values in a 16-bit file
    ],
)
def test_16_bit_scaling(values, peak, expected, white):
    grey, how = to_grey_uint8(np.array([values], np.uint16), peak)
    assert grey.tolist() == [expected] and grey.dtype == np.uint8
    assert how == f"16-bit values scaled by 255/{white}"


def test_16_bit_white_is_that_of_the_set(tmp_path):
    save(tmp_path / "dark.png", np.full((4, 6), 1000, np.uint16))
    save(tmp_path / "light.tif", np.full((4, 6), 65535, np.uint16))
    save(tmp_path / "grey.png", GREY)
    source = open_source(tmp_path)
    images = {scan.name: scan.image for scan in source.scans()}
    assert images["dark"].max() == round(1000 / 257)
    assert images["light"].min() == 255
    np.testing.assert_array_equal(images["grey"], GREY)
    assert "2 of 3 images: 16-bit values scaled by 255/65535" in source.notes


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "jpg", "jpeg", "bmp", "PNG"])
def test_files_of_all_kinds(tmp_path, suffix):
    flat = np.full((8, 8), 90, np.uint8)
    save(tmp_path / f"a.{suffix}", flat)
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.image, flat)


def test_one_bit_and_palette_files(tmp_path):
    one_bit = np.eye(6, dtype=bool)
    grey, _ = read_grey(save(tmp_path / "bit.png", one_bit))
    np.testing.assert_array_equal(grey, one_bit * 255)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 10, 10, 200, 200, 200])
    palette.save(tmp_path / "palette.png")
    grey, _ = read_grey(tmp_path / "palette.png")
    assert grey.tolist() == [[10, 200]]


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    save(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"nothing", b""):
        path.write_bytes(content)
        refused(tmp_path, "a.png", "not a readable image")


def test_several_pages_are_refused(tmp_path):
    page = Image.fromarray(GREY)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    refused(tmp_path, "stack.tif", "3 pages", "one B-scan per file")


def test_other_numbers_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    for value in (np.nan, 0.5):
        save(path, np.full((4, 6), value, np.float32))
        refused(tmp_path, "float.tif", "float32", "expected 8- or 16-bit")
    save(path, np.full((4, 6), 70000, np.int32))
    refused(tmp_path, "float.tif", "int32", "expected 8- or 16-bit")


def test_two_files_of_one_name_are_refused(tmp_path):
    save(tmp_path / "a.tif", GREY)
    save(tmp_path / "a.png", GREY)
    refused(tmp_path, "a.tif", "a.png", "same name")
