"""Why a narrow network falls short: the study's recipe against width, and how it was pretrained.

Every network is pretrained on fundus vessels by one of two recipes of pretrain_hrf.py, at half
size, then fine-tuned by row 10 of Table 2. Beside them stand networks that `reproduce` pretrained.

python experiments/studies/width.py          # what has no result yet, then table and figure
python experiments/studies/width.py --starts openmmlab-16 openmmlab-64 --seeds 0 1 2
python experiments/studies/width.py --results experiments/results/width --print
python experiments/studies/width.py --reproduced runs/reproduce
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dme.common.errors import InputError, run
from dme.common.options import check, setting
from dme.common.tables import mean_sd, table_head, table_line
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
SIZE = 0.5  # of the photographs
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


TITLES = (
    "pretrained by",
    "width",
    "steps",
    "photographs' size",
    "vessel Dice",
    "fluid Dice, row 10",
    "seeds",
)


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    starts: tuple[str, ...] = setting(tuple(STARTS), "which", choices=tuple(STARTS))
    seeds: tuple[int, ...] = setting((0,), "runs of row 10 from each")
    hrf: str | None = setting(None, "the photographs (default: HRF_DATA)")
    reproduced: tuple[Path, ...] = setting(
        (), "also what ./run.sh reproduce left in these folders"
    )
    __post_init__ = check


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/width")

    if settings.hrf:
        os.environ["HRF_DATA"] = settings.hrf  # which pretrain_hrf.py reads
    # vessels first, from which row 10 starts
    pretraining = pretraining_runs(settings.starts, args.amp)
    pretrained = series.gather(args, pretraining, script="pretrain_hrf.py", may_be_empty=True)
    results = series.gather(args, finetuning_runs(settings, args.amp, args.out))
    rows = summarise(settings.starts, pretrained, results)
    rows += [reproduced(folder) for folder in settings.reproduced]

    # table and figure
    table = markdown(rows, series.kind_of_scans(results.values()))
    series.leave_table(args, "width", table)
    lines = curves(rows)
    seeds = [(row["vessel"], dice) for row in rows for dice in row["seeds"]]
    picture = line_plot(lines, "vessel Dice after pretraining", "fluid Dice, row 10", dots=seeds)
    save_png(args.out / "width.png", picture)
    print(f"figure: {args.out / 'width.png'}")


def pretraining_runs(starts: Sequence[str], amp: str) -> series.Runs:
    """Names, and arguments of pretrain_hrf.py."""
    runs = {}
    for name in starts:
        start = STARTS[name]
        network = f"--recipe {start.recipe} --scale {SIZE} --heads psp --width {start.width}"
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
                "size": SIZE,
                "seeds": dice,
                "vessel": vessels["rows"][0]["dice_scale"],
            }
            rows.append(row)
    return rows


def reproduced(folder: Path) -> dict:
    """The row of what `reproduce` pretrained and fine-tuned, see `summarise`.

    Raises InputError when the folder lacks any of its files.
    """
    try:
        (pretraining,) = folder.glob("pretrain-*")
        vessels = json.loads((pretraining / "results.json").read_text())
        settings = json.loads((pretraining / "config.json").read_text())["config"]
        runs = [json.loads(file.read_text()) for file in sorted(folder.glob("table2/10-*.json"))]
        network = vessels["rows"][0]
        if not runs:
            raise ValueError("no row 10")
        return {
            "recipe": vessels["recipe"],
            "width": network["width"],
            "steps": settings["iters"],
            "size": vessels["scale"],
            "seeds": [run["pooled"]["dice"][1] for run in runs],
            "vessel": network["dice_scale"],
        }
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{folder} holds no finished pretraining and row 10; ./run.sh reproduce makes them"
        ) from e


def curves(rows: Sequence[dict]) -> dict[str, list[tuple[float, float]]]:
    """Mean fluid Dice against vessel Dice, a line for each recipe and width."""
    lines = {}
    for row in sorted(rows, key=lambda row: row["vessel"]):
        name = f"{RECIPES[row['recipe']]}, width {row['width']}"
        lines.setdefault(name, []).append((row["vessel"], np.mean(row["seeds"])))
    return dict(sorted(lines.items()))


def markdown(rows: Sequence[dict], kind: str) -> str:
    """The table; kind: real or SYNTHETIC, the scans of row 10."""
    lines = [f"Row 10 of Table 2 on {kind} scans of split paper, which leaks", ""]
    lines += table_head(TITLES)
    for row in rows:
        recipe = RECIPES[row["recipe"]]
        fluid = mean_sd(row["seeds"])
        size = f"{row['size']:g}"
        cells = [recipe, row["width"], row["steps"], size, f"{row['vessel']:.4f}", fluid]
        lines.append(table_line([*cells, len(row["seeds"])]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
