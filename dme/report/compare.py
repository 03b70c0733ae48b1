"""Two visits of an eye: how fluid and thickness changed between two results of `predict`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.report.visits import Visit, read_results
from dme.retina.shift import Shift, enface_shift
from dme.retina.volume import SECTORS

STILL_COLUMNS = 8  # a shift of no more is none: two steps of what can be measured
STILL_BSCANS = 0.5

# what must agree for a difference to be the eye's: of the run, its network first, and of a volume
# (that for fluid tells that for layers where fluid is)
SAME_RUN = {
    "fluid": ("weights_sha256", "threshold", "tta"),
    "retina": ("layers_weights_sha256", "weights_sha256", "tta"),
}
ONE_SIZE = "only volumes of one size can be compared"
ONE_RANGE = "leave out the B-scans that one visit lacks"
ONE_SCALE = "predict both visits with one `scale`, if the device's was one"
SAME_VOLUME = {  # key -> what to do where it differs
    "height_px": ONE_SIZE,
    "width_px": ONE_SIZE,
    "first_bscan": ONE_RANGE,
    "last_bscan": ONE_RANGE,
    "axial_um": ONE_SCALE,
    "lateral_um": ONE_SCALE,
    "spacing_um": ONE_SCALE,
    "eye": "compare visits of one eye, both predicted with its `eye`",
}
COLUMNS = (
    "volume_a",
    "volume_b",
    "level",
    "place",
    "area_a_mm2",
    "area_b_mm2",
    "area_change_mm2",
    "volume_a_mm3",
    "volume_b_mm3",
    "volume_change_mm3",
    "change_percent",
    "same_place",
)
RETINA_COLUMNS = ("retina_a_um", "retina_b_um", "retina_change_um")
# level of a row -> quantity and unit in the names of its columns
LEVELS = {
    "bscan": ("area", "mm2"),
    "sector": ("volume", "mm3"),
    "total": ("volume", "mm3"),
    "retina": ("retina", "um"),  # of which the sector center is the central subfield thickness
}


Pair = tuple[dict, dict]  # a volume at visit A and at visit B

# of a row: whether both visits show one place in it
SAME = "yes"
OTHER = "no"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Comparison:
    """Two visits, their volumes in pairs, and what changed."""

    a: Visit
    b: Visit
    kinds: list[str]  # keys of SAME_RUN
    pairs: list[Pair]
    shifts: list[Shift | None]  # of the eye in each pair, None where unknown
    rows: list[dict]  # see change_columns

    def notes(self) -> list[str]:
        """How precisely fluid was computed; of every pair how far it moved, where sectors lie."""
        notes = []
        at_a, at_b = (visit.settings.get("precision", "float32") for visit in (self.a, self.b))
        if at_a != at_b:
            notes.append(
                f"fluid was computed in {at_a} in A and in {at_b} in B, which alone changes it a "
                "little: predict both with one `precision`"
            )
        for (volume_a, volume_b), shift in zip(self.pairs, self.shifts, strict=True):
            note = self._shift_note(volume_a, volume_b, shift)
            notes.append(f"{volume_a['volume']}: {note}")
            place_a = (volume_a["fovea_column"], volume_a["fovea_bscan"])
            place_b = (volume_b["fovea_column"], volume_b["fovea_bscan"])
            if place_a != place_b:
                centres = "column {:g}, B-scan {:g} in A and {:g}, {:g} in B".format(
                    *place_a, *place_b
                )
                notes.append(f"{volume_a['volume']}: the sectors' centre is {centres}")
        return notes

    def _shift_note(self, volume_a: dict, volume_b: dict, shift: Shift | None) -> str:
        """How far the eye moved between two visits, in words."""
        if shift is None:
            reason = "their en-face pictures do not match: is it the same eye?"
            if self.a.enface(volume_a) is None or self.b.enface(volume_b) is None:
                reason = "no en-face picture in one of them: predict it again"
            return f"whether the eye moved between the visits is unknown ({reason})"
        if is_still(shift):
            return f"the eye did not move (less than one B-scan, and {abs(shift.columns)} columns)"

        # in micrometres too, where they are known
        across = f"{shift.columns:+d} columns"
        down = f"{shift.bscans:+d} B-scans"
        if volume_a["lateral_um"] and volume_a["spacing_um"]:
            across += f" ({shift.columns * volume_a['lateral_um']:+.0f} um)"
            down += f" ({shift.bscans * volume_a['spacing_um']:+.0f} um)"
        moved = f"MOVED: in B the eye lies at {down}, {across} from A"
        if sectors_follow(shift, volume_a, volume_b):
            return f"{moved}, and the sectors' centre with it: B-scans alone show different places"
        return (
            f"{moved}, so B-scans and sectors "
            "show different places: give each visit its `fovea`, and trust totals only"
        )


def measured_shift(a: np.ndarray | None, b: np.ndarray | None) -> Shift | None:
    """Between the pictures (B-scans, columns) of two visits; None where it is unknown."""
    return None if a is None or b is None else enface_shift(a, b)


def is_still(shift: Shift) -> bool:
    """Whether the eye did not move as far as can be measured."""
    return shift.bscans == 0 and abs(shift.columns) <= STILL_COLUMNS


def sectors_follow(shift: Shift, volume_a: dict, volume_b: dict) -> bool:
    """Whether the sectors' centre moved as the eye did."""
    bscans = volume_b["fovea_bscan"] - volume_a["fovea_bscan"] - shift.bscans
    columns = volume_b["fovea_column"] - volume_a["fovea_column"] - shift.columns
    return abs(bscans) <= STILL_BSCANS and abs(columns) <= STILL_COLUMNS


