"""Retinal layers of eyes not trained on: leave one eye out, from several starts.

python experiments/studies/layers.py --data octlayers               # missing runs, then the tables
python experiments/studies/layers.py --data octlayers --starts none
python experiments/studies/layers.py --results experiments/results/layers --amp bf16 --print

Every finished run is a file in --results. An interrupted series continues where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dme.common.by_eye import INTERVALS, mean_interval
from dme.common.errors import run
from dme.common.options import check, setting
from dme.common.tables import table_head, table_line
from dme.retina.accuracy import over_scans
from dme.retina.rows import BOUNDARIES
from dme.training import series

EYES = 7  # of octlayers
SPECTRALIS_UM = 3.87  # axial, per px
STARTS = {
    "hrf-fcn": "vessels (HRF)",
    "phantom": "synthetic scans",
    "none": "nothing",
    "cysts": "synthetic scans, with large cysts, at one scale and brightness",
}
ENTRY = "--size um --match-brightness"
SCALE = "3.87,11.33"  # axial as the set's source says; lateral, which it does not, as of Duke
# starts that are runs of their own, without a row -> what they train on
SYNTHETIC = {"phantom": "", "cysts": f"{ENTRY} --synthetic 60"}
# start -> what else its folds train with
BESIDE = {"cysts": f"{ENTRY} --scale {SCALE} --synthetic 20"}
TITLES = ("pretrained on", "eyes", "scans", "all boundaries", "interval by eye", "µm")
# starts compared
PAIRS = (("hrf-fcn", "none"), ("phantom", "none"), ("hrf-fcn", "phantom"), ("cysts", "phantom"))
GOPINATH = "Gopinath et al. 2017, abstract; three public sets, not this one"
PUBLISHED = (  # mean absolute error, other sets and protocols
    ("CNN and LSTM", GOPINATH, "not checked", "pixel-wise, over scans", "1.30 ± 0.48 px"),
    ("between two human markers", GOPINATH, "none", "the same", "1.79 ± 0.76 px"),
)


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    starts: tuple[str, ...] = setting(
        tuple(STARTS), "where the weights come from", choices=tuple(STARTS)
    )
    eyes: tuple[int, ...] = setting(tuple(range(1, EYES + 1)), "which are left out")
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/layers")

    # starts from synthetic scans come first
    recipe = f"--recipe layers --amp {args.amp} --seed 0"
    for start, more in SYNTHETIC.items():
        if start in settings.starts and not args.print:
            words = f"{recipe} --data phantom --split random --weights none {more}".split()
            series.run_missing("finetune.py", {start: words}, args.out, args.out / "runs")
    results = series.gather(args, all_runs(settings, recipe, args.out))

    table = markdown(settings, results)
    series.leave_table(args, "layers", table)


def all_runs(settings: Settings, recipe: str, out: Path) -> series.Runs:
    """Names, and arguments of finetune.py."""
    runs = {}
    for eye in settings.eyes:
        for start in settings.starts:
            weights = str(out / start / "model.pt") if start in SYNTHETIC else start
            words = f"{recipe} --split subject:{eye}/{EYES} --weights".split()
            runs[f"{start}-{eye}"] = [*words, weights, *BESIDE.get(start, "").split()]
    return runs


def markdown(settings: Settings, results: series.Results) -> str:
    """Errors per start over the scans of all eyes left out, then boundary by boundary."""
    arch = next(iter(results.values()))["arch"]
    kind = series.kind_of_scans(results.values())
    lines = [
        f"Mean absolute error of boundaries in px ({SPECTRALIS_UM} µm each) on {kind} scans, mean "
        f"± sd over scans of eyes not trained on, one seed; {arch['backbone']} of width "
        f"{arch['width']}, {arch['head']} head",
        "",
        *table_head([*TITLES, *BOUNDARIES]),
    ]
    for start in settings.starts:
        runs = series.present(results, [f"{start}-{eye}" for eye in settings.eyes])
        if runs:
            lines.append(table_line([STARTS[start], len(runs), *errors(runs)]))
    lines += ["", *differences(settings, results), "", INTERVALS]
    if kind == "real":
        lines += ["", "Published, on other sets:", ""]
        titles = ["published", "source", "eyes in training", "definition", "error"]
        lines += table_head(titles)
        lines += map(table_line, PUBLISHED)
    return "\n".join(lines) + "\n"


def differences(settings: Settings, results: series.Results) -> list[str]:
    """Two starts on the same scans, eye by eye: a row per pair that shares eyes."""
    titles = ["start", "against", "eyes", "difference of the error, px (interval by eye)"]
    lines = table_head([*titles, "eyes in which it is worse"])
    for start, other in PAIRS:
        eyes = []
        errors_px = []
        for eye in settings.eyes:
            pair = series.present(results, [f"{start}-{eye}", f"{other}-{eye}"])
            if len(pair) == 2:
                first, second = (scan_errors_px(result) for result in pair)
                errors_px.append(first - second)
                eyes.append(np.full(len(first), eye))
        if eyes:
            of_scans = np.concatenate(errors_px)
            low, high = mean_interval(of_scans, np.concatenate(eyes))
            worse = sum(float(np.nanmean(errors)) > 0 for errors in errors_px)
            cells = [STARTS[start], STARTS[other], len(eyes)]
            cells.append(f"{np.nanmean(of_scans):+.3f} ({low:+.3f} to {high:+.3f})")
            lines.append(table_line([*cells, f"{worse} of {len(eyes)}"]))
    return lines


def scan_errors_px(result: dict) -> np.ndarray:
    """Of a run, the mean error over the boundaries of each scan, (scans,), NaN if unknown."""
    return np.array(result["boundary_errors_px_per_scan"], float)[:, -1]


def errors(runs: Sequence[dict]) -> list[str]:
    """Cells of a row: scans, the error over all boundaries in px and µm, and of each boundary."""
    # all scans of eyes left out weigh alike
    per_run = [result["boundary_errors_px_per_scan"] for result in runs]
    px = np.concatenate(per_run).astype(float)  # (scans, boundaries and the mean of all)
    cells = []
    for row in over_scans(px, [*BOUNDARIES, "all"]):
        cells.append(f"{row['mean']:.2f} ± {row['sd'] or 0:.2f}")
    um = SPECTRALIS_UM * np.nanmean(px[:, -1])
    eyes = np.repeat(np.arange(len(runs)), [len(errors) for errors in per_run])
    low, high = mean_interval(px[:, -1], eyes)
    # the mean over boundaries, which comes last, stands first in the table
    return [str(len(px)), cells[-1], f"{low:.2f} to {high:.2f}", f"{um:.1f}", *cells[:-1]]


if __name__ == "__main__":
    run(main)
