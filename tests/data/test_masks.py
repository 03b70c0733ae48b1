"""Masks: what the values of a set mean, and files of all kinds."""

import numpy as np
import pytest
from helpers.scanfolder import make_folder, read_scans
from PIL import Image

from dme.data.masks import mask_lookup


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
    lookup, meaning = mask_lookup(set(expected))
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
