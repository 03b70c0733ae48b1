"""Synthetic scans of devices: anatomy of the three kinds of fluid, and what differs."""

import numpy as np
import pytest
from numpy.random import default_rng

from dme.data.opening import open_source
from dme.data.phantom_devices import (
    DEVICES,
    HELD_OUT,
    KINDS,
    PER_KIND,
    device_scan,
    held_out_scans,
    training_scans,
)


def test_the_same_number_gives_the_same_scans():
    first = list(training_scans(2))
    again = list(training_scans(2))
    for a, b in zip(first, again, strict=True):
        assert (a.image == b.image).all()
        assert (a.fluid == b.fluid).all()


def test_training_scans_are_of_all_devices_and_a_fifth_is_dry():
    scans = list(training_scans(10))
    assert {scan.scale_um[:2] for scan in scans} == {(d.axial_um, d.lateral_um) for d in DEVICES}
    assert [bool(scan.fluid.any()) for scan in scans[4::5]] == [False, False]
    assert all(scan.image.std() > 10 for scan in scans)


def test_no_training_device_is_the_held_out_one():
    assert (HELD_OUT.axial_um, HELD_OUT.lateral_um) not in {
        (device.axial_um, device.lateral_um) for device in DEVICES
    }


@pytest.mark.parametrize("kind", KINDS)
def test_fluid_lies_where_its_kind_lies(kind):
    """Above the bright pigment epithelium but below its membrane, or beneath it."""
    scan = device_scan(default_rng(5), DEVICES[0], (kind,), 0)
    columns = np.flatnonzero((scan.fluid == 1).sum(0) > 8)
    assert columns.size
    image = scan.image.astype(float)
    above, below = [], []
    for column in columns:
        rows = np.flatnonzero(scan.fluid[:, column])
        above.append(image[rows[0] - 14 : rows[0] - 1, column].max())
        below.append(image[rows[-1] + 2 : rows[-1] + 15, column].max())
    inside = image[scan.fluid == 1].mean()
    if kind == "ped":  # the epithelium is its roof
        assert np.median(above) > np.median(below)
    if kind == "srf":  # and the floor here
        assert np.median(below) > inside + 60
    assert np.median(above) > inside + 20


def test_the_held_out_set_is_by_kind_and_scale():
    source = open_source("phantom:devices")
    assert "SYNTHETIC" in source.description
    scans = list(held_out_scans())
    assert len(scans) == PER_KIND * len(KINDS)
    for place, kind in enumerate(KINDS):
        part = scans[place * PER_KIND : (place + 1) * PER_KIND]
        assert {scan.name.split("_")[2] for scan in part} == {kind, "dry"}
    assert {scan.scale_um for scan in scans} == {(3.1, 15.6, 123.0)}
