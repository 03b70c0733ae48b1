"""Does pretraining help? The study's best row from HRF weights, synthetic scans and from scratch.

python experiments/studies/transfer.py  # all runs that have no result yet, then the table
python experiments/studies/transfer.py --splits paper --seeds 0
python experiments/studies/transfer.py --results experiments/results/transfer --amp bf16 --print

Every run goes on to four times the study's steps. Its learning rate does not depend on its length,
so that its scores after 400 steps are those of the study's row itself. Finished runs are files in
--results.
"""

from dataclasses import dataclass

import numpy as np

from dme.common.errors import run
from dme.common.options import check, setting
from dme.common.tables import fewest_to_most, mean_sd, table_head, table_line
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.training import series

STUDY_STEPS, LONG = 400, 1600
SPLITS = ("paper", "subject:1/5", "subject:4/5")
STARTS = {"hrf-psp": "vessels (HRF)", "phantom-psp": "synthetic scans", "none": "nothing"}
ROW = f"--crop 320 --iters {LONG} --eval-every 200"  # row 10 of Table 2, longer


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    starts: tuple[str, ...] = setting(
        tuple(STARTS), "where the weights come from", choices=tuple(STARTS)
    )
    splits: tuple[str, ...] = setting(SPLITS, "splits of finetune.py")
    seeds: tuple[int, ...] = setting((0, 1, 2), "runs of each")
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/transfer")

    results = series.gather(args, all_runs(settings, args.amp))
    table = markdown(settings, results)
    series.leave_table(args, "transfer", table)
    picture = line_plot(curves(settings, results), "step", "fluid Dice")
    save_png(args.out / "transfer.png", picture)
    print(f"curve: {args.out / 'transfer.png'}")


def all_runs(settings: Settings, amp: str) -> series.Runs:
    """Names, and arguments of finetune.py."""
    runs = {}
    for seed in settings.seeds:
        for split in settings.splits:
            for start in settings.starts:
                words = f"{ROW} --weights {start} --split {split} --amp {amp} --seed {seed}"
                runs[run_name(start, split, seed)] = words.split()
    return runs


def run_name(start: str, split: str, seed: int) -> str:
    return f"{start}-{series.in_name(split)}-seed{seed}"


def fluid_dice(settings: Settings, results: series.Results, start: str, split: str) -> np.ndarray:
    """(seeds, evaluations, 2): step and pooled fluid Dice, of the finished runs of a start."""
    runs = series.present(results, [run_name(start, split, seed) for seed in settings.seeds])
    # a line of history begins with the step and fluid Dice
    histories = [np.array(result["history"])[:, :2] for result in runs]
    return np.stack(histories) if histories else np.empty((0, 0, 2))


def curves(settings: Settings, results: series.Results) -> dict[str, list[tuple[float, float]]]:
    """Mean over the splits of the mean over the seeds, per start with runs on every split."""
    lines = {}
    for start in settings.starts:
        histories = [fluid_dice(settings, results, start, split) for split in settings.splits]
        if all(len(history) for history in histories):
            # first over the seeds, so that every split weighs alike
            mean = np.mean([history.mean(0) for history in histories], axis=0)
            lines[STARTS[start]] = [(float(step), float(dice)) for step, dice in mean]
    return lines


def markdown(settings: Settings, results: series.Results) -> str:
    """Fluid Dice per start, split and length: mean and standard deviation over the seeds."""
    kind = series.kind_of_scans(results.values())
    lines = [
        f"Fluid Dice pooled over the validation scans, {kind} scans",
        "",
        *table_head(["pretrained on", "steps", *settings.splits, "seeds"]),
    ]
    for steps in (STUDY_STEPS, LONG):
        for start in settings.starts:
            # a column per split, then how many seeds each rests on
            cells = []
            seeds = []
            for split in settings.splits:
                histories = fluid_dice(settings, results, start, split)
                dice = histories[histories[..., 0] == steps][:, 1]
                cells.append(mean_sd(dice))
                seeds.append(len(dice))
            cells.append(fewest_to_most(seeds))
            lines.append(table_line([STARTS[start], steps, *cells]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
