"""Shifts between en-face pictures: by hand, and where there is nothing to go by."""

import numpy as np
import pytest
from scipy import ndimage

from dme.retina.shift import enface_shift


def eye(seed=0) -> np.ndarray:
    """Structure of about a vessel's size, (50, 400)."""
    noise = np.random.default_rng(seed).normal(size=(50, 400))
    smooth = ndimage.gaussian_filter(noise, (1.5, 8))
    return 40 + 200 * smooth


@pytest.mark.parametrize(("down", "across"), [(0, 0), (4, 0), (-3, 24), (2, -40)])
def test_a_shift_is_measured(down, across):
    whole = eye()
    a = whole[10:40, 60:340]
    b = whole[10 - down : 40 - down, 60 - across : 340 - across]
    shading = np.linspace(10, 60, 280)
    noise = np.random.default_rng(1).normal(size=a.shape)
    shift = enface_shift(a, b + shading + noise)
    assert (shift.bscans, shift.columns) == (down, across)
    assert shift.correlation > 0.8


def test_different_eyes_have_none():
    assert enface_shift(eye(0)[:30, :280], eye(1)[:30, :280]) is None
    flat = np.full((30, 280), 9.0)
    assert enface_shift(flat, flat) is None


def test_what_repeats_itself_is_not_moved():
    stripes = np.tile(eye()[:1, :280], (30, 1))
    shift = enface_shift(stripes, stripes)
    assert (shift.bscans, shift.columns) == (0, 0)
