"""Synthetic scans with a large cyst right under the ILM: where it lies, and of whose eye."""

import numpy as np
import pytest
from scipy import ndimage

from dme.data.opening import open_source
from dme.data.phantom_cysts import HELD_OUT, SHARES, cyst_scan, training_scans


@pytest.fixture(scope="module")
def scans():
    return list(training_scans(4))


def test_the_cyst_is_large_and_lies_under_the_ilm(scans):
    """Of one cyst, found in the mask alone: its height, its roof, and that it is dark."""
    for scan in scans:
        regions, count = ndimage.label(scan.fluid)
        tallest = max(range(1, count + 1), key=lambda k: (regions == k).sum(0).max())
        cyst = regions == tallest
        heights = cyst.sum(0)
        column = int(heights.argmax())
        ilm, floor = scan.layers[[0, -1], column]
        share = heights[column] / (floor - ilm)
        assert SHARES[0] - 0.02 <= share <= SHARES[1] + 0.02
        roof = np.flatnonzero(cyst[:, column])[0] - ilm
        assert 1.5 < roof < 0.4 * (floor - ilm)
        image = scan.image.astype(float)
        assert image[cyst].mean() < 0.75 * image[int(ilm) : int(ilm + roof), column].mean()


def test_layers_are_exact_and_fluid_lies_between_them(scans):
    for scan in scans:
        assert scan.layers.shape == (8, 768) and np.isfinite(scan.layers).all()
        assert (np.diff(scan.layers, axis=0) > 0).all()
        rows = np.arange(496)[:, None]
        inside = (rows > scan.layers[0]) & (rows < scan.layers[-1])
        assert not (scan.fluid.astype(bool) & ~inside).any()

        # the ILM parts vitreous from brighter tissue
        columns = np.arange(150, 600)
        ilm = np.round(scan.layers[0, columns]).astype(int)
        above = np.mean([scan.image[ilm - k, columns] for k in range(4, 8)])
        below = np.mean([scan.image[ilm + k, columns] for k in range(1, 4)])
        assert below > 1.3 * above


def test_the_same_number_gives_the_same_scan_and_held_out_eyes_are_others(scans):
    again = cyst_scan(4_100, 1)
    assert (again.image == scans[1].image).all() and (again.layers == scans[1].layers).all()
    source = open_source("phantom:cysts")
    assert "SYNTHETIC" in source.description
    held_out = source.scans()
    first = [next(held_out) for _ in range(2)]
    for scan in first:
        assert not any((scan.image == other.image).all() for other in scans)
    assert HELD_OUT > 20
