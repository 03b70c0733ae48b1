"""The volumes among the predicted scans: their numbers, and their maps as pictures."""

from collections.abc import Sequence

import numpy as np

from dme.common.errors import InputError
from dme.drawing.canvas import save_png
from dme.drawing.enface import Place, map_picture
from dme.report.batch import Work
from dme.retina.volume import SECTORS, measure_volume

MAP_KEYS = {"fluid": "map", "retina": "retina_map"}  # where a volume names the files of its maps
MAP_FOLDERS = ("maps", "retina_maps")


def measure_volumes(work: Work, eye: str | None, fovea: Sequence[float] | None) -> list[dict]:
    """Numbers of each volume, with its maps as pictures; what cannot be measured is reported.

    eye, fovea: as of `dme.retina.volume.measure_volume`.
    """
    volumes = []
    owners = [owner for owner, _ in work.thickness_px]
    for name in dict.fromkeys(owners):
        rows = [row for row in work.rows if row["volume"] == name]
        lines_px = {
            kind: lines for (owner, kind), lines in work.thickness_px.items() if owner == name
        }

        # B-scans of different sizes are no volume; without sectors it is still one
        try:
            volume, maps = measure_volume(rows, lines_px, work.ranges[name], eye, fovea)
        except InputError as e:
            work.skip(name, str(e))
            continue
        has_sectors = any(volume[SECTORS[kind]] for kind in maps)
        if fovea and volume["spacing_um"] and not has_sectors:
            work.skip(name, _fovea_outside(volume, fovea))

        for kind, thickness in maps.items():
            key = MAP_KEYS[kind]
            volume[key] = f"{key}s/{name}.png"
            picture = volume_picture(volume, kind, thickness, sorted(lines_px[kind]))
            save_png(work.out / volume[key], picture)
        volumes.append(volume)
    return volumes


def _fovea_outside(volume: dict, fovea: Sequence[float]) -> str:
    column, bscan = fovea
    bscans = f"B-scans {volume['first_bscan']} to {volume['last_bscan']}"
    within = f"{volume['width_px']} columns, {bscans}"
    return f"no sectors: fovea {column:g},{bscan:g} lies outside ({within})"


def volume_picture(
    volume: dict, kind: str, thickness: np.ndarray, predicted: Sequence[int]
) -> np.ndarray:
    """Picture of a map of a volume, uint8 (H, W, 3).

    kind: "fluid" or "retina". thickness: (B-scans, columns). predicted: positions of the B-scans
    that were not interpolated.
    """
    first = volume["first_bscan"]
    unit = "px" if volume["axial_um"] is None else "um"

    # circles only where there are sectors, which takes a scale
    scale_um = centre = None
    if volume["spacing_um"] is not None:
        scale_um = (volume["lateral_um"], volume["spacing_um"])
    if volume[SECTORS[kind]]:
        centre = (volume["fovea_column"], volume["fovea_bscan"] - first)
    place = Place(scale_um, centre, volume["eye"])

    # colours of fluid start at none, those of the retina where it is thinnest
    lowest = 0.0 if kind == "fluid" else float(np.nanmin(thickness))
    rows = [position - first for position in predicted]
    title = volume["volume"] + _size(volume, kind)
    return map_picture(thickness, title, f"{kind} thickness ({unit})", place, rows, lowest)


def _size(volume: dict, kind: str) -> str:
    """The number that stands beside a volume's name; nothing where it is unknown."""
    if kind == "fluid" and volume["fluid_volume_mm3"] is not None:
        return f": {volume['fluid_volume_mm3']:.4f} mm3"
    if kind == "retina" and volume["central_subfield_thickness_um"] is not None:
        return f": central subfield {volume['central_subfield_thickness_um']:.0f} um"
    return ""
