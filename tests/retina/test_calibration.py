"""Reliability by hand, and rules chosen for networks whose faults are known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dme.retina.calibration import (
    BINS,
    SMALLEST_PX,
    THRESHOLDS,
    Rule,
    choose_rule,
    expected_calibration_error,
    reliability_counts,
    without_small,
)


def test_reliability_by_hand():
    probability = np.array([[0.0, 0.05, 0.1, 0.95, 1.0, 0.97]])
    truth = np.array([[0, 1, 0, 1, 1, 255]], np.uint8)
    counts = reliability_counts(probability, truth)
    assert counts.shape == (BINS, 3)
    assert counts[0] == pytest.approx([2, 1, 0.05])
    assert counts[1] == pytest.approx([1, 0, 0.1])
    assert counts[9] == pytest.approx([2, 2, 1.95])
    assert counts.sum(0) == pytest.approx([5, 3, 2.1])
    assert expected_calibration_error(counts) == pytest.approx((0.95 + 0.1 + 0.05) / 5)
    assert expected_calibration_error(counts, first=1) == pytest.approx((0.1 + 0.05) / 3)


def world(temperature: float, count: int = 3) -> tuple[list, list]:
    """Probabilities of a network too sure by a temperature, and the truth drawn from them."""
    generator = np.random.default_rng(0)
    probabilities = []
    truths = []
    for _ in range(count):
        logit = generator.normal(-1, 2, (100, 120))
        truths.append((generator.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.uint8))
        probabilities.append(1 / (1 + np.exp(-logit * temperature)))
    return probabilities, truths


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.8])
def test_the_temperature_of_a_network_that_is_too_sure(temperature):
    probabilities, truths = world(temperature)
    rule = choose_rule(probabilities, truths)
    assert rule.temperature == pytest.approx(temperature, abs=0.11)
    mended = reliability_counts(rule.probability(probabilities[0]), truths[0])
    assert expected_calibration_error(mended) < 0.02
    if temperature == 1.8:
        before = reliability_counts(probabilities[0], truths[0])
        assert expected_calibration_error(before) > 0.04


def test_areas_that_are_too_large_and_specks():
    """Fluid is a square; the network likes its rim half, and specks beside it."""
    truth = np.zeros((80, 80), np.uint8)
    truth[30:50, 30:50] = 1
    probability = np.full(truth.shape, 0.02)
    probability[26:54, 26:54] = 0.7
    probability[30:50, 30:50] = 0.95
    probability[5::20, 5::20] = 0.99  # 15 specks of a pixel, and one within
    rule = choose_rule([probability], [truth])
    found = rule.mask(probability)
    assert np.array_equal(found, truth == 1)
    assert rule.smallest_px > 1
    assert Rule().mask(probability).sum() == 28 * 28 + 15


def test_pixels_nobody_knows_count_for_nothing():
    probabilities, truths = world(1.0)
    spoilt = [truth.copy() for truth in truths]
    for truth, probability in zip(spoilt, probabilities, strict=True):
        truth[:50] = 255
        probability[:50] = 0.99
    rule = choose_rule(probabilities, spoilt)
    known = choose_rule([p[50:] for p in probabilities], [t[50:] for t in spoilt])
    assert rule.temperature == known.temperature and rule.threshold == known.threshold


def test_the_plain_rule_changes_nothing():
    probability = np.random.default_rng(1).random((30, 40))
    assert Rule().probability(probability) == pytest.approx(probability)
    assert np.array_equal(Rule().mask(probability), probability > 0.5)


def test_small_regions_by_their_size():
    mask = np.zeros((9, 9), bool)
    mask[1, 1] = mask[2, 2] = True  # touch at a corner
    mask[6:8, 6:8] = True
    assert without_small(mask, 1).sum() == 6
    assert without_small(mask, 3).sum() == 4
    assert without_small(mask, 5).sum() == 0


def test_the_search_is_that_of_every_rule_one_by_one():
    generator = np.random.default_rng(2)
    probabilities = []
    truths = []
    for _ in range(2):
        field = gaussian_filter(generator.normal(size=(60, 70)), 3)
        truths.append((field > 0.1).astype(np.uint8))
        truths[-1][:3] = 255
        noisy = field * 30 - 2 + generator.normal(size=field.shape)
        probabilities.append(1 / (1 + np.exp(-noisy)))
    chosen = choose_rule(probabilities, truths)

    def merit(rule: Rule) -> tuple[float, float]:
        found = fluid = hit = 0
        for probability, truth in zip(probabilities, truths, strict=True):
            mask = rule.mask(probability) & (truth != 255)
            found += mask.sum()
            fluid += (truth == 1).sum()
            hit += (mask & (truth == 1)).sum()
        return -max(abs(found / fluid - 1), 0.05), 2 * hit / (found + fluid)

    rules = [Rule(chosen.temperature, t, px) for t in THRESHOLDS for px in SMALLEST_PX]
    assert merit(chosen) == max(map(merit, rules))
