"""Numbers of scans and volumes in a few words."""

import re

from dme.retina.volume import SCALE

SHOWN_UNITS = {"px": "px", "um": "µm", "mm2": "mm²", "mm3": "mm³"}

# less in a scan is noise: about 23 px of a Spectralis B-scan
LEAST_FLUID_MM2 = 0.001
LEAST_FLUID_PX = 25
ALL_SCANNED = 99  # percent of a sector that count as all of it


def shown_units(text: str) -> str:
    """The text with the units' own signs, for pictures and pages; a terminal may lack them."""
    for unit, shown in SHOWN_UNITS.items():
        text = re.sub(rf"\b{unit}\b", shown, text)
    return text


def counted(count: int, noun: str) -> str:
    """Such as 1 region, 2 regions."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def count_wet(rows: list[dict]) -> int:
    """Scans with fluid, of at least LEAST_FLUID_MM2, without a scale LEAST_FLUID_PX."""
    count = 0
    for row in rows:
        if row["fluid_area_mm2"] is None:
            count += row["fluid_px"] >= LEAST_FLUID_PX
        else:
            count += row["fluid_area_mm2"] >= LEAST_FLUID_MM2
    return count


def least_fluid(rows: list[dict]) -> str:
    """From where on a scan counts as one with fluid."""
    without_scale = sum(row["fluid_area_mm2"] is None for row in rows)
    if without_scale == len(rows):
        return f"at least {LEAST_FLUID_PX} px"
    text = f"at least {LEAST_FLUID_MM2:g} mm2"
    if without_scale:
        scans = counted(without_scale, "scan")
        text += f", {LEAST_FLUID_PX} px in {scans} without scale"
    return text


def amount(row: dict) -> str:
    """Fluid of a scan: its area, without a scale its pixels."""
    area_mm2 = row["fluid_area_mm2"]
    if area_mm2 is None:
        return f"{row['fluid_px']} px"
    return f"{area_mm2:.3f} mm2"


def retina(row: dict) -> str:
    """Mean thickness of the retina in a scan, without a scale in pixels."""
    return _retina(row, digits=0)


def _retina(row: dict, digits: int) -> str:
    """Of a scan or a volume; digits: of micrometres."""
    mean_um = row["retina_thickness_um"]
    if row["retina_thickness_px"] is None:
        return "unknown"
    if mean_um is None:
        return f"{row['retina_thickness_px']:.1f} px"
    return f"{mean_um:.{digits}f} um"


def caption(row: dict) -> str:
    """Fluid and thickness of a scan."""
    parts = []
    if "fluid_px" in row:
        parts.append(amount(row))
    if "retina_thickness_px" in row:
        parts.append(f"retina {retina(row)}")
    return ", ".join(parts)


def volume_line(volume: dict) -> str:
    """Fluid and thickness of a volume."""
    parts = []
    if "fluid_px" in volume:
        parts.append(f"fluid {volume['fluid_px']} px, {_fluid_volume(volume)}")
    if "retina_thickness_px" in volume:
        parts.append(f"retina {_retina(volume, digits=1)}")
        parts.append(f"central subfield thickness (CST) {_central_subfield(volume)}")
    return f"volume {volume['volume']}: {', '.join(parts)}, in {volume['bscans']} B-scans"


def _fluid_volume(volume: dict) -> str:
    volume_mm3 = volume["fluid_volume_mm3"]
    if volume_mm3 is None:
        return "volume unknown without B-scan spacing"
    return f"{volume_mm3:.4f} mm3"


def _central_subfield(volume: dict) -> str:
    thickness_um = volume["central_subfield_thickness_um"]
    if thickness_um is None:
        return "unknown without scale, or with the fovea outside"
    # a mean over a part of the circle is another number
    text = f"{thickness_um:.1f} um"
    covered = volume["retina_sectors"][0]["covered_percent"]
    if covered < ALL_SCANNED:
        text += f" ({covered:.0f} % of it scanned)"
    return text


def scales_text(rows: list[dict]) -> str:
    """All scales that occur among scans, or that they are unknown."""
    # each scale once, however many scans have it
    texts = set()
    for row in rows:
        parts = []
        for name, key in zip(("axial", "lateral", "B-scan spacing"), SCALE, strict=True):
            if row[key] is not None:
                parts.append(f"{name} {row[key]:g} um")
        texts.add(", ".join(parts) or "unknown")
    return "; ".join(sorted(texts))
