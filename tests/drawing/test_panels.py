"""Many pictures on one sheet: which are chosen, and where panels and contact sheets put what."""

import numpy as np
import pytest
from helpers.pixels import is_colour

from dme.drawing.canvas import Letters, save_png
from dme.drawing.overlays import STRIP
from dme.drawing.panels import BACKGROUND, caption_lines, contact_sheet, panel, typical


@pytest.mark.parametrize(
    ("fluid_px", "expected"),
    [
        ([3, 0, 9, 1, 5], [2, 4, 1]),  # with fluid 1, 3, 5, 9: the upper of the two in the middle
        ([2, 7, 5], [1, 2, 0]),
        ([0, 0, 4, 0], [2, 3, 0]),
        ([0, 0, 0, 0], [3, 2, 0]),
        ([3, 0, 9, 0, 0], [2, 0, 1]),
        # each once, however few there are
        ([3, 9], [1, 0]),
        ([6], [0]),
    ],
)
def test_typical_masks_are_the_most_the_median_and_the_least(fluid_px, expected):
    masks = np.zeros((len(fluid_px), 4, 5), np.uint8)
    for mask, count in zip(masks, fluid_px, strict=True):
        mask.flat[:count] = 1
        mask.flat[count:] = 255  # the unknown is no fluid
    assert typical(masks) == expected
    assert typical(list(masks)) == expected


def test_panel_layout():
    grey = np.full((10, 20), 100, np.uint8)
    tall = np.full((40, 20, 3), (200, 0, 0), np.uint8)
    rows = [[grey, tall], [grey, grey]]
    sheet = panel(rows, ["left", "right"], ["first", "second"], cell_width=40)
    # rows of 80 and 20 pixels with 22 for a title under each, 26 for titles over them, gaps of 6
    assert sheet.dtype == np.uint8
    assert sheet.shape == (26 + 80 + 22 + 20 + 22, 6 + 2 * (40 + 6), 3)
    left = sheet[:, 6:46]
    right = sheet[:, 52:92]

    # the pictures; below the one that is not as high is nothing
    assert (left[26:46] == 100).all()
    assert is_colour(left[47:105], BACKGROUND).all()
    assert is_colour(right[26:106], (200, 0, 0)).all()
    assert (left[128:148] == 100).all()
    assert (right[128:148] == 100).all()

    # the titles: over both columns, and under the first picture of each row
    for title in (left[:26], right[:26], left[106:128], left[148:]):
        assert title.min() < 128
    assert sheet[106:128, 52:].min() == 222
    assert panel([[grey]], ["only"], cell_width=40).shape == (26 + 20 + 6, 52, 3)


def test_contact_sheet(tmp_path):
    files = []
    for i in range(5):
        files.append(tmp_path / f"{i}.png")
        save_png(files[i], np.full((50 + STRIP, 100, 3), 40 * i, np.uint8))
    caption = "a name that is too long for its picture"
    sheet = contact_sheet(files, [caption] * 5, columns=3, width=90)
    lines = caption_lines(caption, 90, Letters(12))
    cell = 45 + 22 + 15 * (len(lines) - 1)
    assert " ".join(lines) == caption
    assert sheet.shape == (6 + 2 * cell, 6 + 3 * 96, 3)
    for i in range(5):
        row, column = divmod(i, 3)
        place = sheet[6 + row * cell :, 6 + column * 96 :]
        assert (place[:45, :90] == 40 * i).all()
        between = place[45:cell, 90:96]
        assert (between == between[0, 0]).all()  # no caption runs into the next


def test_captions_are_whole():
    letters = Letters(12)
    name = "subject_" + "0123456789" * 6
    lines = caption_lines(f"{name}: 0.0123 mm\N{SUPERSCRIPT TWO}", 90, letters)
    assert "".join(lines).replace(" ", "") == f"{name}:0.0123mm\N{SUPERSCRIPT TWO}"
    assert all(letters.width(line) <= 90 for line in lines)
    assert caption_lines("", 90, letters) == [""]
