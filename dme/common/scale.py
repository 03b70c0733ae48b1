"""Sizes of pixels and distances of B-scans in micrometres: which of them a scan can have."""

import math
from collections.abc import Sequence

from dme.common.errors import InputError
from dme.common.options import numbers

# name -> least and largest in um: wider than what instruments of today do
PLAUSIBLE_UM = {
    "axial": (1.0, 10.0),
    "lateral": (2.0, 40.0),
    "spacing": (5.0, 500.0),
}
# other units that readers and headers use -> um in one of them
UNITS_UM = {"mm": 1e3, "m": 1e6, "nm": 1e-3}


def check_scale(scale_um: Sequence[float], source: str) -> None:
    """Raise InputError for a scale (axial, lateral[, spacing]) that no scan has, with a guess why.

    source: where it stands, for the message.
    """
    if _plausible(scale_um):
        return
    ranges = []
    for name, (least, most) in PLAUSIBLE_UM.items():
        ranges.append(f"{name} {least:g} to {most:g}")
    expected = f"expected um: {', '.join(ranges)}"
    raise InputError(f"{source}: {_guess(scale_um)}; {expected}")


def given_scale(text: str | None) -> tuple[float, ...] | None:
    """Axial, lateral and, if given, spacing in um, of the option `scale`; None without it.

    Raises InputError for other than two or three numbers, and for what `check_scale` refuses.
    """
    scale_um = numbers("scale", text, "axial,lateral or axial,lateral,spacing", (2, 3))
    if scale_um:
        check_scale(scale_um, f"`scale` {text}")
    return scale_um


def _plausible(scale_um: Sequence[float]) -> bool:
    within = []
    for value, (least, most) in zip(scale_um, PLAUSIBLE_UM.values(), strict=False):
        within.append(math.isfinite(value) and least <= value <= most)
    return all(within)


def _guess(scale: Sequence[float]) -> str:
    """What the numbers seem to be."""
    axial, lateral, *rest = scale
    if _plausible((lateral, axial, *rest)):
        return f"axial {axial:g} and lateral {lateral:g} look swapped: give {lateral:g},{axial:g}"
    for unit, factor in UNITS_UM.items():
        scale_um = [float(f"{value * factor:.6g}") for value in scale]
        if _plausible(scale_um):
            text = ",".join(f"{value:g}" for value in scale_um)
            return f"these look like {unit}: in um they are {text}"

    # the first that is wrong, where no other unit fits them all
    for value, (name, limits) in zip(scale, PLAUSIBLE_UM.items(), strict=False):
        least, most = limits
        if not least <= value <= most:
            return f"{name} {value:g} um cannot be"
    return "these cannot be"
