"""Which eye each volume is of, from what was given, index.csv, and names, which are only said."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from dme.common.errors import InputError
from dme.data.volume_record import VolumeRecord
from dme.report.scans import Scan

EYE_WORD = re.compile(r"(?<![A-Z0-9])(OD|OS|RIGHT|LEFT)(?![A-Z0-9])")
ORIGIN = ("identifier", "device", "date")  # of a device's file, as its record has them
EYE_OF_WORD = {"OD": "OD", "RIGHT": "OD", "OS": "OS", "LEFT": "OS"}


@dataclass(frozen=True)
class VolumePlace:
    """What is known of where a volume lies in which eye."""

    eye: str | None = None  # of index.csv, or of the device's file
    fovea: tuple[float, ...] | None = None  # of index.csv
    named_eye: str | None = None  # as its name, or that of its folder, reads
    record: VolumeRecord | None = None  # of the device's file
    origin: dict[str, str | None] = field(default_factory=dict)  # what results tell of that file


@dataclass
class Eyes:
    """Eye of each volume, None where unknown, with what has to be said about it."""

    of_volume: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    contradictions: dict[str, str] = field(default_factory=dict)  # volume -> why it has no eye


def eye_in_name(name: str) -> str | None:
    """OD or OS if one of them is a word of the name, None if neither or both are."""
    words = EYE_WORD.findall(name.upper())
    eyes = {EYE_OF_WORD[word] for word in words}
    return eyes.pop() if len(eyes) == 1 else None


def place_of(scan: Scan, keep_dates: bool = False) -> VolumePlace:
    """Of the scan's volume. keep_dates: whether results may tell when it was taken."""
    folder = Path(scan.source).parent.name
    named_eye = eye_in_name(scan.volume) or eye_in_name(folder)
    origin = {}
    if scan.record:
        origin = {key: getattr(scan.record, key) for key in ORIGIN}
        if not keep_dates:
            del origin["date"]
    return VolumePlace(scan.eye, scan.fovea, named_eye, scan.record, origin)


def check_eye(eye: str | None, sources: list[str]) -> None:
    """Refuse one eye for several sources of which one is named after the other eye."""
    if eye is None or len(sources) == 1:
        return
    for source in sources:
        path = Path(source)
        named = eye_in_name(path.name) or eye_in_name(path.parent.name)
        if named not in (None, eye):
            raise InputError(
                f"`eye` {eye} is for all volumes, but {source} is named {named}: "
                "predict the eyes apart, or give an index.csv with a column eye"
            )


def eyes_of(places: dict[str, VolumePlace], given: str | None) -> Eyes:
    """Eye of every volume. given: the one that was asked for, if any."""
    eyes = Eyes()
    for volume, place in places.items():
        eye = place.eye or given
        named = place.named_eye
        if given and place.eye not in (None, given):
            eye = None
            origin = "its file" if place.record else "index.csv"
            eyes.contradictions[volume] = f"no eye: {origin} says {place.eye}, `eye` {given}"
        elif eye and named not in (None, eye):
            # the only volume is the one that was meant, whatever its name
            if place.eye or len(places) == 1:
                eyes.notes.append(f"{volume}: taken as {eye}, though it is named {named}")
            else:
                eye = None
                eyes.contradictions[volume] = f"no eye: its name says {named}, `eye` {given}"
        elif named and not eye:
            eyes.notes.append(
                f"{volume}: named {named}, which is not taken as its eye: give it with --eye, or "
                "in index.csv"
            )
        eyes.of_volume[volume] = eye
    return eyes
