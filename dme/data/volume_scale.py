"""Whether the scale that stands in a device's file can be, beside the places of its B-scans."""

import math

from dme.common.errors import InputError
from dme.common.scale import PLAUSIBLE_UM, check_scale
from dme.data.volume_geometry import length_mm
from dme.data.volume_record import VolumeRecord

MOST_APART = 0.02  # of a length; places are rounded to micrometres, lengths count W or W - 1 px
MOST_GAP_APART = 0.05  # of a gap


def scale_fault(volume: VolumeRecord) -> str | None:
    """What is wrong with the scale of a file, in words; None where nothing is."""
    return pixel_fault(volume) or spacing_fault(volume)


def pixel_fault(volume: VolumeRecord) -> str | None:
    """The same of the sizes of pixels alone."""
    if volume.axial_um is None or volume.lateral_um is None:
        return None
    try:
        check_scale((volume.axial_um, volume.lateral_um), "scale")
    except InputError as e:
        return str(e)
    return _length_fault(volume)


def spacing_fault(volume: VolumeRecord) -> str | None:
    """The same of the distances of B-scans."""
    least, most = PLAUSIBLE_UM["spacing"]
    for gap_um in volume.gaps_um or ():
        if not least <= gap_um <= most:
            expected = f"expected {least:g} to {most:g}"
            return f"spacing: two B-scans lie {gap_um:.4g} um apart, {expected}"

    # two words of the file on one thing
    stated = volume.stated_spacing_um
    mean = volume.spacing_um
    if stated and mean and abs(stated - mean) > MOST_GAP_APART * mean:
        found = f"spacing {stated:.4g} um contradicts the places of the B-scans"
        return f"{found}, which lie {mean:.4g} um apart"
    return None


def _length_fault(volume: VolumeRecord) -> str | None:
    """Width times scale against start and end of the B-scans."""
    if not volume.places or not volume.lateral_um:
        return None
    width = volume.shape[1]
    by_scale_mm = width * volume.lateral_um / 1e3
    for index, place in enumerate(volume.places):
        by_place_mm = length_mm(place)
        if volume.pattern == "circle":
            by_place_mm *= 2 * math.pi
        if abs(by_scale_mm - by_place_mm) > MOST_APART * by_scale_mm:
            found = f"lateral {volume.lateral_um:.5g} um times {width} px is {by_scale_mm:.3f} mm"
            stands = f"B-scan {index} is {by_place_mm:.3f} mm long by its start and end"
            return f"{found}, but {stands}"
    return None
