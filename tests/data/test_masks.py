"""Masks: what the values of a set mean, and files of all kinds."""

import numpy as np
import pytest
from helpers.scanfolder import EMPTY, make_folder, read_scans, refused, save
from PIL import Image

from dme.common.errors import InputError
from dme.data.masks import MaskValues, mask_lookup, read_mask
from dme.data.opening import open_source


def masks_of(values) -> MaskValues:
    """A set with one pixel of each value."""
    masks = MaskValues(masks=1)
    masks.counts[list(values)] = 1
    return masks


@pytest.mark.parametrize(
    "expected, text",  # what the values of a whole set become
    [
        ({0: 0}, "all empty"),
        ({0: 0, 1: 1}, "binary 0/1"),
        ({1: 1}, "binary 0/1"),
        ({0: 0, 255: 1}, "binary 0/255"),
        ({0: 0, 1: 1, 255: 255}, "255 is ignore"),
        ({0: 0, 1: 1, 3: 1, 15: 1}, "instance ids 1..15, fluid is id > 0"),
        ({0: 0, 3: 1, 255: 255}, "instance ids 3..3, fluid is id > 0, 255 is ignore"),
    ],
)
def test_lookup(expected, text):
    lookup, meaning = mask_lookup(masks_of(expected))
    for value, label in expected.items():
        assert lookup[value] == label
    assert text in meaning
    assert ("ignore" in meaning) == (255 in expected.values())


def palette_image(indices, colours):
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours)
    return image