def same_place(level: str, shift: Shift | None, pair: Pair) -> str | None:
    """Whether rows of a level show one place of the eye at both visits; None of totals."""
    if level == "total":
        return None
    if shift is None:
        return UNKNOWN
    stays = is_still(shift) if level == "bscan" else sectors_follow(shift, *pair)
    return SAME if stays else OTHER


def compare(folder_a: str | Path, folder_b: str | Path) -> Comparison:
    """The change from visit A to B of what both measured.

    Fluid per B-scan, per ETDRS sector and in all; then the retina's thickness per sector, of which
    "center" is the central subfield. Volumes pair by name, or when there is one on either side.
    Nothing is registered: positions are those of the scanner, sectors those around each visit's
    own centre. Raises InputError when the two cannot be compared.
    """
    a = read_results(folder_a)
    b = read_results(folder_b)
    kinds = _common_kinds(a, b)
    rows = []
    shifts = []
    pairs = _pairs(a, b)
    for pair in pairs:
        _check_alike(*pair, SECTORS[kinds[0]])
        changes = []
        if "fluid" in kinds:
            changes += _fluid_changes(a, b, pair)
        if "retina" in kinds:
            changes += _retina_changes(pair)

        # which of them compare one place of the eye with another
        volume_a, volume_b = pair
        shift = measured_shift(a.enface(volume_a), b.enface(volume_b))
        shifts.append(shift)
        names = {"volume_a": volume_a["volume"], "volume_b": volume_b["volume"]}
        for change in changes:
            place = same_place(change["level"], shift, pair)
            rows.append(names | change | {"same_place": place})
    return Comparison(a, b, kinds, pairs, shifts, rows)


def change_columns(rows: list[dict]) -> tuple[str, ...]:
    """Columns of a table of these rows."""
    if any(row["level"] == "retina" for row in rows):
        return COLUMNS + RETINA_COLUMNS
    return COLUMNS


def change_lines(rows: list[dict]) -> list[str]:
    """The rows as lines of text, a table for each level."""
    lines = []
    for level, (quantity, unit) in LEVELS.items():
        of_level = [row for row in rows if row["level"] == level]
        if not of_level:
            continue
        lines.append("")
        lines.append(f"{level:<18} {f'A {unit}':>10} {f'B {unit}':>10} {'change':>10} {'%':>8}")
        for row in of_level:
            a = row[f"{quantity}_a_{unit}"]
            b = row[f"{quantity}_b_{unit}"]
            change = row[f"{quantity}_change_{unit}"]
            percent = "-"
            if row["change_percent"] is not None:
                percent = f"{row['change_percent']:+.1f}"
            line = f"{row['place']:<18} {a:>10.4f} {b:>10.4f} {change:>+10.4f} {percent:>8}"
            if row["same_place"] == OTHER:
                line += "  other place"
            lines.append(line)
    return lines


