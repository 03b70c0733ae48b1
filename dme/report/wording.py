"""Fluid, thickness and scale in a few words."""

from dme.retina.volume import SCALE


def amount(row: dict) -> str:
    area_mm2 = row["fluid_area_mm2"]
    return f"{row['fluid_px']} px" if area_mm2 is None else f"{area_mm2:.3f} mm2"


def retina(row: dict) -> str:
    mean_um = row["retina_thickness_um"]
    return f"{row['retina_thickness_px']:.1f} px" if mean_um is None else f"{mean_um:.0f} um"


def caption(row: dict) -> str:
    """Fluid and thickness of a scan in a few words."""
    parts = [amount(row)] if "fluid_px" in row else []
    if "retina_thickness_px" in row:
        parts.append(f"retina {retina(row)}")
    return ", ".join(parts)


def scales_text(rows: list[dict]) -> str:
    texts = set()
    for scale in {tuple(row[key] for key in SCALE) for row in rows}:
        named = zip(("axial", "lateral", "B-scan spacing"), scale, strict=True)
        texts.add(
            ", ".join(f"{name} {um:g} um" for name, um in named if um is not None) or "unknown"
        )
    return "; ".join(sorted(texts))
