"""Perturbed scans: the truth moves with the image, and nothing else changes."""

import numpy as np
import pytest

from dme.data.perturbations import PERTURBATIONS, Labelled, perturbed, resized_mask, scale_after
from dme.data.phantom import phantom_bscan


@pytest.fixture(scope="module")
def scan():
    bscan = phantom_bscan(3, 124, 192, fluid=True)
    fluid = bscan.fluid.copy()
    fluid[:, :20] = 255
    return Labelled(bscan.image, fluid)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_same_scan_is_perturbed_alike_and_stays_a_scan(scan, name):
    first = perturbed(scan, name, "a")
    again = perturbed(scan, name, "a")
    assert first.image.dtype == first.fluid.dtype == np.uint8
    assert first.image.shape == first.fluid.shape
    assert (first.image == again.image).all()
    assert set(np.unique(first.fluid)) <= {0, 1, 255}


def test_grey_values_alone_change_where_nothing_moves(scan):
    for name in ("speckle 0.6", "gamma 2", "dim", "inverted", "blur", "contrast curve"):
        changed = perturbed(scan, name, "a")
        assert (changed.fluid == scan.fluid).all()
        assert (changed.image != scan.image).mean() > 0.5
    assert (perturbed(scan, "inverted", "a").image == 255 - scan.image).all()
    middle = (scan.image > 40) & (scan.image < 120)  # which the ends of the scale do not cut
    ratio = perturbed(scan, "speckle 0.3", "a").image[middle] / scan.image[middle]
    assert ratio.std() == pytest.approx(0.3, abs=0.02)


def test_speckle_differs_from_scan_to_scan(scan):
    first = perturbed(scan, "speckle 0.3", "a").image
    assert (first != perturbed(scan, "speckle 0.3", "b").image).any()


def test_truth_moves_with_the_image(scan):
    down = perturbed(scan, "shifted down", "a")
    rows = round(0.08 * 124)
    assert (down.fluid[rows:] == scan.fluid[:-rows]).all()
    assert (down.image[rows:] == scan.image[:-rows]).all()
    assert not down.image[:rows].any()
    right = perturbed(scan, "shifted right", "a")
    assert (right.fluid[:, 15:] == scan.fluid[:, :-15]).all()


def test_copies_of_another_size_keep_share_of_fluid(scan):
    share = (scan.fluid == 1).mean()
    for name, shape in (("half size", (62, 96)), ("double size", (248, 384))):
        copy = perturbed(scan, name, "a")
        assert copy.image.shape == shape
        assert (copy.fluid == 1).mean() == pytest.approx(share, rel=0.15)
        assert (copy.fluid[:, : shape[1] * 20 // 192] == 255).all()
    assert perturbed(scan, "256 x 256", "a").image.shape == (256, 256)


def test_a_pixel_half_of_which_is_fluid_is_fluid():
    fluid = np.zeros((4, 4), np.uint8)
    fluid[0, :2] = 1
    fluid[2, 0] = 1
    assert resized_mask(fluid, (2, 2))[0, 0] == 1
    assert resized_mask(fluid, (2, 2))[1, 0] == 0


def test_scale_of_a_copy():
    assert scale_after((3.87, 11.33, 123.0), (496, 768), (248, 256)) == pytest.approx(
        (7.74, 33.99, 123.0)
    )
    assert scale_after(None, (496, 768), (248, 384)) is None
