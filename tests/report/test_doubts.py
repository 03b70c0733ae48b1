"""Scans whose numbers are doubtful."""

import numpy as np
import pytest
from helpers.scan_files import flat

from dme.report.doubts import (
    BRIGHT_DOUBT,
    COLLAPSED,
    DIM_DOUBT,
    NO_DATA,
    THIN,
    doubt_lines,
    doubts_of,
)


def scan(white: int, share=0.02) -> np.ndarray:
    """100 x 60 px of grey 20, so much of it white, below a wedge."""
    image = np.full((100, 60), 20, np.uint8)
    image.flat[-round(share * image.size) :] = white
    image[:10] = 255
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (scan(119), [DIM_DOUBT]),
        (scan(120), []),
        (scan(200, share=0.003), [DIM_DOUBT]),  # a few reflexes
        (scan(249), []),
        (scan(250), [BRIGHT_DOUBT]),
        (np.full((9, 9), 255, np.uint8), []),  # nothing but wedge
    ],
)
def test_brightness(image, expected):
    assert doubts_of(image, None, None) == expected


def test_retina_of_no_thickness():
    good = scan(200)
    rows = flat()  # 56 px thick
    assert doubts_of(good, rows, 4.0) == []
    assert doubts_of(good, rows, None) == []
    assert doubts_of(good, rows[:1] + (rows - rows[:1]) * 0.4, 4.0) == [THIN]
    assert doubts_of(good, np.full((8, 60), np.nan), 4.0) == [NO_DATA]

    # boundaries that meet at a disc are as they should be, elsewhere they are not
    rows[:, :6] = 20
    assert doubts_of(good, rows, 4.0) == []
    rows[:, :7] = 20
    assert doubts_of(good, rows, 4.0) == [COLLAPSED]
    rows[:, 10:20] = np.nan  # of the known columns
    assert doubts_of(good, rows, 4.0) == [COLLAPSED]


def test_doubts_are_told_once_a_kind():
    rows = [{"scan": f"s{i}", "doubt": DIM_DOUBT} for i in range(12)]
    rows[0]["doubt"] = f"{DIM_DOUBT}; {THIN}"
    rows.append({"scan": "good", "doubt": ""})
    dim, thin = doubt_lines(rows)
    assert dim.startswith("12 of 13 scans doubtful: dim (")
    assert dim.endswith("s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, ...")
    assert thin == f"1 of 13 scans doubtful: {THIN}: s0"
