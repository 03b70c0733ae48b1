"""The human line: network, second grader and published automatic method beside grader 1.

python experiments/studies/graders.py --areas chiu2015/areas.csv   # a table of areas
python experiments/studies/graders.py --data mat_files             # masks of both graders: overlap
python experiments/studies/graders.py --folds runs/crossval/folds --data mat_files

The network's areas are those of cross-validation, every scan by a network that was not trained on
its eye. A table of areas is a CSV file with name, subject and the pixels of fluid by grader 1,
grader 2 and the automatic method.
"""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fluid_tables import HeldOut, dice_interval, fluid_px, held_out, with_interval

from dme.common.by_eye import INTERVALS, interval_by_eye
from dme.common.errors import InputError, run
from dme.common.files import sha256_file, write_json
from dme.common.folders import refuse_foreign
from dme.common.options import check, parsed, setting
from dme.common.provenance import ROOT, provenance
from dme.common.tables import table_head, table_line, write_table
from dme.retina import agreement
from dme.training import series

NETWORK, GRADER1, GRADER2, AUTOMATIC = "network", "grader 1", "grader 2", "automatic, Chiu 2015"
COLUMNS = {  # of the table of areas
    GRADER1: "grader1_px",
    GRADER2: "grader2_px",
    AUTOMATIC: "chiu2015_automatic_px",
}
PAIRS = (  # who is measured, against whom
    (NETWORK, GRADER1),
    (GRADER2, GRADER1),
    (AUTOMATIC, GRADER1),
    (NETWORK, GRADER2),
)
PRESENCE = "Sensitivity, specificity, kappa: whether a scan holds any fluid, one pixel or more."
THIRD_PARTY = (
    "Areas of grader 2 and of the automatic method are a third party's table, which nobody here "
    "could check; its grader 1 equals the masks on every scan."
)


@dataclass(frozen=True)
class Settings:
    """Whose areas, and of which networks."""

    folds: Path = setting(
        ROOT / "experiments" / "results" / "crossval_fluid",
        "finished folds of crossval.py, all eyes",
    )
    seed: int = setting(0, "of the folds")
    areas: Path | None = setting(
        None, "table of areas (default: areas.csv in DME_DATA, without --data)"
    )
    data: str | None = setting(None, ".mat files with the masks of both graders")
    out: Path = setting(Path("runs/graders"), "folder for results.json and graders.md")
    __post_init__ = check


@dataclass(frozen=True)
class Readings:
    """What everybody says of the same scans."""

    scans: HeldOut  # of the networks, counted against grader 1
    areas_px: dict[str, np.ndarray]  # by whom, (N,)
    overlap: dict[tuple[str, str], np.ndarray]  # counts (N, 2, 2) of a pair, where masks are known
    source: dict  # where the areas come from, for the results file


def main() -> None:
    settings = parsed(__doc__, Settings)
    refuse_foreign(settings.out, "results.json", ["graders.md"])
    folds = read_folds(settings)
    readings = from_masks(settings.data, folds) if settings.data else from_table(settings, folds)

    result = results(readings, settings, folds)
    table = markdown(result)
    write_table(settings.out / "graders.md", table)
    write_json(settings.out / "results.json", result)
    print(f"{table}\ntable: {settings.out / 'graders.md'}")
    print(f"results: {settings.out / 'results.json'}")


# ---- what is read


def read_folds(settings: Settings) -> list[dict]:
    """results.json of the folds of a seed. Raises InputError for none, or scans counted twice."""
    # as crossval.py left them, with whatever arguments
    paths = sorted(settings.folds.glob(f"subject*of*-seed{settings.seed}.json"))
    if not paths:
        raise InputError(
            f"no subject*of*-seed{settings.seed}.json in {settings.folds}; give the folder of "
            "folds that ./run.sh crossval left"
        )
    runs = {path.stem: json.loads(path.read_text())["arguments"] for path in paths}
    folds = list(series.finished(runs, settings.folds).values())
    names = [name for fold in folds for name in fold["scans"]]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(
            f"{settings.folds}: {', '.join(sorted(twice)[:3])} in more than one fold; expected "
            "each scan once; keep the folds of one cross-validation"
        )
    return folds


