"""Every shipped network finds on a dozen real scans what it found when it was shipped, to 1e-3."""

from pathlib import Path

import numpy as np
import pytest

import dme
from dme.bscan import BScan
from dme.data.opening import open_source
from dme.retina.accuracy import boundary_errors_px

EVERY = 9  # of the scans of a set
TOLERANCE = 1e-3


def a_dozen(folder: Path) -> list[BScan]:
    return list(open_source(folder).scans())[::EVERY]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "dice"), [("dme-fluid", 0.7001), ("dme-fluid-fast", 0.6453)])
def test_fluid_of_a_dozen_scans(real_data, network, dice):
    model = dme.load_model(network)
    hit = sizes = 0
    for scan in a_dozen(real_data / "chiu2015"):
        mask, _ = dme.predict(model, scan.image, scale_um=scan.scale_um[:2])
        known = scan.fluid != 255
        truth = (scan.fluid == 1) & known
        found = (mask == 1) & known
        hit += (truth & found).sum()
        sizes += truth.sum() + found.sum()
    assert 2 * hit / sizes == pytest.approx(dice, abs=TOLERANCE)


@pytest.mark.slow
def test_boundaries_of_a_dozen_scans(real_data):
    model = dme.load_model("octlayers")
    errors = []
    for scan in a_dozen(real_data / "octlayers"):
        rows = dme.predict_layers(model, scan.image)
        errors.append(boundary_errors_px(rows, scan.layers)[-1])
    assert np.mean(errors) == pytest.approx(0.7630, abs=TOLERANCE)
