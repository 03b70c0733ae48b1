"""Why a narrow network falls short: the study's recipe against width, and how it was pretrained.

Every network is pretrained on fundus vessels by one of two recipes of pretrain_hrf.py, at half
size, then fine-tuned by row 10 of Table 2.

python experiments/studies/width.py          # what has no result yet, then table and figure
python experiments/studies/width.py --starts openmmlab-16 openmmlab-64 --seeds 0 1 2
python experiments/studies/width.py --results experiments/results/width --print
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dme.common.errors import run
from dme.common.options import add_options, check, from_options, option_parser, setting
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.training import series

ROW = "--crop 320 --l2 1e-4"  # row 10 of Table 2, its best


class Start(NamedTuple):
    """A way to pretrain: a recipe of pretrain_hrf.py, the network's width, steps."""

    recipe: str
    width: int
    steps: int


STEPS = 2000
STARTS = {
    "openmmlab-16": Start("openmmlab", 16, STEPS),
    "openmmlab-32": Start("openmmlab", 32, STEPS),
    "openmmlab-64": Start("openmmlab", 64, STEPS),
    "openmmlab-64-half": Start("openmmlab", 64, STEPS // 2),
    "small-16": Start("small", 16, STEPS),
    "small-32": Start("small", 32, STEPS),
    "small-64": Start("small", 64, STEPS),
    "small-64-half": Start("small", 64, STEPS // 2),
}
RECIPES = {
    "openmmlab": "SGD 0.01, CE, batch 16 (OpenMMLab's)",
    "small": "AdamW 2e-3, CE + Dice, batch 4 (ours)",
}


TITLES = ("pretrained by", "width", "steps", "vessel Dice", "fluid Dice, row 10", "seeds")


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    starts: tuple[str, ...] = setting(tuple(STARTS), "which", choices=tuple(STARTS))
    seeds: tuple[int, ...] = setting((0,), "runs of row 10 from each")
    hrf: str | None = setting(None, "the photographs (default: HRF_DATA)")
    __post_init__ = check


def main() -> None:
    parser = option_parser(__doc__)
    add_options(parser, Settings)
    series.add_arguments(parser, "runs/width")
    args = parser.parse_args()
    settings = from_options(Settings, args)

    if settings.hrf:
        os.environ["HRF_DATA"] = settings.hrf  # which pretrain_hrf.py reads
    # vessels first, from which row 10 starts
    pretraining = pretraining_runs(settings.starts, args.amp)
    pretrained = series.gather(args, pretraining, script="pretrain_hrf.py", may_be_empty=True)
    results = series.gather(args, finetuning_runs(settings, args.amp, args.out))
    rows = summarise(settings.starts, pretrained, results)

    # table and figure
    table = markdown(rows, series.kind_of_scans(results.values()))
    series.write_table(args.out / "width.md", table)
    save_png(args.out / "width.png", line_plot(curves(rows), "width", "fluid Dice"))
    print(f"\n{table}\ntable: {args.out / 'width.md'}\nfigure: {args.out / 'width.png'}")


def pretraining_runs(starts: Sequence[str], amp: str) -> series.Runs:
    """Names, and arguments of pretrain_hrf.py."""
    runs = {}
    for name in starts:
        start = STARTS[name]
        network = f"--recipe {start.recipe} --scale 0.5 --heads psp --width {start.width}"
        runs[f"pretrain-{name}"] = f"{network} --steps {start.steps} --amp {amp}".split()
    return runs


def finetuning_runs(settings: Settings, amp: str, out: Path) -> series.Runs:
    """Names, and arguments of finetune.py."""
    runs = {}
    for name in settings.starts:
        weights = str(out / f"pretrain-{name}" / "best-psp.pt")
        for seed in settings.seeds:
            start = [*ROW.split(), "--split", "paper", "--weights", weights]
            runs[f"row10-{name}-seed{seed}"] = [*start, "--amp", amp, "--seed", str(seed)]
    return runs


def summarise(
    starts: Sequence[str], pretrained: series.Results, results: series.Results
) -> list[dict]:
    """Of each start with finished runs: vessel Dice, and fluid Dice of every seed."""
    rows = []
    for name in starts:
        # a row needs both: how it was pretrained, and a seed at least of row 10
        prefix = f"row10-{name}-seed"
        runs = [result for run, result in results.items() if run.startswith(prefix)]
        vessels = pretrained.get(f"pretrain-{name}")
        if runs and vessels:
            dice = [result["pooled"]["dice"][1] for result in runs]
            row = {
                **STARTS[name]._asdict(),
                "name": name,
                "seeds": dice,
                "fluid": sum(dice) / len(dice),
                "vessel": vessels["rows"][0]["dice_scale"],
            }
            rows.append(row)
    return rows


def curves(rows: Sequence[dict]) -> dict[str, list[tuple[int, float]]]:
    """Fluid Dice against width by recipe, of the starts of full length."""
    lines = {}
    for row in rows:
        if not row["name"].endswith("half"):
            points = lines.setdefault(RECIPES[row["recipe"]], [])
            points.append((row["width"], row["fluid"]))
    return lines


def markdown(rows: Sequence[dict], kind: str) -> str:
    """The table; kind: real or SYNTHETIC, the scans of row 10."""
    lines = [f"Row 10 of Table 2 on {kind} scans of split paper, which leaks", ""]
    lines += series.table_head(TITLES)
    for row in rows:
        recipe = RECIPES[row["recipe"]]
        fluid = series.mean_sd(row["seeds"])
        cells = [recipe, row["width"], row["steps"], f"{row['vessel']:.4f}", fluid]
        lines.append(series.table_line([*cells, len(row["seeds"])]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