def _common_kinds(a: Visit, b: Visit) -> list[str]:
    """What both visits measured, keys of SAME_RUN, in the same way; else raises InputError."""
    kinds = []
    for kind, (network, *_) in SAME_RUN.items():
        if network in a.settings and network in b.settings:
            kinds.append(kind)
    if not kinds:
        folders = f"{a.folder} and {b.folder}"
        raise InputError(
            f"one of {folders} holds fluid, the other layers; predict both with one `task`"
        )
    for kind in kinds:
        for key in SAME_RUN[kind]:
            at_a = a.settings.get(key)
            at_b = b.settings.get(key)
            if at_a != at_b:
                difference = f"{key} is {at_a} in {a.folder} and {at_b} in {b.folder}"
                raise InputError(f"{difference}; predict both visits alike, with one `task`")
    return kinds


def _fluid_changes(a: Visit, b: Visit, pair: Pair) -> list[dict]:
    """Of the B-scans that both visits predicted, of the sectors, and of the whole volume."""
    volume_a, volume_b = pair
    areas_a = a.areas_mm2(volume_a)
    areas_b = b.areas_mm2(volume_b)
    rows = []

    # B-scans pair by position, sectors by name
    for position in sorted(areas_a.keys() & areas_b.keys()):
        rows.append(_change("bscan", str(position), areas_a[position], areas_b[position]))
    for sector_a, sector_b in zip(volume_a["sectors"], volume_b["sectors"], strict=True):
        name = sector_a["sector"]
        rows.append(_change("sector", name, sector_a["volume_mm3"], sector_b["volume_mm3"]))
    total_a = volume_a["fluid_volume_mm3"]
    total_b = volume_b["fluid_volume_mm3"]
    rows.append(_change("total", "all", total_a, total_b))
    return rows


def _retina_changes(pair: Pair) -> list[dict]:
    """Of the sectors that both visits cover at least in part."""
    volume_a, volume_b = pair
    sectors = zip(volume_a["retina_sectors"], volume_b["retina_sectors"], strict=True)
    rows = []
    for sector_a, sector_b in sectors:
        mean_a = sector_a["mean_um"]
        mean_b = sector_b["mean_um"]
        if mean_a is not None and mean_b is not None:
            rows.append(_change("retina", sector_a["sector"], mean_a, mean_b))
    return rows


def _pairs(a: Visit, b: Visit) -> list[Pair]:
    """The volumes of two visits, paired."""
    for visit in (a, b):
        if not visit.volumes:
            found = f"{visit.folder} holds no volume, only single scans"
            raise InputError(f"{found}: nothing to compare position by position")
    if len(a.volumes) == len(b.volumes) == 1:
        return [(a.volumes[0], b.volumes[0])]

    names_a = sorted(a.names())
    names_b = sorted(b.names())
    if names_a != names_b:
        text_a = f"{', '.join(names_a)} in {a.folder}"
        text_b = f"{', '.join(names_b)} in {b.folder}"
        raise InputError(f"volumes differ in name: {text_a}, {text_b}")
    by_name = dict(zip(b.names(), b.volumes, strict=True))
    return [(volume, by_name[volume["volume"]]) for volume in a.volumes]


def _check_alike(a: dict, b: dict, sectors: str) -> None:
    """Raise InputError unless size, scale and range agree. sectors: their key in a volume."""
    for key, remedy in SAME_VOLUME.items():
        if a[key] != b[key]:
            value_a, value_b = ("unknown" if v[key] is None else v[key] for v in (a, b))
            found = f"{key} is {value_a} in volume {a['volume']} and {value_b} in {b['volume']}"
            raise InputError(f"{found}; {remedy}")
    range_a = (a["first_measured"], a["last_measured"])
    range_b = (b["first_measured"], b["last_measured"])
    if range_a != range_b:
        ranges = "{} to {} and {} to {}".format(*range_a, *range_b)
        raise InputError(
            f"of volume {a['volume']} B-scans {ranges} could be predicted; "
            "leave out what one visit lacks"
        )
    if not a[sectors] or not b[sectors]:
        why = "its scale is unknown (predict both visits with `scale` axial,lateral,spacing)"
        raise InputError(
            f"volume {a['volume']} has no ETDRS sectors: {why}, or its fovea lies outside"
        )


def _change(level: str, place: str, a: float, b: float) -> dict:
    quantity, unit = LEVELS[level]
    percent = None  # of nothing
    if a:
        percent = 100 * (b - a) / a
    return {
        "level": level,
        "place": place,
        f"{quantity}_a_{unit}": a,
        f"{quantity}_b_{unit}": b,
        f"{quantity}_change_{unit}": b - a,
        "change_percent": percent,
    }
