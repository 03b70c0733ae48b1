"""Subject-disjoint cross-validation: how well a recipe finds fluid in eyes it has not seen.

python experiments/studies/crossval.py  # five folds over the eyes, then the tables
python experiments/studies/crossval.py --weights devices-mobilenet_v3_small  # another network
python experiments/studies/crossval.py --leaky  # also the splits by B-scan, to see the leak
python experiments/studies/crossval.py --results FOLDER --amp bf16 --print  # what is finished

Every finished fold is a file in --results. An interrupted series continues where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fluid_tables import (
    COLUMNS,
    HeldOut,
    areas_mm2,
    by_eye,
    by_group,
    groups_of,
    held_out,
    together,
)

from dme.common.errors import run
from dme.common.options import setting
from dme.common.tables import mean_sd, table_head, table_line
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.retina.agreement import LIMIT_SD, dice
from dme.training import series

FOLDS = [f"subject:{k}/5" for k in range(1, 6)]
LEAKY = ["paper", "random"]
UNCHECKED = "not checked"
PUBLISHED_TITLES = ("published", "source", "eyes in training", "definition", "fluid Dice")
PUBLISHED = (  # fluid Dice on this set, as others report it
    (
        "Chiu 2015, automatic",
        "Biomed. Opt. Express 6:1172, fluid as a third party tabulates it",
        "none of the ten tested; how many others: not checked",
        UNCHECKED,
        "0.56",
    ),
    (
        "ReLayNet 2017, run again by others",
        "a third party's table, subject-disjoint",
        UNCHECKED,
        UNCHECKED,
        "0.70",
    ),
    ("He 2021", "a third party's table, subject-disjoint", UNCHECKED, UNCHECKED, "0.70"),
    (
        "ReLayNet 2017, its own paper",
        "Biomed. Opt. Express 8:3627, quoted from memory",
        "8-fold; whether eyes were kept apart: not checked",
        UNCHECKED,
        "0.77",
    ),
    (
        "the study",
        "its notebooks",
        "all ten: 21 of the 22 scans tested have a neighbour in training",
        "pooled over the 22 scans of `paper`, at 256 x 256",
        "0.6883",
    ),
)


@dataclass(frozen=True)
class Settings:
    """What is validated."""

    recipe: str = setting("fluid", "recipe of finetune.py")
    weights: str | None = setting(
        None, "name or file to start from, which says the backbone (default: finetune.py's)"
    )
    seeds: tuple[int, ...] = setting((0,), "runs of each fold")
    leaky: bool = setting(False, "also the splits by B-scan (paper and random)")
    compile: bool = setting(False, "torch.compile the training steps")


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/crossval", "folds")

    results = series.gather(args, all_runs(settings, args.amp))
    table = markdown(settings, results)
    series.leave_table(args, "crossval", table)

    folds = folds_of(settings.seeds[0], results)
    if folds and folds[0]["scale_um"]:
        kind = series.kind_of_scans(folds)
        save_png(args.out / "bland_altman.png", bland_altman(held_out(folds), kind))
        print(f"picture: {args.out / 'bland_altman.png'}")


def all_runs(settings: Settings, amp: str) -> series.Runs:
    """Names, and arguments of finetune.py."""
    splits = [*FOLDS, *LEAKY] if settings.leaky else FOLDS
    more = ["--weights", settings.weights] if settings.weights else []
    if settings.compile:
        more.append("--compile")
    runs = {}
    for seed in settings.seeds:
        for split in splits:
            words = f"--recipe {settings.recipe} --split {split} --amp {amp} --seed {seed}"
            runs[run_name(split, seed)] = [*words.split(), *more]
    return runs


def run_name(split: str, seed: int) -> str:
    return f"{series.in_name(split)}-seed{seed}"


def folds_of(seed: int, results: series.Results) -> list[dict]:
    """The finished folds of a seed, in order."""
    return series.present(results, [run_name(split, seed) for split in FOLDS])


# ---- tables


def markdown(settings: Settings, results: series.Results) -> str:
    """Fold by fold, all folds together, the splits that leak, and what others published."""
    arch = next(iter(results.values()))["arch"]
    kind = series.kind_of_scans(results.values())
    network = f"{arch['backbone']}, {arch['head']}, width {arch['width']}"
    lines = [
        f"Recipe {settings.recipe} on {kind} scans ({network}); no eye is in training and "
        "validation of a fold; scores at the scans' own pixels, networks after their last step",
        "",
        *fold_by_fold(settings, results),
    ]
    by_seed = whole_seeds(settings, results)
    for seed, scans in list(by_seed.items())[:1]:  # all about one, Dice alone of the others
        title = f"All folds together, {kind} scans, seed {seed}:"
        lines += ["", title, "", *by_group(scans)]
        lines += ["", *by_eye(scans), "", *together(scans)]
    if len(by_seed) > 1:
        lines += ["", "Pooled fluid Dice in all columns, seed by seed:", "", *seeds_table(by_seed)]
    lines += leaking(results)
    if kind == "real":
        lines += ["", "Published on this set, each by its own definition:", ""]
        lines += table_head(PUBLISHED_TITLES)
        lines += map(table_line, PUBLISHED)
    return "\n".join(lines) + "\n"


def whole_seeds(settings: Settings, results: series.Results) -> dict[int, HeldOut]:
    """The scans of all folds, of each seed whose folds are finished."""
    by_seed = {}
    for seed in settings.seeds:
        folds = folds_of(seed, results)
        if len(folds) == len(FOLDS):
            by_seed[seed] = held_out(folds)
    return by_seed


def seeds_table(by_seed: dict[int, HeldOut]) -> list[str]:
    """Lines of a table: what another seed changes, for each group of eyes."""
    titles = ["eyes, each seed", *(f"seed {seed}" for seed in by_seed), "mean ± sd"]
    lines = table_head(titles)
    for name, eyes in groups_of(next(iter(by_seed.values()))).items():
        values = []
        for scans in by_seed.values():
            values.append(float(dice(scans.of_eyes(eyes).counts["native"].sum(0))))
        cells = [f"{value:.4f}" for value in values]
        lines.append(table_line([name, *cells, mean_sd(values)]))
    return lines


def fold_by_fold(settings: Settings, results: series.Results) -> list[str]:
    """Lines of the table of folds, means over the seeds."""
    titles = ["fold", "eyes", "scans"]
    for kind in COLUMNS.values():
        titles += [f"{kind}: fluid Dice", "IoU"]
    lines = table_head(titles)
    for split in FOLDS:
        runs = series.present(results, [run_name(split, seed) for seed in settings.seeds])
        if runs:
            # the seeds differ in their scores alone
            eyes = sorted(set(runs[0]["subjects"]))
            cells = [split, ", ".join(map(str, eyes)), len(runs[0]["scans"])]
            for kind in COLUMNS:
                cells.append(mean_score(runs, kind, "dice"))
                cells.append(mean_score(runs, kind, "iou"))
            lines.append(table_line(cells))
    return lines


def leaking(results: series.Results) -> list[str]:
    """Lines of the table of splits by B-scan, none without such runs."""
    lines = []
    for split in LEAKY:
        prefix = f"{series.in_name(split)}-seed"
        runs = [result for name, result in results.items() if name.startswith(prefix)]
        if runs:
            cells = [mean_score(runs, kind, "dice") for kind in (*COLUMNS, "study")]
            lines.append(table_line([split, len(runs), *cells]))
    if not lines:
        return []
    titles = ["split", "runs"]
    titles += [f"{kind}: fluid Dice" for kind in COLUMNS.values()]
    titles.append("at 256 x 256")
    title = "The same recipe on splits by B-scan, which leak:"
    return ["", title, "", *table_head(titles), *lines]


def mean_score(runs: Sequence[dict], kind: str, score: str) -> str:
    """Cell of a table: fluid's score in a kind of columns, pooled over the scans of each run."""
    from dme.metrics import scores  # after parsing: it needs torch

    values = []
    for result in runs:
        pooled = np.array(result["counts_per_scan"][kind]).sum(0)
        values.append(float(scores(pooled)[score][1]))
    return mean_sd(values)


def bland_altman(scans: HeldOut, kind: str) -> np.ndarray:
    """Difference of found and true fluid area against their mean, mm², all columns.

    kind: real or SYNTHETIC, which the picture says.
    """
    truth, found = areas_mm2(scans)
    # a dot for every scan
    mean = (found + truth) / 2
    error = found - truth
    dots = [(float(x), float(y)) for x, y in zip(mean, error, strict=True)]

    # a level line each for the mean difference and the limits of agreement
    right = float(mean.max())
    half = LIMIT_SD * error.std(ddof=1)
    levels = {
        "mean": error.mean(),
        f"mean + {LIMIT_SD} sd": error.mean() + half,
        f"mean - {LIMIT_SD} sd": error.mean() - half,
    }
    lines = {}
    for name, level in levels.items():
        y = float(level)
        lines[f"{name} {level:+.4f} mm²"] = [(0.0, y), (right, y)]
    titles = (f"mean of true and found fluid area, mm², {kind} scans", "found - true area, mm²")
    return line_plot(lines, *titles, dots=dots)


if __name__ == "__main__":
    run(main)
