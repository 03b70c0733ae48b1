"""What readers find in real exports, beside the figures that are known of them."""

import csv
from pathlib import Path

import pytest

from dme.data.volume_files import open_volume, volume_reader


def test_every_export_gives_its_figures(vendor):
    """expected.csv: file, bscans, height_px, width_px, scale in um, eye, pattern, enface_px."""
    with open(vendor / "expected.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if volume_reader(Path(row["file"]))]
    assert rows
    for row in rows:
        volume = open_volume(vendor / row["file"])
        assert volume.bscans == int(row["bscans"].split()[0]), row
        assert volume.shape == (int(row["height_px"]), int(row["width_px"])), row
        for key in ("axial_um", "lateral_um", "spacing_um"):
            if row[key]:
                assert getattr(volume, key) == pytest.approx(float(row[key]), rel=0.01), row
        assert volume.pattern == row["pattern"] and volume.eye == (row["eye"] or None), row
        height, width = row["enface_px"].split()[0].split("x")
        assert volume.enface.shape == (int(height), int(width)), row