def from_table(settings: Settings, folds: list[dict]) -> Readings:
    """Areas of a table, whose grader 1 must be the truth that the folds were counted against."""
    path = settings.areas or Path(os.environ.get("DME_DATA", ""), "areas.csv")
    if not path.is_file():
        raise InputError(
            f"no table of areas {path}; give one with --areas, or --data with .mat files of both "
            "graders"
        )
    # the areas of each scan of the folds
    scans = held_out(folds)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        areas_px = {}
        for rater, column in COLUMNS.items():
            areas_px[rater] = np.array([int(rows[name][column]) for name in scans.names])
    except (KeyError, ValueError, TypeError) as e:
        raise InputError(
            f"{path}: {e} is missing or no number; expected name, {', '.join(COLUMNS.values())} "
            f"of each of the {len(scans.names)} scans of the folds"
        ) from e
    # the same scans?
    truth, found = fluid_px(scans.counts["native"])
    unlike = [
        name
        for name, area, pixels in zip(scans.names, areas_px[GRADER1], truth, strict=True)
        if area != pixels
    ]
    if unlike:
        raise InputError(
            f"{path}: grader 1 of {', '.join(unlike[:3])} has other areas than the folds' truth; "
            "give the table of the same scans"
        )
    source = {"areas": path.name, "areas_sha256": sha256_file(path), "note": THIRD_PARTY}
    return Readings(scans, areas_px | {NETWORK: found}, {}, source)


def from_masks(data: str, folds: list[dict]) -> Readings:
    """Areas and overlap of the masks that .mat files hold of both graders.

    Raises InputError where they are not of the folds' scans.
    """
    from dme.data.matlab import automatic_fluid
    from dme.data.opening import open_source

    # everybody's masks, by the name of the scan
    scans = held_out(folds)
    masks = {}
    for rater, number in ((GRADER1, 1), (GRADER2, 2)):
        source = open_source(data, number)
        if source.kind != "mat":
            raise InputError(f"{data} holds no .mat files; only they have two graders")
        masks[rater] = {scan.name: scan.fluid == 1 for scan in source.scans()}
    lacking = [name for name in scans.names if not all(name in of for of in masks.values())]
    if lacking:
        raise InputError(
            f"{data}: both graders' masks of {', '.join(lacking[:3])} are needed, scans of the "
            "folds; give the files that the folds were made on"
        )
    automatic = automatic_fluid(Path(data), scans.names)
    if automatic:
        masks[AUTOMATIC] = automatic

    # grader 2 and the method against grader 1, pixel by pixel; the folds counted the network
    truth, found = fluid_px(scans.counts["native"])
    overlap = {(NETWORK, GRADER1): scans.counts["native"]}
    areas_px = {GRADER1: truth, NETWORK: found}
    for rater in [rater for rater in masks if rater != GRADER1]:
        counts = []
        for name in scans.names:
            counts.append(agreement.confusion(masks[GRADER1][name], masks[rater][name]))
        overlap[(rater, GRADER1)] = np.stack(counts)
        first, areas_px[rater] = fluid_px(overlap[(rater, GRADER1)])
        if (first != truth).any():
            raise InputError(
                f"{data}: grader 1 differs from the folds' truth; give the same files"
            )
    overlap |= second_opinions(folds)
    return Readings(scans, areas_px, overlap, {"areas": "masks of both graders in .mat files"})


def second_opinions(folds: list[dict]) -> dict[tuple[str, str], np.ndarray]:
    """Counts (N, 2, 2) of the network against grader 2, where every fold counted them."""
    counts = []
    for fold in folds:
        counted = fold.get("other_grader", {}).get("counts_per_scan")
        if counted is None:
            return {}
        counts.append(np.array(counted))
    return {(NETWORK, GRADER2): np.concatenate(counts)}


# ---- what comes out


def results(readings: Readings, settings: Settings, folds: Sequence[dict]) -> dict:
    """What results.json holds: sums over the scans of each eye, from which the tables follow."""
    scans = readings.scans
    eyes = np.unique(scans.eyes)
    pixel_mm2 = scans.pixel_mm2 or 1.0

    def per_eye(values: np.ndarray) -> np.ndarray:
        return np.stack([values[scans.eyes == eye].sum(0) for eye in eyes])

    # of each pair that is known, areas in mm² and counts of pixels
    areas = []
    for rater, truth in PAIRS:
        if rater in readings.areas_px and truth in readings.areas_px:
            pair = [readings.areas_px[name] * pixel_mm2 for name in (truth, rater)]
            sums = per_eye(agreement.moments(*pair))
            areas.append({"who": rater, "against": truth, "moments_per_eye": sums})
    overlap = []
    for (rater, truth), counts in readings.overlap.items():
        overlap.append({"who": rater, "against": truth, "counts_per_eye": per_eye(counts)})
    origins = []
    for fold in folds:
        origins.append({name: fold[name] for name in ("command", "commit", "start")})
    return {
        **provenance(),
        "data_sha256": folds[0]["data_sha256"],
        "data_kind": folds[0]["data_kind"],
        **readings.source,
        "folds": origins,
        "seed": settings.seed,
        "scale_known": scans.pixel_mm2 is not None,
        "eyes": eyes,
        "scans": len(scans.names),
        "areas_mm2": areas,
        "overlap": overlap,
    }


