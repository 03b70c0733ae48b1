"""The volumes among the predicted scans: their numbers, and their maps as pictures."""

from collections.abc import Mapping, Sequence

import numpy as np

from dme.common.errors import InputError, with_flags
from dme.data.volume_record import VolumeRecord
from dme.drawing.canvas import save_png
from dme.drawing.enface import Place, Span, map_area, map_picture
from dme.report.batch import Work
from dme.report.eyes import VolumePlace, eyes_of
from dme.report.mending import hatched_map, mend_volume, shares_percent
from dme.retina.volume import SECTORS, enface_map, measure_volume, rows_of_gaps

BRIGHTENED = 3  # times; columns are dark on average
LEAST_COVERED = 10  # percent of a sector from which on a map writes its mean
MAP_KEYS = {"fluid": "map", "retina": "retina_map"}  # where a volume names the files of its maps
MAP_FOLDERS = ("maps", "retina_maps", "enface")


def measure_volumes(
    work: Work, eye: str | None, fovea: Sequence[float] | None, notes: list[str]
) -> list[dict]:
    """Numbers of each volume, with its maps as pictures; what cannot be measured is reported.

    eye, fovea: those that were given, as of `dme.retina.volume.measure_volume`; index.csv may know
    better. notes: to which others are added.
    """
    owners = dict.fromkeys(owner for owner, _ in work.thickness_px)
    places = {name: work.places.get(name, VolumePlace()) for name in owners}
    eyes = eyes_of(places, eye)
    notes += eyes.notes
    for name, reason in eyes.contradictions.items():
        work.skip(name, with_flags(reason))
    notes += _notes_on_given(places, eye, fovea)

    volumes = []
    for name in owners:
        rows = [row for row in work.rows if row["volume"] == name]
        lines_px = {
            kind: lines for (owner, kind), lines in work.thickness_px.items() if owner == name
        }
        volume_eye = eyes.of_volume[name]
        volume_fovea = places[name].fovea or fovea

        # B-scans of different sizes are no volume; without sectors it is still one
        try:
            reach = work.ranges[name]
            rows_at = bscan_rows(places[name].record)
            mended = mend_volume(work, rows, lines_px)
            volume, maps = measure_volume(rows, lines_px, reach, volume_eye, volume_fovea, rows_at)
        except InputError as e:
            work.skip(name, str(e))
            continue
        has_sectors = any(volume[SECTORS[kind]] for kind in maps)
        if volume_fovea and volume["spacing_um"] and not has_sectors:
            work.skip(name, _fovea_outside(volume, volume_fovea))
        notes += _place_notes(volume, places[name].record)
        volume |= places[name].origin

        volume["maps"] = []
        if mended:
            volume |= shares_percent(mended)
        for kind, thickness in maps.items():
            hatched = None
            if kind == "retina" and mended:
                hatched = hatched_map(mended, reach, rows_at)
            key = MAP_KEYS[kind]
            volume[key] = f"{key}s/{name}.png"
            span = _span(thickness, kind)
            predicted = sorted(lines_px[kind])
            picture = volume_picture(volume, kind, thickness, predicted, span, hatched)
            save_png(work.out / volume[key], picture)
            volume["maps"].append(_map_view(volume, kind, thickness.shape, span))
        volume["enface"] = f"enface/{name}.png"
        brightness = work.brightness[name]
        save_png(work.out / volume["enface"], enface_picture(brightness, reach))
        volumes.append(volume)
    return volumes


def _notes_on_given(
    places: Mapping[str, VolumePlace], eye: str | None, fovea: Sequence[float] | None
) -> list[str]:
    """Where the eye and the fovea that were given have no effect. places: of all volumes."""
    notes = []
    if not places and (eye or fovea):
        options = [name for name, given in (("--eye", eye), ("--fovea", fovea)) if given]
        has = "have" if len(options) > 1 else "has"
        notes.append(f"no volume: {' and '.join(options)} {has} no effect")
    if fovea and len(places) > 1:
        notes.append(f"one --fovea for {len(places)} volumes: index.csv can give each its own")
    for name, place in places.items():
        if fovea and place.fovea and tuple(place.fovea) != tuple(fovea):
            notes.append(f"{name}: the fovea of index.csv is taken, not that of --fovea")
    return notes


def bscan_rows(record: VolumeRecord | None) -> list[float] | None:
    """As of `dme.retina.volume.rows_of_gaps`, from the inferior B-scan to the superior one."""
    if record is None or record.gaps_um is None:
        return None
    gaps_um = record.gaps_um[::-1] if record.superior_first else record.gaps_um
    return rows_of_gaps(gaps_um)


