"""Pages with a viewer, of scans that were made up: no network is needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dme.drawing.canvas import save_png
from dme.drawing.html import Column, Table
from dme.report.page import Page
from dme.report.scan_files import write_thumbnail, write_values
from dme.report.viewer import viewer_content

WIDTH = 60  # of a scan, px
HEIGHT = 40
KINDS = ("mask", "probability", "rows", "truth", "truth_rows")  # of values of a scan
MAP_AREA = (28, 64, 640, 400)  # left, top, width, height of a map in its picture
COLUMNS = [Column("fluid_area_mm2", "fluid mm²", 4), Column("retina_um", "retina µm", 1)]


def scan_rows(count: int, volume: str | None = "eye") -> list[dict]:
    """Rows of B-scans 0, 1, ..., as they stand in measurements.json; fluid grows with them."""
    rows = []
    for i in range(count):
        row = {"scan": f"eye_bscan{i:03d}", "volume": volume, "bscan": i, "doubt": ""}
        row |= {"width_px": WIDTH, "height_px": HEIGHT}
        row |= {"axial_um": 4.0, "lateral_um": 10.0, "spacing_um": 120.0}
        row |= {"fluid_area_mm2": i / 100, "retina_um": 300.0 - i, "boundaries": "b.csv"}
        row |= {"image": f"scans/{i}.png", "values": f"scans/{i}.js"}
        rows.append(row | {"overlay": f"overlays/{i}.png", "thumbnail": f"thumbnails/{i}.jpg"})
    return rows


def volume_of(rows: list[dict]) -> dict:
    """The volume that the rows are of, as it stands in measurements.json."""
    view = {"kind": "fluid", "file": "maps/eye.png", "area": MAP_AREA}
    view |= {"lowest": 0.0, "highest": 50.0, "unit": "µm", "map_rows": len(rows)}
    volume = {"volume": "eye", "first_bscan": 0, "last_bscan": len(rows) - 1}
    return volume | {"maps": [view], "enface": "enface/eye.png"}


def scan_values(i: int) -> dict[str, np.ndarray]:
    """Of B-scan i: fluid in columns 20 to 29 and rows 10 to 14 + i, truth beside it."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10 : 15 + i, 20:30] = 1
    truth = np.roll(mask, 5, axis=1)
    rows = 4.5 + 4 * np.arange(8, dtype=np.float32)[:, None].repeat(WIDTH, 1)
    rows[:, 0] = np.nan
    probability = np.where(mask, 204, 51).astype(np.uint8)
    return {
        "mask": mask,
        "probability": probability,
        "rows": rows,
        "truth": truth,
        "truth_rows": rows + 1,
    }


def write_viewer_page(
    folder: Path, rows: list[dict], with_files: int, kinds: Sequence[str] = KINDS
) -> Path:
    """report.html of the rows, of the first of which files are written; the others have theirs.

    kinds: those of a scan's values that there are.
    """
    for i in range(with_files):
        image = np.full((HEIGHT, WIDTH), 40 + 20 * (i % 8), np.uint8)
        picture = np.repeat(image[..., None], 3, axis=2)
        values = {kind: array for kind, array in scan_values(i).items() if kind in kinds}
        save_png(folder / rows[i]["image"], image, fast=True)
        write_values(folder / rows[i]["values"], rows[i]["scan"], values)
        save_png(folder / rows[i]["overlay"], picture)
        write_thumbnail(folder / rows[i]["thumbnail"], picture, 0)
    for row in rows[with_files:]:
        row["thumbnail"] = rows[0]["thumbnail"]
    volumes = []
    if rows[0]["volume"]:
        volumes = [volume_of(rows)]
        left, top, width, height = MAP_AREA
        save_png(folder / "maps/eye.png", np.zeros((top + height, left + width, 3), np.uint8))
        save_png(folder / "enface/eye.png", np.zeros((len(rows), WIDTH), np.uint8))
    content = viewer_content(folder, rows, volumes, COLUMNS, "fluid_area_mm2")
    columns = [Column("scan", "scan"), *COLUMNS]
    scans = Table("Scans", columns, rows, "fluid_area_mm2", "overlay", "thumbnail", link="scan")
    doubtful = [(row["scan"], row["doubt"]) for row in rows if row["doubt"]]
    page = Page("Scans", [], [], [scans], [], doubtful, content)
    page.write(folder / "report.html")
    return folder / "report.html"
