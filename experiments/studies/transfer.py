"""Does pretraining help? The study's best row from HRF weights, from synthetic scans and from scratch.

python experiments/studies/transfer.py  # all runs that have no result yet, then the table
python experiments/studies/transfer.py --splits paper --seeds 0
python experiments/studies/transfer.py --results experiments/results/transfer --amp bf16 --print

Every run goes on to four times the study's steps. Its learning rate does not depend on its length, so that
its scores after 400 steps are those of the study's row itself. Finished runs are files in --results.
"""

import argparse

import numpy as np

from dme.common.errors import run
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.training import series

STUDY_STEPS, LONG = 400, 1600
SPLITS = ["paper", "subject:1/5", "subject:4/5"]
STARTS = {"hrf-psp": "vessels (HRF)", "phantom-psp": "synthetic scans", "none": "nothing"}
ROW = f"--crop 320 --iters {LONG} --eval-every 200"  # row 10 of Table 2, longer


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--starts",
        nargs="+",
        choices=STARTS,
        default=list(STARTS),
        help="where the weights come from (all)",
    )
    add(
        "--splits",
        nargs="+",
        default=SPLITS,
        help=f"splits of finetune.py (default {' '.join(SPLITS)})",
    )
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="runs of each (default 0 1 2)")
    series.add_arguments(parser, "runs/transfer")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    runs = {}
    for seed in args.seeds:
        for split in args.splits:
            for start in args.starts:
                how = f"--weights {start} --split {split} --amp {args.amp} --seed {seed}"
                runs[run_name(start, split, seed)] = [*ROW.split(), *how.split()]
    found = series.gather(args, runs)
    table = markdown(args, found)
    series.write_table(args.out / "transfer.md", table)
    save_png(args.out / "transfer.png", line_plot(curves(args, found), "step", "fluid Dice"))
    print(f"\n{table}\ntable: {args.out / 'transfer.md'}\ncurve: {args.out / 'transfer.png'}")
    print(f"runs: {series.results_folder(args)}")


def run_name(start: str, split: str, seed: int) -> str:
    return f"{start}-{series.in_name(split)}-seed{seed}"


def fluid_dice(
    args: argparse.Namespace, found: dict[str, dict], start: str, split: str
) -> np.ndarray:
    """(seeds, evaluations, 2): step and pooled fluid Dice of the finished runs of a start on a split."""
    names = [run_name(start, split, seed) for seed in args.seeds]
    histories = [np.array(found[name]["history"])[:, :2] for name in names if name in found]
    return np.stack(histories) if histories else np.empty((0, 0, 2))


def curves(
    args: argparse.Namespace, found: dict[str, dict]
) -> dict[str, list[tuple[float, float]]]:
    """Mean over the splits of the mean over the seeds, per start."""
    lines = {}
    for start in args.starts:
        per_split = [fluid_dice(args, found, start, split) for split in args.splits]
        if all(len(one) for one in per_split):
            mean = np.mean([one.mean(0) for one in per_split], axis=0)
            lines[STARTS[start]] = [(float(step), float(dice)) for step, dice in mean]
    return lines


def markdown(args: argparse.Namespace, found: dict[str, dict]) -> str:
    """Fluid Dice per start, split and length: mean and standard deviation over the seeds."""
    kind = next(iter(found.values()))["data_kind"]
    lines = [
        f"Fluid Dice pooled over the validation scans, {'SYNTHETIC' if kind == 'phantom' else 'real'} scans",
        "",
        "| pretrained on | steps | " + " | ".join(args.splits) + " | seeds |",
        "|---" * (3 + len(args.splits)) + "|",
    ]
    for steps in (STUDY_STEPS, LONG):
        for start in args.starts:
            cells, seeds = [], []
            for split in args.splits:
                histories = fluid_dice(args, found, start, split)
                values = histories[histories[..., 0] == steps][:, 1]
                seeds.append(len(values))
                cells.append(series.mean_sd(values))
            cells.append(series.fewest_to_most(seeds))
            lines.append(f"| {STARTS[start]} | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
