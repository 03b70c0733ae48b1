"""Numbers of scans and volumes in a few words."""

from dme.retina.volume import SCALE

ALL_SCANNED = 99  # percent of a sector that count as all of it


def counted(count: int, noun: str) -> str:
    """Such as 1 region, 2 regions."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def count_wet(rows: list[dict]) -> int:
    """Scans with fluid, however little."""
    return sum(row["fluid_px"] > 0 for row in rows)


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
