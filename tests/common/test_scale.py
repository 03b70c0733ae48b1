"""Scales that scans can have, and what others seem to be."""

import math

import pytest

from dme.common.errors import InputError
from dme.common.scale import check_scale


@pytest.mark.parametrize(
    "scale_um",
    [
        (3.87, 11.33, 123),  # Spectralis
        (1.95, 11.7, 47),  # Cirrus
        (2.6, 11.7, 46.9),  # Topcon
        (3.07, 2.93, 5.86),  # OCTA
        (1, 2, 5),
        (10, 40, 500),
        (3.87, 11.33),
    ],
)
def test_scales_of_instruments_pass(scale_um):
    check_scale(scale_um, "--scale")


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ((0.00387, 0.01133, 0.123), "these look like mm: in um they are 3.87,11.33,123"),
        ((0.00387, 0.01133), "these look like mm: in um they are 3.87,11.33"),
        ((3.87e-6, 11.33e-6, 123e-6), "these look like m: in um they are 3.87,11.33,123"),
        ((3870, 11330, 123000), "these look like nm: in um they are 3.87,11.33,123"),
        ((11.33, 3.87, 123), "axial 11.33 and lateral 3.87 look swapped: give 3.87,11.33"),
        ((1e308, 1e308, 1e308), r"axial 1e\+308 um cannot be"),
        ((1e-300, 1e-300, 1e-300), "axial 1e-300 um cannot be"),
        ((3.87, 11.33, 0.123), "spacing 0.123 um cannot be"),
        ((3.87, 11.33, 501), "spacing 501 um cannot be"),
        ((3.87, 40.1), "lateral 40.1 um cannot be"),
        ((3.87, math.nan), "lateral nan um cannot be"),
        ((-3.87, 11.33), "axial -3.87 um cannot be"),
    ],
)
def test_others_are_refused_with_a_guess(scale, message):
    with pytest.raises(InputError, match=f"^here: {message}; expected um: axial 1 to 10, lateral"):
        check_scale(scale, "here")
