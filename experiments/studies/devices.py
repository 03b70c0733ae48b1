"""What helps a fluid network on scans of other devices: one change after the other, on four eyes.

python experiments/studies/devices.py --amp bf16           # all that has no result yet, the table
python experiments/studies/devices.py --candidates "as best" --amp bf16
python experiments/studies/devices.py --results experiments/results/devices --amp bf16 --print

The protocol is told in experiments/studies/README.md: eyes 1, 2, 6 and 7, each seen by a network
that was not trained on it, as they are and perturbed. Every finished training and every finished
trial of its network is a file in --results; the column "SYNTHETIC device" is of a device that no
training sees. An interrupted series continues where it was.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from development import run_name
from robustness import UNKNOWN_SCALE

from dme.common.errors import run
from dme.common.options import check, setting
from dme.common.tables import table_head, table_line
from dme.data.phantom_devices import KINDS, PER_KIND
from dme.retina import agreement
from dme.training import series

BASE = "--recipe best --iters 300 --batch 2 --ema 0.98"
BRIGHTNESS = "--size half --match-brightness"
SCALE = "--size um --match-brightness"
FEWER = f"{SCALE} --synthetic 20"
# a network of synthetic scans alone, from which some candidates start
FIRST = "synthetic-first"
FIRST_TRAINING = (
    f"--data phantom --synthetic 240 --split random --recipe best {SCALE} --iters 1500"
)
CANDIDATES = {
    "as best": "",
    "matched brightness": BRIGHTNESS,
    "and um per pixel": SCALE,
    "these, synthetic devices": f"{SCALE} --synthetic 60",
    "these, fewer synthetic": FEWER,
    "fewer, resolution and blur": f"{FEWER} --resolution 1.5 --blur 1",
    "fewer, grain": f"{FEWER} --grain 0.6",
    "fewer, stretch": f"{FEWER} --stretch 0.3",
    "fewer, finer across": f"{FEWER} --um-per-px 7.74 11.33",
    "fewer, ungraded unknown": f"{FEWER} --ungraded ignore",
    "fewer, gamma to 2 without one brightness": "--size um --synthetic 20 --gamma 1",
    "um, synthetic first": f"{SCALE} --weights {FIRST}",
    "um, synthetic first and beside": f"{FEWER} --weights {FIRST}",
    "um, synthetic first, 10 beside": f"{SCALE} --synthetic 10 --weights {FIRST}",
    "these, noise exchanged": f"{FEWER} --weights {FIRST} --exchange-noise 0.5",
    "these, amplitudes exchanged": f"{FEWER} --weights {FIRST} --exchange-style 0.5",
    "these, instance norm": f"{FEWER} --weights {FIRST} --norm instance",
}
# did not pay, and went with their options (which commit 31ad4a7 has): shown, never run
GONE = (
    "fewer, resolution and blur",
    "fewer, grain",
    "fewer, stretch",
    "these, noise exchanged",
    "these, amplitudes exchanged",
    "these, instance norm",
)
FOLDS = (1, 2)  # of dev:K/4, as the protocol says
REFUSED = "inverted"  # the perturbation that is to be refused, not to be read
PLAIN = "as it is"
HELD_OUT = ["--data", "phantom:devices", "--rows", "as it is"]
TITLES = (
    "candidate",
    "as they are",
    "perturbed",
    "scale unknown",
    "false px in dry scans",
    "SYNTHETIC device",
    *KINDS,
)


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    candidates: tuple[str, ...] = setting(
        tuple(CANDIDATES), "which ones", choices=tuple(CANDIDATES)
    )
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/devices")

    # one candidate after the other, so that each is known as soon as it can be
    eyes: series.Results = {}
    devices: series.Results = {}
    only_shown = args.print
    for candidate in settings.candidates:
        args.print = only_shown or candidate in GONE
        if FIRST in CANDIDATES[candidate]:
            first = {FIRST: f"{FIRST_TRAINING} --amp {args.amp} --seed 0".split()}
            series.gather(args, first, may_be_empty=True)
        trained = series.gather(args, trainings(args.out, candidate, args.amp), may_be_empty=True)
        eyes |= gather_trials(args, trained, "eyes")
        devices |= gather_trials(args, trained, "devices")
    table = markdown(settings, eyes, devices)
    series.leave_table(args, "devices", table)


def trainings(out: Path, candidate: str, amp: str) -> series.Runs:
    """Names, and arguments of finetune.py."""
    options = CANDIDATES[candidate].replace(FIRST, str(out / FIRST / "model.pt"))
    runs = {}
    for fold in FOLDS:
        words = f"{BASE} {options} --split dev:{fold}/4 --amp {amp} --seed 0"
        runs[run_name(candidate, fold)] = words.split()
    return runs


def gather_trials(args: argparse.Namespace, trained: series.Results, scans: str) -> series.Results:
    """What robustness.py found of trained networks.

    scans: "eyes", those of the fold that the network did not see, or "devices", the synthetic
    scans of the device that no training sees.
    """
    runs = {}
    for name, training in trained.items():
        words = ["--split", training["split"]] if scans == "eyes" else HELD_OUT
        runs[name] = ["--weights", str(args.out / name / "model.pt"), *words]
    folder = series.results_folder(args) / scans
    if args.print:
        return series.finished(runs, folder)
    return series.run_missing("studies/robustness.py", runs, args.out / scans, folder)


# ---- the table


def markdown(settings: Settings, eyes: series.Results, devices: series.Results) -> str:
    """A line for each candidate whose folds are finished."""
    lines = table_head(TITLES)
    for candidate in settings.candidates:
        names = [run_name(candidate, fold) for fold in FOLDS]
        on_eyes = series.present(eyes, names)
        on_devices = series.present(devices, names)
        if len(on_eyes) == len(on_devices) == len(FOLDS):
            line = [candidate, *cells(on_eyes), *device_cells(on_devices)]
            lines.append(table_line(line))
    return "\n".join(lines) + "\n"


def device_cells(runs: list[dict]) -> list[str]:
    """Cells of a row: fluid Dice in the synthetic scans, over both folds' networks, by kind."""
    rows = [result["networks"][0]["perturbations"][PLAIN]["counts_per_eye"] for result in runs]
    cells = [f"{pooled_dice(rows):.3f}"]
    for kind in range(len(KINDS)):
        scans = slice(kind * PER_KIND, (kind + 1) * PER_KIND)
        cells.append(f"{pooled_dice([row[scans] for row in rows]):.3f}")
    return cells


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
    return float(agreement.dice(np.concatenate(counts_per_fold).sum(0)))


if __name__ == "__main__":
    run(main)
