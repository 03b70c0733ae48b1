"""How far a scan's fluid can be believed: quantities, and the fit that judges by them."""

import json

import numpy as np
import pytest
from helpers.knowing_networks import Bright
from helpers.scan_files import picture

from dme.common.errors import InputError
from dme.inference.scan import predict
from dme.inference.trust import (
    QUANTITIES,
    Sample,
    as_written,
    difference,
    fit_trust,
    judge_left_out,
    load_fit,
    quantities_of,
    views,
    weighted_quantile,
)


def made_up(eyes=10, scans=30, seed=0, first=0) -> list[Sample]:
    """SYNTHETIC samples: disagreement tells the Dice, areas err in proportion to it."""
    rng = np.random.default_rng(seed)
    samples = []
    for eye in range(first, first + eyes):
        for _ in range(scans):
            dice = rng.uniform(0.2, 0.95)
            doubt = np.clip(1 - dice + rng.normal(0, 0.05), 0.1, 1)
            found = 10 ** rng.uniform(-3, -1.5)
            true = max(0, found * (1 + doubt * rng.normal(0, 0.4)))
            quantities = np.array([np.log10(found), doubt, doubt, doubt, doubt / 2])
            samples.append(Sample(eye, quantities, found, true, dice))
    return samples


def test_eyes_left_out_are_judged_as_well_as_promised():
    samples = made_up()
    judged = judge_left_out(samples)
    low = np.array([sample.dice < 0.5 for sample in samples])
    flagged = np.array([trust.flagged for trust in judged])
    assert flagged[low].mean() > 0.95
    assert 0.08 < flagged[~low].mean() < 0.2
    holds = [
        t.low_share <= s.true_share <= t.high_share for s, t in zip(samples, judged, strict=True)
    ]
    assert 0.92 < np.mean(holds) < 0.98
    errors = [abs(t.dice - s.dice) for s, t in zip(samples, judged, strict=True)]
    assert np.mean(errors) < 0.05


def test_an_eye_is_never_judged_by_itself():
    samples = made_up(eyes=3)
    judged = judge_left_out(samples)
    spoilt = [
        Sample(s.eye, s.quantities, s.found_share, 9 * s.true_share, 1 - s.dice)
        if s.eye == 1
        else s
        for s in samples
    ]
    again = judge_left_out(spoilt)
    same = [a == b for s, a, b in zip(samples, judged, again, strict=True) if s.eye == 1]
    others = [a == b for s, a, b in zip(samples, judged, again, strict=True) if s.eye != 1]
    assert all(same)
    assert not any(others)


def test_every_eye_weighs_alike():
    few = made_up(eyes=2, scans=20, seed=1)
    many = made_up(eyes=1, scans=20, seed=2, first=5)
    once = fit_trust(few + many)
    often = fit_trust(few + 5 * many)
    np.testing.assert_allclose(once.mean, often.mean)
    assert once.dice == pytest.approx(often.dice)
    with pytest.raises(InputError, match="samples of 1 eyes, expected at least two"):
        fit_trust(many)


def test_weighted_quantile():
    values = np.array([3.0, 1.0, 2.0])
    assert weighted_quantile(values, np.ones(3), 0.5) == 2
    assert weighted_quantile(values, np.array([1.0, 1e-9, 1e-9]), 0.5) == pytest.approx(3)
    assert weighted_quantile(values, np.ones(3), 0) == 1


def test_difference():
    a = np.zeros((10, 10), np.float32)
    a[:4] = 1
    assert difference(a, a) == 0
    assert difference(a, 1 - a) == 1
    half = np.zeros_like(a)
    half[:2] = 1
    assert difference(a, half) == pytest.approx(1 - 2 * 20 / 60)
    assert difference(0 * a, 0 * a) == 0


def test_views_come_back():
    """A smooth picture, seen in every way and brought back, is the same within the margins."""
    rows, columns = np.indices((120, 160))
    scan = (rows + columns // 2).astype(np.uint8)
    names = []
    for name, view, back in views(scan):
        names.append(name)
        again = back(view.astype(np.float32))
        assert again.shape == scan.shape
        inside = (slice(24, -24), slice(24, -24))
        np.testing.assert_allclose(again[inside], scan[inside], atol=1.5)
    assert names == ["flip", "shift", "shift", "scale", "scale"]


def test_quantities_of_a_network_that_agrees_with_itself_and_of_one_that_does_not():
    scan = picture(120, 160)
    scan[30:80, 40:110] = 160
    sure = Bright()
    _, probability = predict(sure, scan)
    quantities = dict(zip(QUANTITIES, quantities_of(sure, scan, probability), strict=True))
    assert quantities["flip"] < 0.01
    assert quantities["shift"] < 0.1
    assert quantities["scale"] < 0.15

    moving = Bright(shift=10)
    _, probability = predict(moving, scan)
    assert quantities_of(moving, scan, probability)[1] > 0.2  # mirrored, it moves the other way


def test_a_fit_is_read_back_for_its_network_only(tmp_path):
    fit = fit_trust(made_up(), "ab" * 32)
    path = tmp_path / "trust.json"
    path.write_text(json.dumps({"fit": as_written(fit)}))
    assert load_fit(path, "ab" * 32) == fit
    with pytest.raises(InputError, match="is of the network with sha256 abababababab"):
        load_fit(path, "cd" * 32)
    path.write_text("{}")
    with pytest.raises(InputError, match="expected a file that experiments/studies/trust.py"):
        load_fit(path, "ab" * 32)