MASK = np.zeros((4, 6), np.uint8)
MASK[1:3, 2:5] = 1
OPAQUE = np.full_like(MASK, 255)
FILES = {
    # white comes first, as Pillow's quantize has it
    "reverse": palette_image(1 - MASK, [255, 255, 255, 0, 0, 0]),
    # 1 is the darker colour: colours would turn the mask around
    "palette": palette_image(MASK, [200, 200, 200, 0, 0, 0]),
    "bit": Image.fromarray(MASK.astype(bool)),
    "grey": Image.fromarray(MASK),
    "rgb": Image.fromarray(np.dstack([MASK, MASK, MASK])),
    "rgba": Image.fromarray(np.dstack([MASK, MASK, MASK, OPAQUE])),
    "deep": Image.fromarray(MASK.astype(np.uint16)),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_all_kinds(tmp_path, kind):
    path = make_folder(tmp_path, {"a": MASK}) / "fluid" / "a.png"
    FILES[kind].save(path)
    assert Image.open(path).mode == FILES[kind].mode
    (scan,) = read_scans(tmp_path)
    np.testing.assert_array_equal(scan.fluid, MASK)


# ---- what masks of a whole set mean -------------------------------------------------------------
DISC = np.hypot(*(np.mgrid[:48, :64] - np.array([[[24]], [[30]]]))) < 9.3  # 8.8 % of the pixels
IMAGE = np.random.default_rng(0).integers(0, 90, DISC.shape).astype(np.uint8)


def folder_of(root, *masks):
    for i, mask in enumerate(masks):
        save(root / "images" / f"s{i}.png", IMAGE[: len(mask), : mask.shape[1]])
        save(root / "fluid" / f"s{i}.png", mask)
    return root


def read_fluid(root, fluid_value=None):
    """Fluid of all masks, and what was said of them."""
    source = open_source(root, fluid_value=fluid_value)
    fluid = [scan.fluid for scan in source.scans()]
    return fluid, [note for note in source.notes if note.startswith("masks: ")][0]


def shaded(**shades):
    """A mask of three regions, the disc and blocks left and right of it."""
    mask = (DISC * shades["disc"]).astype(np.uint8)
    mask[5:12, 2:12] = shades["left"]
    mask[30:40, 50:60] = shades["right"]
    return mask


def test_white_with_smoothed_rims_is_white(tmp_path):
    large = np.kron(DISC, np.ones((2, 2), bool))[1:-1, 1:-1]  # its edges lie between halved pixels
    half = Image.fromarray((large * 255).astype(np.uint8)).reduce(2)
    smooth = np.asarray(half)
    assert set(np.unique(smooth)) == {0, 64, 128, 191, 255}
    (fluid,), meaning = read_fluid(folder_of(tmp_path, smooth))
    np.testing.assert_array_equal(fluid, smooth >= 128)
    assert "rims smoothed" in meaning


def test_white_that_was_jpeg_once_is_white(tmp_path):
    Image.fromarray((DISC * 255).astype(np.uint8)).save(tmp_path / "m.jpg", quality=90)
    mask = np.asarray(Image.open(tmp_path / "m.jpg"))
    assert len(np.unique(mask)) > 20
    (fluid,), _ = read_fluid(folder_of(tmp_path / "set", mask))
    assert (fluid != DISC).sum() <= 10


@pytest.mark.parametrize("shades", [(85, 170, 255), (64, 128, 255), (255, 85, 170), (128, 0, 128)])
def test_shades_of_grey_that_fill_regions_are_fluid(tmp_path, shades):
    mask = shaded(left=shades[0], right=shades[1], disc=shades[2])
    (fluid, empty), meaning = read_fluid(folder_of(tmp_path, mask, 0 * mask))
    np.testing.assert_array_equal(fluid, mask > 0)
    assert not empty.any()
    assert "shades of grey" in meaning

    chosen, meaning = read_fluid(tmp_path, (shades[0],))
    np.testing.assert_array_equal(chosen[0] == 1, mask == shades[0])
    assert f"fluid is {shades[0]}, as `fluid_value` says" in meaning


def test_white_beside_few_ids_is_ignore_however_frequent(tmp_path):
    mask = shaded(left=2, right=1, disc=255)
    (fluid,), _ = read_fluid(folder_of(tmp_path, mask))
    np.testing.assert_array_equal(fluid, np.select([mask == 255, mask > 0], [255, 1], 0))


def test_specks_beside_white_are_no_ids(tmp_path):
    """White with dirt near black: were 255 the unknown, the dirt would be the fluid."""
    mask = (255 * DISC).astype(np.uint8)
    mask[2:40:6, 2:12:3] = 3
    mask[2:40:7, 50:60:4] = 5
    folder = folder_of(tmp_path, mask)
    refused(folder, "masks hold specks of 3..5 beside more white", "`fluid_value` whether 255 is")
    (fluid,), _ = read_fluid(folder, (255,))
    np.testing.assert_array_equal(fluid, DISC)


def test_masks_without_background_are_refused(tmp_path):
    folder = folder_of(tmp_path, (1 + DISC).astype(np.uint8))
    refused(folder, str(folder / "fluid"), "2 (", "none is 0", "`fluid_value`, 2 perhaps")
    (fluid,), _ = read_fluid(folder, (2,))
    np.testing.assert_array_equal(fluid, DISC)


def test_masks_that_are_mostly_fluid_are_refused(tmp_path):
    folder = folder_of(tmp_path, (255 - 255 * DISC).astype(np.uint8))
    share = f"{100 - 100 * DISC.mean():.1f} % would be fluid"
    refused(folder, share, "at most 30 %", "`fluid_value`, 0 perhaps")
    (fluid,), _ = read_fluid(folder, (0,))
    np.testing.assert_array_equal(fluid, DISC)
    (fluid,), _ = read_fluid(folder, (255,))  # who says so may have it
    np.testing.assert_array_equal(fluid, ~DISC)


def test_layers_and_fluid_in_one_map_need_the_value_of_fluid(tmp_path):
    mask = np.zeros(DISC.shape, np.uint8)
    for layer in range(1, 8):
        mask[2 * layer : 2 * layer + 2] = layer
    mask[DISC] = 8
    folder = folder_of(tmp_path, mask)
    refused(folder, "reach from side to side, as layers do", "`fluid_value`")
    (fluid,), _ = read_fluid(folder, (8,))
    np.testing.assert_array_equal(fluid, DISC)
    with pytest.raises(InputError, match="`fluid_value` 9: no mask holds it, values are 0"):
        read_fluid(folder, (9,))


def test_the_value_of_fluid_makes_another_set(tmp_path):
    folder = folder_of(tmp_path, shaded(left=1, right=2, disc=3))
    plain = open_source(folder)
    assert open_source(folder, fluid_value=(3,)).sha256 != plain.sha256
    assert open_source(folder, fluid_value=()).sha256 == plain.sha256
    with pytest.raises(InputError, match="`fluid_value` 300: expected values of masks, 0 to 255"):
        open_source(folder, fluid_value=(300,))
    with pytest.raises(InputError, match="`fluid_value` is for masks in files"):
        open_source("phantom", fluid_value=(1,))


@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_may_lie_in_the_alpha_channel(tmp_path, colour):
    one = np.full((*DISC.shape, 3), colour, np.uint8)
    drawn = np.dstack([one, (DISC * 255).astype(np.uint8)])
    nothing = np.dstack([one, np.zeros_like(IMAGE)])
    fluid, _ = read_fluid(folder_of(tmp_path, drawn, nothing))
    np.testing.assert_array_equal(fluid[0], DISC)
    assert not fluid[1].any()


def test_a_jpeg_by_another_name_is_no_mask(tmp_path):
    folder = make_folder(tmp_path, {"a": EMPTY})
    Image.fromarray(EMPTY).save(folder / "fluid" / "a.png", format="JPEG")
    refused(folder, "a.png", "JPEG", "PNG")


def test_every_flipped_bit_of_a_png_mask_is_seen(tmp_path):
    path = save(tmp_path / "m.png", MASK)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="not a readable image"):
            read_mask(path)


def test_what_is_understood_is_said(tmp_path):
    source = open_source(folder_of(tmp_path, DISC.astype(np.uint8)))
    assert list(source.scans())
    share = 100 * DISC.mean()
    assert f"masks hold 0 ({100 - share:.2f} %), 1 ({share:.2f} %) of all pixels" in source.notes
