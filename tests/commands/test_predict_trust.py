"""`predict --trust`: a predicted Dice and an interval of the area for every scan."""

import json

import numpy as np
import pytest
from helpers.scan_files import picture, save

from dme.common.errors import InputError
from dme.inference.trust import QUANTITIES, TrustFit, as_written
from dme.report.doubts import UNSURE
from dme.report.networks import trust_for

OF_BRIGHT = "ab" * 32  # checksum of the network Bright


def save_fit(path, flag_below, sha256=OF_BRIGHT):
    """A fit that calls every Dice 0.8, and areas right to half of what is in doubt."""
    ones = np.ones(len(QUANTITIES)).tolist()
    fit = TrustFit(
        sha256, ones, ones, (0 * np.ones(len(QUANTITIES))).tolist(), 0.8, flag_below, -0.5, 0.5
    )
    path.write_text(json.dumps({"fit": as_written(fit)}))
    return path


def test_every_scan_has_a_dice_and_an_interval(predict, tmp_path):
    file = save(tmp_path / "a.png", picture())
    fit = save_fit(tmp_path / "trust.json", flag_below=0.5)
    done = predict(file, "--scale", "4,10", "--trust", fit)
    (row,) = done.table()
    assert float(row["predicted_dice"]) == 0.8
    low, area, high = (float(row[f"fluid_area_{name}mm2"]) for name in ("low_", "", "high_"))
    assert low < area < high
    assert row["doubt"] == ""
    assert done.results()["scans"][0]["predicted_dice"] == 0.8
    assert "predicted Dice" in done.page()


def test_scans_of_which_the_network_is_unsure_come_first(predict, tmp_path):
    save(tmp_path / "in" / "a.png", picture())
    fit = save_fit(tmp_path / "trust.json", flag_below=0.9)
    done = predict(tmp_path / "in", "--trust", fit)
    (row,) = done.table()
    assert row["doubt"] == UNSURE
    assert row["fluid_area_low_mm2"] == ""  # without a scale
    assert f"1 of 1 scans doubtful: {UNSURE}" in done.printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tta"], "--trust was fitted without --tta"),
        (["--threshold", "0.4"], "--trust was fitted without --tta, at --threshold 0.5"),
    ],
)
def test_what_it_was_not_fitted_for_is_refused(predict, tmp_path, arguments, message):
    file = save(tmp_path / "a.png", picture())
    fit = save_fit(tmp_path / "trust.json", flag_below=0.5)
    done = predict(file, "--trust", fit, *arguments)
    assert done.code == 2
    assert message in done.errors


def test_without_fluid_there_is_nothing_to_believe():
    assert trust_for(None, {}) is None
    with pytest.raises(InputError, match="`trust` is about fluid"):
        trust_for("trust.json", {"layers": None})


def test_a_fit_of_another_network_is_refused(predict, tmp_path):
    file = save(tmp_path / "a.png", picture())
    fit = save_fit(tmp_path / "trust.json", flag_below=0.5, sha256="cd" * 32)
    done = predict(file, "--trust", fit)
    assert done.code == 2
    assert "fit it again for this one" in done.errors
