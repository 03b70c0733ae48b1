"""Agreement of two measurements of the same scans, against other ways to compute it."""

import numpy as np
import pytest

from dme.retina import agreement

# Dice by hand: of class 1 60 of 100 + 80 pixels, of class 2 none of 20 + 0
THREE_CLASSES = [[[900, 0, 0], [40, 60, 0], [0, 20, 0]], [[7, 0, 0], [0, 0, 0], [0, 0, 0]]]
# Shrout and Fleiss 1979, Table 2: judges 1 and 4 of six subjects
JUDGES = np.array([[9, 6, 8, 7, 10, 6], [8, 2, 6, 6, 9, 7]], float)


def areas(seed: int = 0) -> np.ndarray:
    """Two areas of 40 scans, some of them 0, (2, 40)."""
    generator = np.random.default_rng(seed)
    truth = generator.gamma(1.0, 0.2, 40) * (generator.random(40) > 0.3)
    other = (truth * 1.2 + generator.gamma(1.0, 0.02, 40)) * (generator.random(40) > 0.2)
    return np.stack([truth, other])


def masks(*shape: int) -> np.ndarray:
    """Three masks at random, bool (3, *shape)."""
    return np.random.default_rng(3).random((3, *shape)) > 0.4


def test_confusion_against_sets_of_pixels():
    truth, other, known = masks(7, 5)
    for pixels in (known, np.ones_like(known), np.zeros_like(known)):
        expected = [
            [(~truth & ~other & pixels).sum(), (~truth & other & pixels).sum()],
            [(truth & ~other & pixels).sum(), (truth & other & pixels).sum()],
        ]
        counts = agreement.confusion(truth, other, pixels)
        assert counts.dtype == np.int64 and counts.tolist() == expected
    everywhere = agreement.confusion(truth, other)
    assert everywhere.tolist() == agreement.confusion(truth, other, truth | ~truth).tolist()


def test_masks_that_are_none_are_refused():
    truth, other, _ = masks(7, 5)
    with pytest.raises(ValueError, match="bool .7, 5., uint8 .7, 5., .*; expected bool of one"):
        agreement.confusion(truth, other.astype(np.uint8))
    with pytest.raises(ValueError, match="expected bool of one shape"):
        agreement.confusion(truth, other[:, :1])


def test_dice_by_hand():
    dice = agreement.dice(THREE_CLASSES, 1)
    assert dice[0] == pytest.approx(120 / 180) and np.isnan(dice[1])
    last = agreement.dice(THREE_CLASSES)
    assert last[0] == 0 and np.isnan(last[1])
    truth, other, _ = masks(9, 4)
    score = agreement.dice(agreement.confusion(truth, other))
    assert score == 2 * (truth & other).sum() / (truth.sum() + other.sum())


def analysis_of_variance(pairs: np.ndarray) -> float:
    """ICC(2,1) of measurements (raters, subjects) by mean squares, as the paper does."""
    raters, subjects = pairs.shape
    grand = pairs.mean()
    by_subject = pairs.mean(0)
    by_rater = pairs.mean(1)
    rest = pairs - by_subject[None] - by_rater[:, None] + grand
    bms = raters * ((by_subject - grand) ** 2).sum() / (subjects - 1)
    jms = subjects * ((by_rater - grand) ** 2).sum() / (raters - 1)
    ems = (rest**2).sum() / ((raters - 1) * (subjects - 1))
    return (bms - ems) / (bms + (raters - 1) * ems + raters * (jms - ems) / subjects)


@pytest.mark.parametrize("pairs", [JUDGES, areas(), areas(1)])
def test_icc_against_analysis_of_variance(pairs):
    sums = agreement.moments(*pairs).sum(0)
    assert agreement.icc(sums) == pytest.approx(analysis_of_variance(pairs), rel=1e-9)


def test_icc_falls_with_a_constant_difference():
    truth = areas()[0]
    assert agreement.icc(agreement.moments(truth, truth).sum(0)) == pytest.approx(1)
    shifted = agreement.icc(agreement.moments(truth, truth + 0.2).sum(0))
    assert shifted < 0.8


def test_areas_against_numpy():
    truth, other = areas()
    sums = agreement.moments(truth, other).sum(0)
    error = other - truth
    assert agreement.bias(sums) == pytest.approx(error.mean())
    assert agreement.mean_absolute_error(sums) == pytest.approx(abs(error).mean())
    assert agreement.relative_bias(sums) == pytest.approx(other.sum() / truth.sum() - 1)
    half = 1.96 * error.std(ddof=1)
    expected = (error.mean() - half, error.mean() + half)
    assert agreement.limits_of_agreement(sums) == pytest.approx(expected)


def test_presence_by_hand():
    # 4 found of 5, 3 empty of 5; agreement 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4
    truth = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0.0])
    other = np.array([1, 2, 3, 4, 0, 5, 6, 0, 0, 0.0])
    sums = agreement.moments(truth, other).sum(0)
    assert agreement.sensitivity(sums) == 0.8
    assert agreement.specificity(sums) == 0.6
    assert agreement.kappa(sums) == pytest.approx((0.7 - 0.5) / 0.5)


def test_many_draws_at_once():
    sums = np.stack([agreement.moments(*areas(seed)).sum(0) for seed in range(3)])
    for statistic in (agreement.icc, agreement.kappa, agreement.bias, agreement.sensitivity):
        assert statistic(sums) == pytest.approx([statistic(row) for row in sums])


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="expected one per scan"):
        agreement.moments(np.zeros(3), np.zeros(4))
