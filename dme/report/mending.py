"""Volumes whose B-scans contradict each other: thickness mended or left out, and said."""

import numpy as np

from dme.common.files import sha256_file
from dme.data.image_files import read_pixels
from dme.drawing.canvas import save_png
from dme.drawing.layers import thickness_profile
from dme.report.batch import Work
from dme.report.doubts import JUMPING, MOST_COLLAPSED, SEPARATOR
from dme.report.tables import read_rows, write_rows
from dme.retina.fluid import measure_fluid_in_layers
from dme.retina.plausible import USUAL_AXIAL_UM, Mended, mend
from dme.retina.thickness import measure_layers
from dme.retina.volume import enface_map, scale_of


def mend_volume(
    work: Work, rows: list[dict], lines_px: dict[str, dict[int, np.ndarray]]
) -> Mended | None:
    """Compare the retina's thickness in a volume's B-scans with each other.

    rows: of its scans; those whose boundaries jump are measured again without these columns, and
    their files are replaced. lines_px: by "fluid" and "retina" the lines (W,) by position; those
    of the retina are replaced. Returns what was done; None without a retina, and for B-scans that
    differ in width.
    """
    retina_px = lines_px.get("retina", {})
    if len({len(line) for line in retina_px.values()}) != 1:
        return None
    axial_um = rows[0]["axial_um"] or USUAL_AXIAL_UM
    lines_um = {position: line * axial_um for position, line in retina_px.items()}
    found = mend(lines_um, rows[0]["spacing_um"])
    for row in rows:
        jumping = found.jumping[row["bscan"]]
        if jumping.any():
            _measure_again(work, row, jumping)
    lines_px["retina"] = {position: line / axial_um for position, line in found.lines.items()}
    return found


def _measure_again(work: Work, row: dict, jumping: np.ndarray) -> None:
    """The row of a scan and its files, without columns (W,) in which boundaries jump."""
    boundaries = read_rows(work.out / row["boundaries"])
    boundaries[:, jumping] = np.nan
    write_rows(work.out / row["boundaries"], boundaries)

    # its numbers, those of fluid in layers too
    scale_um = scale_of(row)
    row |= measure_layers(boundaries, scale_um)
    row["left_out_columns"] += int(jumping.sum())
    if row.get("mask"):
        mask = (read_pixels(work.out / row["mask"]) > 0).astype(np.uint8)
        row |= measure_fluid_in_layers(boundaries, mask, scale_um)
    if jumping.mean() > MOST_COLLAPSED:
        row["doubt"] = SEPARATOR.join(filter(None, (row["doubt"], JUMPING)))

    # its profile, and the checksums of what was replaced
    profile = thickness_profile(boundaries, row["axial_um"], row["lateral_um"], row["scan"])
    save_png(work.out / row["profile"], profile, fast=True)
    for name in (row["boundaries"], row["profile"]):
        if name in work.files:
            work.files[name] = sha256_file(work.out / name)


def hatched_map(found: Mended, span: tuple[int, int], rows: list[float] | None) -> np.ndarray:
    """Where a map (B-scans, W) shows what was not measured: mended or left out, bool.

    span, rows: as of `dme.retina.volume.enface_map`.
    """
    cells = {}
    for position, mended in found.mended.items():
        cells[position] = (mended | found.left_out[position]).astype(float)
    return np.nan_to_num(enface_map(cells, *span, rows)) >= 0.5


def shares_percent(found: Mended) -> dict[str, float]:
    """How much of all columns was mended, and how much left out."""
    mended = np.mean([columns.mean() for columns in found.mended.values()])
    left_out = np.mean([columns.mean() for columns in found.left_out.values()])
    return {"mended_percent": 100 * float(mended), "left_out_percent": 100 * float(left_out)}


def mending_lines(volumes: list[dict]) -> list[str]:
    """What was done, a line for each volume in which anything was."""
    lines = []
    for volume in volumes:
        mended = volume.get("mended_percent") or 0
        left_out = volume.get("left_out_percent") or 0
        if not mended and not left_out:
            continue
        text = f"{volume['volume']}: boundaries without thickness, out of frame or jumping"
        done = f"{mended:.1f} % of the columns mended from neighbouring B-scans"
        lines.append(f"{text}: {done}, {left_out:.1f} % left out; hatched in the map")
    return lines
