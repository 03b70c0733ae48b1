"""How `--recipe best` of finetune.py was chosen: candidates compared on eyes 1 to 8 alone.

python experiments/studies/development.py          # all candidates that have no result yet
python experiments/studies/development.py --candidates crops whole
python experiments/studies/development.py --results experiments/results/development --print

The four folds dev:K/4 leave out eyes 9 and 10 and the validation scans of `paper`. Every finished
fold of a candidate is a file in --results. An interrupted series continues where it was.
"""

from dataclasses import dataclass

import numpy as np
from fluid_tables import CENTRAL

from dme.common.errors import run
from dme.common.options import check, setting
from dme.common.tables import table_head, table_line
from dme.training import series

BASE = (
    "--iters 500 --size half --max-class-share 1 --ungraded ignore --flip --rotate 8 --zoom 0.2 "
    "--brightness 0.1 --contrast 0.25 --gamma 0.2 --noise 0.1 --loss ce+dice --optimizer adamw "
    "--lr 2e-3 --l2 1e-2 --schedule cosine --lr-min 0 --warmup 50 --clip 1 --ema 0.98 --tta"
)
CROPS = "--crop 240 --batch 6 --on-fluid 0.3 --border 0.25"
WHOLE = "--crop 0 --batch 4"  # about as many pixels a step
BACKGROUND = f"{WHOLE} --weights hrf-psp --ungraded background"
CANDIDATES = {
    "crops": f"{CROPS} --weights hrf-psp",
    "whole": f"{WHOLE} --weights hrf-psp",
    "whole, ungraded as background": BACKGROUND,
    "the same, 1600 steps": f"{BACKGROUND} --iters 1600 --ema 0.99",
    "whole, from synthetic scans": f"{WHOLE} --weights phantom-psp",
}
FOLDS = (1, 2, 3, 4)
KINDS = {"native": "all columns", "central": "central columns", "study": "at 256 x 256"}


@dataclass(frozen=True)
class Settings:
    """What is compared, and on which folds."""

    candidates: tuple[str, ...] = setting(
        tuple(CANDIDATES), "which ones", choices=tuple(CANDIDATES)
    )
    folds: tuple[int, ...] = setting(FOLDS, "which ones", choices=FOLDS)
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/development")

    results = series.gather(args, all_runs(settings, args.amp))
    table = markdown(settings, results)
    series.leave_table(args, "development", table)


def all_runs(settings: Settings, amp: str) -> series.Runs:
    """Names, and arguments of finetune.py."""
    runs = {}
    for name in settings.candidates:
        for fold in settings.folds:
            words = f"{BASE} {CANDIDATES[name]} --split dev:{fold}/4 --amp {amp} --seed 0"
            runs[run_name(name, fold)] = words.split()
    return runs


def run_name(candidate: str, fold: int) -> str:
    """Of a candidate on one of the folds dev:K/4."""
    return f"{candidate.replace(',', '').replace(' ', '-')}-{fold}of4"


def markdown(settings: Settings, results: series.Results) -> str:
    """Fluid Dice of each candidate whose folds are finished, over their scans and fold by fold."""
    folds = ", ".join(map(str, settings.folds))
    kind = series.kind_of_scans(results.values())
    lines = [f"Fluid Dice pooled over {kind} scans of eyes not trained on, one seed", ""]
    titles = [f"{columns}, folds {folds}" for columns in ("all columns", "central")]
    lines += table_head(["candidate", *KINDS.values(), *titles])
    for candidate in settings.candidates:
        # a mean over some folds would not compare with one over all
        names = [run_name(candidate, fold) for fold in settings.folds]
        runs = series.present(results, names)
        if len(runs) == len(names):
            row = cells([result["counts_per_scan"] for result in runs])
            # its files are called by what those columns were once called
            name = candidate.replace("ungraded", "outer columns")
            lines.append(table_line([name, *row]))
    return "\n".join([*lines, "", CENTRAL]) + "\n"


def cells(counts_per_fold: list[dict]) -> list[str]:
    """Cells of a row. counts_per_fold: (scans, 2, 2) per kind of column, of each fold."""
    from dme.metrics import scores  # after parsing: it needs torch

    pooled = []
    by_fold = {}
    for kind in KINDS:
        folds = [np.array(counts[kind]).sum(0) for counts in counts_per_fold]  # (2, 2) each
        pooled.append(f"{scores(sum(folds))['dice'][1]:.4f}")
        by_fold[kind] = " ".join(f"{scores(fold)['dice'][1]:.3f}" for fold in folds)
    return [*pooled, by_fold["native"], by_fold["central"]]


if __name__ == "__main__":
    run(main)
