"""The pit of thickness maps: of synthetic volumes with a known fovea, and of made-up surfaces."""

import numpy as np
import pytest
from numpy.random import default_rng

from dme.data.duke import DUKE_SCALE_UM
from dme.data.phantom_anatomy import Eye, layer_thickness
from dme.retina.fovea import LEAST_CONFIDENCE, find_pit, place_fovea

AXIAL_UM, LATERAL_UM, SPACING_UM = DUKE_SCALE_UM


def phantom_map(seed: int, severity: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Thickness (61, 768) um of a SYNTHETIC eye, without cysts, and its fovea."""
    rng = default_rng(seed)
    eye = Eye(rng, severity)
    lines = [layer_thickness(rng, eye, float(z), []).sum(axis=0) for z in range(0, 61)]
    return AXIAL_UM * np.stack(lines), eye.fovea


def surface(pit=(30, 14), depth_um=100.0, shape=(31, 61)) -> np.ndarray:
    """300 um with a pit at (column, B-scan); cells of 100 x 100 um."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance_um = 100 * np.hypot(columns - pit[0], rows - pit[1])
    return 300 - depth_um * np.exp(-((distance_um / 400) ** 2))


@pytest.mark.parametrize(("seed", "severity"), [(0, 0.0), (7, 0.4)])
def test_known_fovea_of_phantom_volumes(seed, severity):
    retina_um, (column, bscan) = phantom_map(seed, severity)
    fovea = place_fovea(retina_um, LATERAL_UM, SPACING_UM, (383.5, 30))
    error_um = np.hypot((fovea.column - column) * LATERAL_UM, (fovea.bscan - bscan) * SPACING_UM)
    assert fovea.origin == "found" and error_um < 50, (fovea, error_um)


def test_a_pit_filled_by_oedema_leaves_the_centre():
    retina_um, _ = phantom_map(seed=1, severity=1.0)
    fovea = place_fovea(retina_um, LATERAL_UM, SPACING_UM, (383.5, 30))
    assert (fovea.origin, fovea.column, fovea.bscan) == ("centre", 383.5, 30)
    assert fovea.confidence < LEAST_CONFIDENCE


def test_the_deeper_the_surer():
    confidences = [find_pit(surface(depth_um=depth), 100, 100)[2] for depth in (0, 10, 25, 100)]
    assert confidences[0] == 0 and confidences[-1] == 1
    assert confidences == sorted(confidences)
    column, bscan, _ = find_pit(surface(pit=(34.3, 12.6)), 100, 100)
    assert (column, bscan) == pytest.approx((34.3, 12.6), abs=0.2)


def test_slopes_edges_and_unknown_places_are_no_pit():
    rows, columns = np.mgrid[:31, :61]
    slope = 300.0 - 3 * columns
    cliff = np.where(columns > 35, 150.0, 300.0)
    holes = surface()
    holes[:, 27:34] = np.nan
    at_the_edge = surface(pit=(30, 1))
    # where boundaries follow a cyst's rim in place of the retina's
    cyst = np.where(np.hypot(columns - 30, rows - 15) < 4, 250.0, 450.0)
    collapsed = surface()
    collapsed[12:14] = 20
    nothing = np.full((31, 61), np.nan)
    for retina_um in (slope, cliff, holes, at_the_edge, cyst, collapsed, nothing):
        assert find_pit(retina_um, 100, 100)[2] < LEAST_CONFIDENCE
    assert place_fovea(None, 100, 100, (1, 2)).confidence is None
    assert place_fovea(surface(), None, None, (1, 2)).origin == "centre"
