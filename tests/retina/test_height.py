"""The height of the retina in any copy of a scan: what tells an unknown scale."""

import numpy as np
import pytest

from dme.data.perturbations import Labelled, perturbed
from dme.data.phantom import phantom_bscan
from dme.retina.height import retina_height_px


@pytest.fixture(scope="module")
def scans():
    return [phantom_bscan(seed, fluid=False) for seed in range(6)]


def test_it_is_that_of_the_layers(scans):
    for scan in scans:
        truth = np.median(scan.layers[7] - scan.layers[0])
        assert retina_height_px(scan.image) == pytest.approx(truth, rel=0.2)


@pytest.mark.parametrize("name", ["half size", "double size", "256 x 256", "gamma 2", "dim"])
def test_copies_agree(scans, name):
    for scan in scans:
        copy = perturbed(Labelled(scan.image, scan.fluid), name, scan.name).image
        height = retina_height_px(copy) * len(scan.image) / len(copy)
        assert height == pytest.approx(retina_height_px(scan.image), rel=0.08)


@pytest.mark.parametrize("value", [0, 90, 255])
def test_where_there_is_no_retina_none_is_found(value):
    assert retina_height_px(np.full((200, 300), value, np.uint8)) is None
