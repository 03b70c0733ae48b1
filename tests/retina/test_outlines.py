"""Outlines and lesions against brute force, and against MONAI where it is installed."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from dme.retina.outlines import (
    lesion_counts,
    lesion_f1,
    normalised_surface_distance,
    outline,
    outline_counts,
    region_ids,
)

SPACING_UM = (3.87, 11.33)


def blobs(seed: int, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    """A mask of several regions, some of which touch the border."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return noise > 0.08


def edge_pixels(mask: np.ndarray) -> np.ndarray:
    """(pixels, 2): those of a mask with a neighbour of four outside, one by one."""
    height, width = mask.shape
    places = []
    for row, column in zip(*np.nonzero(mask), strict=True):
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            r, c = row + down, column + right
            if not (0 <= r < height and 0 <= c < width and mask[r, c]):
                places.append((row, column))
                break
    return np.array(places).reshape(-1, 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance_um", [0.0, 4.0, 12.0, 25.0])
def test_outlines_against_all_pairs_of_pixels(seed, tolerance_um):
    truth = blobs(seed)
    guess = np.roll(blobs(seed) ^ blobs(seed + 10) & blobs(seed + 20), seed, axis=1)
    first = edge_pixels(truth)
    second = edge_pixels(guess)
    assert np.array_equal(np.argwhere(outline(truth)), first)
    distance = cdist(first * SPACING_UM, second * SPACING_UM)
    expected = [
        len(first),
        (distance.min(1) <= tolerance_um).sum(),
        len(second),
        (distance.min(0) <= tolerance_um).sum(),
    ]
    counts = outline_counts(truth, guess, tolerance_um, SPACING_UM)
    assert counts.tolist() == expected
    share = (expected[1] + expected[3]) / (expected[0] + expected[2])
    assert normalised_surface_distance(counts) == pytest.approx(share)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_against_monai(seed):
    monai = pytest.importorskip("monai.metrics")
    truth = np.zeros((60, 70), bool)
    guess = np.zeros((60, 70), bool)
    truth[10:50, 10:60] = blobs(seed)
    guess[12:52, 9:59] = blobs(seed) | blobs(seed + 7)
    for tolerance in (1.0, 3.0, 12.0):
        theirs = monai.compute_surface_dice(
            torch.from_numpy(guess)[None, None].float(),
            torch.from_numpy(truth)[None, None].float(),
            class_thresholds=[tolerance],
            include_background=True,
            spacing=list(SPACING_UM),
        )
        counts = outline_counts(truth, guess, tolerance, SPACING_UM)
        assert normalised_surface_distance(counts) == pytest.approx(float(theirs), abs=1e-6)


def test_without_fluid():
    nothing = np.zeros((9, 9), bool)
    dot = nothing.copy()
    dot[4, 4] = True
    assert np.isnan(normalised_surface_distance(outline_counts(nothing, nothing, 5)))
    assert normalised_surface_distance(outline_counts(dot, nothing, 5)) == 0
    assert normalised_surface_distance(outline_counts(dot, dot, 0)) == 1
    assert np.isnan(lesion_f1(lesion_counts(nothing, nothing)))
    assert lesion_f1(lesion_counts(dot, nothing)) == 0
    assert lesion_f1(lesion_counts(nothing, dot)) == 0
    with pytest.raises(ValueError, match="expected one shape"):
        outline_counts(nothing, dot[1:], 1)


def test_lesions_by_hand():
    ids = np.zeros((10, 20), int)
    ids[2:4, 2:6] = 3  # 8 px
    ids[2:4, 6:10] = 5  # touches it
    ids[7:9, 2:6] = 9
    guess = np.zeros_like(ids, bool)
    guess[2:4, 2:8] = True  # all of 3, half of 5, in one region
    guess[7, 2] = True  # too little of 9, but right
    guess[6:9, 12:15] = True  # a false alarm
    counts = lesion_counts(ids, guess)
    assert counts.tolist() == [3, 2, 3, 2]
    assert lesion_f1(counts) == pytest.approx(2 / 3)
    # many scans at once: sums of counts
    both = np.stack([counts, [1, 0, 0, 0]])
    assert lesion_f1(both).tolist() == [pytest.approx(2 / 3), 0]


@pytest.mark.parametrize("seed", range(3))
def test_lesions_one_by_one(seed):
    ids = region_ids(blobs(seed)) * 2  # numbers may be left out
    guess = blobs(seed) ^ blobs(seed + 5)
    lesions = [ids == number for number in np.unique(ids) if number]
    regions = region_ids(guess)
    regions = [regions == number for number in range(1, regions.max() + 1)]
    expected = [
        len(lesions),
        sum((lesion & guess).sum() / lesion.sum() >= 0.5 for lesion in lesions),
        len(regions),
        sum((region & (ids > 0)).sum() / region.sum() >= 0.5 for region in regions),
    ]
    assert lesion_counts(ids, guess).tolist() == expected
