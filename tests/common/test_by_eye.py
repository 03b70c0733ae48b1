"""Intervals by eye: whole eyes are drawn, and every statistic follows from sums over scans."""

import numpy as np
import pytest

from dme.common.by_eye import DRAWS, interval_by_eye, mean_interval


def test_against_drawing_the_scans_of_eyes_one_by_one():
    generator = np.random.default_rng(3)
    eyes = np.repeat(np.arange(6), [3, 11, 5, 2, 7, 4])
    values = generator.normal(size=len(eyes)) + eyes
    low, high = mean_interval(values, eyes)
    draws = np.random.default_rng(0).integers(6, size=(DRAWS, 6))
    means = [np.concatenate([values[eyes == eye] for eye in draw]).mean() for draw in draws]
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_scans_without_a_number_are_left_out():
    eyes = np.array([1, 1, 2, 2, 3])
    values = np.array([0.2, np.nan, 0.4, 0.4, np.nan])
    low, high = mean_interval(values, eyes)
    assert (low, high) == pytest.approx((0.2, 0.4))
    assert all(np.isnan(mean_interval(np.full(3, np.nan), np.arange(3))))


def test_eyes_are_drawn_not_scans():
    """Hundred near copies in one eye do not narrow the interval of two eyes."""
    values = np.r_[np.zeros(100), 1.0]
    eyes = np.r_[np.ones(100), 2]
    assert interval_by_eye(lambda sums: sums[:, 0], values[:, None], eyes) == (0.0, 2.0)
