"""Pictures of the eye's surface, of device files that have one: where the B-scans lie."""

from collections.abc import Sequence

import numpy as np

from dme.common.errors import InputError
from dme.data.volume_record import VolumeRecord
from dme.drawing.canvas import save_png
from dme.drawing.surface import Trace, surface_picture
from dme.report.batch import Work
from dme.report.volumes import bscan_rows
from dme.retina.volume import enface_map

FOLDER = "surfaces"


def draw_surfaces(work: Work, volumes: Sequence[dict], notes: list[str]) -> list[dict]:
    """A row for each file with such a picture: volume, pattern, surface (the file); saves them.

    notes: to which those are added that cannot be read.
    """
    measured = {volume["volume"]: volume for volume in volumes}
    rows = list(work.surfaces)
    for name, record in work.records.items():
        enface = record.enface
        if enface is None or enface.read is None or not record.places:
            continue
        try:
            surface = enface.read()
        except InputError as e:
            notes.append(f"no en-face picture: {e}")
            continue

        # fluid is drawn where it was looked for in a raster
        fluid_um = None
        columns_px = work.thickness_px.get((name, "fluid"))
        if name in measured and columns_px:
            first, last = work.ranges[name]
            fluid_px = enface_map(columns_px, first, last, bscan_rows(record))
            fluid_um = on_surface(fluid_px * (measured[name]["axial_um"] or 1), record)
        picture = surface_picture(surface, enface.scale_um, traces_of(record), name, fluid_um)
        row = {"volume": name, "pattern": record.pattern, "surface": surface_file(name)}
        save_png(work.out / row["surface"], picture)
        rows.append(row)
    return rows


def surface_file(name: str) -> str:
    """Where in the results the picture of a volume is."""
    return f"{FOLDER}/{name}.png"


def traces_of(record: VolumeRecord) -> list[Trace]:
    """Where its B-scans lie, also those without a picture."""
    circle = record.pattern == "circle"
    available = set(record.available)
    traces = []
    for index, place in enumerate(record.places):
        traces.append(Trace(place.start_mm, place.end_mm, circle, index in available))
    return traces


def on_surface(values: np.ndarray, record: VolumeRecord) -> np.ndarray:
    """A map (B-scans, columns) of a raster, the inferior B-scan first, as the en-face picture has
    it: (H, W), NaN outside of the B-scans.
    """
    # along the B-scans, and across them from the inferior to the superior one
    places = record.places[::-1] if record.superior_first else record.places
    first_mm = np.array(places[0].start_mm)
    along = np.array(places[0].end_mm) - first_mm
    length_mm = np.hypot(*along)
    along /= length_mm
    up = np.array([along[1], -along[0]])
    reach_mm = float((np.array(places[-1].start_mm) - first_mm) @ up)

    # every pixel from the begin of the inferior B-scan on
    rows, columns = np.indices(record.enface.shape)
    across_um, down_um = record.enface.scale_um
    x_mm = (columns + 0.5) * across_um / 1e3 - first_mm[0]
    y_mm = (rows + 0.5) * down_um / 1e3 - first_mm[1]
    along_mm = x_mm * along[0] + y_mm * along[1]
    up_mm = x_mm * up[0] + y_mm * up[1]

    # the map's cell at every pixel
    height, width = values.shape
    column = np.floor(along_mm / length_mm * width).astype(int)
    row = np.rint(up_mm / reach_mm * (height - 1)).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    there = values[row.clip(0, height - 1), column.clip(0, width - 1)]
    return np.where(inside, there, np.nan)