def markdown(result: dict) -> str:
    """Presence and area of every pair, the network beside grader 2, overlap where it is known."""
    # who was measured on what
    eyes = np.array(result["eyes"])
    kind = series.kind_of_scans([result])
    unit = "mm²" if result["scale_known"] else "px"
    lines = [
        f"Fluid in {result['scans']} {kind} scans of {len(eyes)} eyes, all columns; network: "
        "cross-validated, no eye in its own training; in brackets 95 % intervals by eye",
        "",
        *table_head(["who", "against", *measures(unit), f"limits of agreement, {unit}"]),
    ]
    # a row per pair, every number with its interval
    for pair in result["areas_mm2"]:
        sums = np.array(pair["moments_per_eye"])
        cells = [pair["who"], pair["against"]]
        for statistic, form in measures(unit).values():
            cells.append(with_interval(statistic, sums, eyes, form))
        lower, upper = agreement.limits_of_agreement(sums.sum(0))
        lines.append(table_line([*cells, f"{lower:+.4f} to {upper:+.4f}"]))
    lines += ["", *differences(result, unit), *overlaps(result), "", INTERVALS]
    lines += ["", agreement.LIMITS, "", PRESENCE]
    if "note" in result:
        lines += ["", result["note"]]
    return "\n".join(lines) + "\n"


def measures(unit: str) -> dict[str, tuple[agreement.Statistic, str]]:
    """Title -> statistic of `agreement.moments`, and its format."""
    return {
        "sensitivity": (agreement.sensitivity, ".3f"),
        "specificity": (agreement.specificity, ".3f"),
        "kappa": (agreement.kappa, ".3f"),
        "area ICC(2,1)": (agreement.icc, ".3f"),
        f"area bias, {unit}": (agreement.bias, "+.4f"),
        f"mean absolute error, {unit}": (agreement.mean_absolute_error, ".4f"),
    }


def differences(result: dict, unit: str) -> list[str]:
    """The network minus grader 2, both against grader 1, on the same draws of eyes."""
    sums = {}
    for pair in result["areas_mm2"]:
        sums[(pair["who"], pair["against"])] = np.array(pair["moments_per_eye"])
    both = np.stack([sums[(NETWORK, GRADER1)], sums[(GRADER2, GRADER1)]], axis=1)  # (eyes, 2, 11)
    titles = ["network minus grader 2", "both against grader 1 (interval by eye)"]
    lines = table_head([*titles, "interval holds 0"])
    for title, (statistic, _) in measures(unit).items():

        def difference(sums: np.ndarray, statistic: agreement.Statistic = statistic) -> np.ndarray:
            return statistic(sums[..., 0, :]) - statistic(sums[..., 1, :])

        low, high = interval_by_eye(difference, both, np.array(result["eyes"]))
        cell = f"{difference(both.sum(0)):+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(table_line([title, cell, "yes" if low <= 0 <= high else "no"]))
    return lines


def overlaps(result: dict) -> list[str]:
    """Fluid Dice of the pairs whose masks are known, pooled over all pixels; nothing of none."""
    if not result["overlap"]:
        return []
    titles = ["overlap", "against", "fluid Dice, pooled (95 % interval by eye)"]
    lines = ["", *table_head(titles)]
    for pair in result["overlap"]:
        counts = np.array(pair["counts_per_eye"])
        low, high = dice_interval(counts, np.array(result["eyes"]))
        cell = f"{agreement.dice(counts.sum(0)):.4f} ({low:.4f} to {high:.4f})"
        lines.append(table_line([pair["who"], pair["against"], cell]))
    return lines


if __name__ == "__main__":
    run(main)