def _place_notes(volume: dict, record: VolumeRecord | None) -> list[str]:
    """Where the sectors' centre comes from, and that B-scans lie at unequal distances."""
    name = volume["volume"]
    notes = []
    if volume["bscan_rows"]:
        gaps_um = f"{min(record.gaps_um):.0f} to {max(record.gaps_um):.0f} um"
        notes.append(f"{name}: B-scans lie {gaps_um} apart: maps and mm3 respect each gap")
    confidence = volume["fovea_confidence"]
    if confidence is not None:
        place = f"column {volume['fovea_column']:.0f}, B-scan {volume['fovea_bscan']:.1f}"
        origin = f"found in the retina's thickness at {place}"
        if volume["fovea_from"] == "centre":
            origin = f"no pit found, the centre of the volume taken: {place}"
        notes.append(f"{name}: fovea {origin} (confidence {confidence:.2f})")
    return notes


def _fovea_outside(volume: dict, fovea: Sequence[float]) -> str:
    column, bscan = fovea
    bscans = f"B-scans {volume['first_bscan']} to {volume['last_bscan']}"
    within = f"{volume['width_px']} columns, {bscans}"
    return f"no sectors: fovea {column:g},{bscan:g} lies outside ({within})"


def _unit(volume: dict) -> str:
    return "px" if volume["axial_um"] is None else "\N{MICRO SIGN}m"


def _map_scale_um(volume: dict) -> tuple[float, float] | None:
    """Lateral and spacing, if both are known."""
    if volume["spacing_um"] is None:
        return None
    return volume["lateral_um"], volume["spacing_um"]


def _map_view(volume: dict, kind: str, shape: tuple[int, int], span: Span) -> dict:
    """Where a map of this shape lies in its picture, and what its colours stand for."""
    return {
        "kind": kind,
        "file": volume[MAP_KEYS[kind]],
        "map_rows": shape[0],
        "area": map_area(shape, _map_scale_um(volume)),  # left, top, width, height
        "lowest": span.lowest,
        "highest": span.highest,
        "unit": _unit(volume),
    }


def _span(thickness: np.ndarray, kind: str) -> Span:
    """Colours of fluid start at none, those of the retina where it is thinnest."""
    lowest = 0.0 if kind == "fluid" else _lowest(thickness)
    highest = float(np.nanmax(thickness, initial=0))
    if highest <= lowest:
        highest = lowest + 1
    return Span(lowest, highest)


def volume_picture(
    volume: dict,
    kind: str,
    thickness: np.ndarray,
    predicted: Sequence[int],
    span: Span,
    hatched: np.ndarray | None = None,
) -> np.ndarray:
    """Picture of a map of a volume, uint8 (H, W, 3).

    kind: "fluid" or "retina". thickness: (B-scans, columns). predicted: positions of the B-scans
    that were not interpolated. span: what the colours stand for. hatched: bool as the thickness,
    what was not measured.
    """
    first = volume["first_bscan"]

    # circles only where there are sectors, which takes a scale
    centre = None
    means = []
    scale_um = _map_scale_um(volume)
    if volume[SECTORS[kind]]:
        centre = (volume["fovea_column"], volume["fovea_bscan"] - first)
        means = written_means(volume[SECTORS[kind]])
    place = Place(scale_um, centre, volume["eye"], means)

    rows_at = volume["bscan_rows"] or range(volume["last_bscan"] - first + 1)
    rows = [rows_at[position - first] for position in predicted]
    title = volume["volume"] + _size(volume, kind)
    quantity = f"{kind} thickness ({_unit(volume)})"
    return map_picture(thickness, title, quantity, place, rows, span, hatched)


def written_means(sectors: Sequence[dict]) -> list[float | None]:
    """What a map writes into its sectors, um; None where next to nothing of one was seen."""
    means = []
    for sector in sectors:
        seen = sector["covered_percent"] >= LEAST_COVERED
        means.append(sector["mean_um"] if seen else None)
    return means


def enface_picture(brightness: Mapping[int, np.ndarray], span: tuple[int, int]) -> np.ndarray:
    """A volume from the front, uint8 (B-scans, columns), the last B-scan at the top.

    brightness: mean grey (W,) of the columns of each B-scan by its position. span: first and last.
    """
    enface = np.nan_to_num(enface_map(brightness, *span))
    return (enface[::-1] * BRIGHTENED).round().clip(0, 255).astype(np.uint8)


def _lowest(thickness: np.ndarray) -> float:
    """The least of the known values, 0 without any."""
    known = thickness[np.isfinite(thickness)]
    return float(known.min()) if known.size else 0.0


def _size(volume: dict, kind: str) -> str:
    """The number that stands beside a volume's name; nothing where it is unknown."""
    if kind == "fluid" and volume["fluid_volume_mm3"] is not None:
        return f": {volume['fluid_volume_mm3']:.4f} mm\N{SUPERSCRIPT THREE}"
    if kind == "retina" and volume["central_subfield_thickness_um"] is not None:
        return f": central subfield {volume['central_subfield_thickness_um']:.0f} \N{MICRO SIGN}m"
    return ""
