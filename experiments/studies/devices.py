"""What helps a fluid network on scans of other devices: one change after the other, on four eyes.

python experiments/studies/devices.py --amp bf16           # all that has no result yet, the table
python experiments/studies/devices.py --candidates "as best" --amp bf16
python experiments/studies/devices.py --results experiments/results/devices --amp bf16 --print

The protocol is told in experiments/studies/README.md: eyes 1, 2, 6 and 7, each seen by a network
that was not trained on it, as they are and perturbed. Every finished training and every finished
trial of its network is a file in --results. An interrupted series continues where it was.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from dme.common.errors import run
from dme.common.options import add_options, check, from_options, option_parser, setting
from dme.training import series

BASE = "--recipe best --iters 300 --batch 2 --ema 0.98"
CANDIDATES = {
    "as best": "",
    "matched brightness": "--size half --match-brightness",
    "and um per pixel": "--size um --match-brightness",
}
FOLDS = (1, 2)  # of dev:K/4, as the protocol says
REFUSED = "inverted"  # the perturbation that is to be refused, not to be read
PLAIN = "as it is"
UNKNOWN_SCALE = ", scale unknown"
TITLES = ("candidate", "as they are", "perturbed", "scale unknown", "false px in dry scans")


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    candidates: tuple[str, ...] = setting(
        tuple(CANDIDATES), "which ones", choices=tuple(CANDIDATES)
    )
    __post_init__ = check


def main() -> None:
    parser = option_parser(__doc__)
    add_options(parser, Settings)
    series.add_arguments(parser, "runs/devices")
    args = parser.parse_args()
    settings = from_options(Settings, args)

    trained = series.gather(args, trainings(settings, args.amp))
    tried = gather_trials(args, settings, trained)
    table = markdown(settings, tried)
    series.write_table(args.out / "devices.md", table)
    print(f"\n{table}\ntable: {args.out / 'devices.md'}\nruns: {series.results_folder(args)}")


def trainings(settings: Settings, amp: str) -> series.Runs:
    """Names, and arguments of finetune.py."""
    runs = {}
    for candidate in settings.candidates:
        for fold in FOLDS:
            words = f"{BASE} {CANDIDATES[candidate]} --split dev:{fold}/4 --amp {amp} --seed 0"
            runs[run_name(candidate, fold)] = words.split()
    return runs


def run_name(candidate: str, fold: int) -> str:
    return f"{candidate.replace(',', '').replace(' ', '-')}-{fold}of4"


def gather_trials(
    args: argparse.Namespace, settings: Settings, trained: series.Results
) -> series.Results:
    """What robustness.py found of the trained networks, each on its fold's eyes."""
    runs = {}
    for candidate in settings.candidates:
        for fold in FOLDS:
            name = run_name(candidate, fold)
            if name in trained:
                weights = args.out / name / "model.pt"
                runs[name] = ["--weights", str(weights), "--split", f"dev:{fold}/4"]
    folder = series.results_folder(args) / "tried"
    if args.print:
        return series.finished(runs, folder)
    return series.run_missing("studies/robustness.py", runs, args.out / "tried", folder)


# ---- the table


def markdown(settings: Settings, tried: series.Results) -> str:
    """Fluid Dice of each candidate whose folds are finished, pooled over their eyes."""
    lines = series.table_head(TITLES)
    for candidate in settings.candidates:
        runs = series.present(tried, [run_name(candidate, fold) for fold in FOLDS])
        if len(runs) == len(FOLDS):
            lines.append(series.table_line([candidate, *cells(runs)]))
    return "\n".join(lines) + "\n"


def cells(runs: list[dict]) -> list[str]:
    """Cells of a row: Dice as they are and perturbed, false pixels in scans without fluid."""
    folds = [result["networks"][0]["perturbations"] for result in runs]
    dice = {}
    false_px = 0
    for name in folds[0]:
        if name != REFUSED:
            dice[name] = pooled_dice([fold[name]["counts_per_eye"] for fold in folds])
            false_px += sum(fold[name]["false_px_without_fluid"] for fold in folds)
    plain = dice.pop(PLAIN)
    unknown = [dice.pop(name) for name in list(dice) if name.endswith(UNKNOWN_SCALE)]
    means = [
        f"{np.mean(values):.3f}" if values else "" for values in (list(dice.values()), unknown)
    ]
    return [f"{plain:.3f}", *means, f"{false_px:,}"]


def pooled_dice(counts_per_fold: list) -> float:
    """Fluid Dice over all eyes of all folds; counts_per_fold: (eyes, 2, 2) each."""
    (_, false), (missed, hit) = np.concatenate(counts_per_fold).sum(0)
    return 2 * hit / (2 * hit + false + missed)


if __name__ == "__main__":
    run(main)
