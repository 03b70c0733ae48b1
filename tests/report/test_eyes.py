"""Which eye a volume is of."""

import pytest

from dme.common.errors import InputError
from dme.report.eyes import VolumePlace, check_eye, eye_in_name, eyes_of


@pytest.mark.parametrize(
    ("name", "eye"),
    [
        ("P01_OD", "OD"),
        ("P01-os", "OS"),
        ("OS", "OS"),
        ("OS_2", "OS"),
        ("patient 3 left", "OS"),
        ("P01_OD_visit2", "OD"),
        ("pos", None),
        ("ODS", None),
        ("OD_and_OS", None),
        ("", None),
    ],
)
def test_eyes_in_names(name, eye):
    assert eye_in_name(name) == eye


def test_one_eye_is_not_for_folders_of_both():
    check_eye("OD", ["a/P1_OD", "a/P2"])
    check_eye("OD", ["a/P1_OS"])  # the only one is what was meant
    with pytest.raises(
        InputError, match="`eye` OD is for all volumes, but P1/OS/v.npy is named OS"
    ):
        check_eye("OD", ["P1/OD/v.npy", "P1/OS/v.npy"])


def test_what_index_and_names_say_of_eyes():
    # index.csv knows, a name is only said
    places = {
        "a": VolumePlace(eye="OS"),
        "b": VolumePlace(named_eye="OD"),
        "c": VolumePlace(),
    }
    eyes = eyes_of(places, None)
    assert eyes.of_volume == {"a": "OS", "b": None, "c": None}
    assert len(eyes.notes) == 1
    assert eyes.notes[0].startswith("b: named OD, which is not taken as its eye")

    # one eye for all: not for those that contradict it
    eyes = eyes_of(places | {"d": VolumePlace(named_eye="OS")}, "OD")
    assert eyes.of_volume == {"a": None, "b": "OD", "c": "OD", "d": None}
    assert eyes.contradictions == {
        "a": "no eye: index.csv says OS, `eye` OD",
        "d": "no eye: its name says OS, `eye` OD",
    }

    # the only volume is the one that was meant, whatever its name
    eyes = eyes_of({"d": VolumePlace(named_eye="OS")}, "OD")
    assert eyes.of_volume == {"d": "OD"}
    assert eyes.notes == ["d: taken as OD, though it is named OS"]
