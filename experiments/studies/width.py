"""Why a narrow network falls short: the study's recipe against width, and against how it was pretrained.

Every network is pretrained on fundus vessels by one of two recipes of pretrain_hrf.py, at half size, then
fine-tuned by row 10 of Table 2.

python experiments/studies/width.py          # what has no result yet, then table and figure
python experiments/studies/width.py --starts openmmlab-16 openmmlab-64 --seeds 0 1 2
python experiments/studies/width.py --results experiments/results/width --print
"""

import argparse
from typing import NamedTuple

from dme.common.errors import run
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="which (default: all)")
    add("--seeds", type=int, nargs="+", default=[0], help="runs of row 10 from each (default: 0)")
    add("--hrf", help="the photographs (default: HRF_DATA)")
    series.add_arguments(parser, "runs/width")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pretraining, runs = {}, {}
    for name in args.starts:
        start = STARTS[name]
        network = f"--recipe {start.recipe} --scale 0.5 --heads psp --width {start.width}"
        words = f"{network} --steps {start.steps} --amp {args.amp}".split()
        pretraining[f"pretrain-{name}"] = words
        weights = str(args.out / f"pretrain-{name}" / "best-psp.pt")
        for seed in args.seeds:
            words = f"{ROW} --split paper --amp {args.amp} --seed {seed}"
            runs[f"row10-{name}-seed{seed}"] = [*words.split(), "--weights", weights]
    pretrained = series.gather(args, pretraining, script="pretrain_hrf.py", may_be_empty=True)
    found = series.gather(args, runs)
    rows = summarise(args.starts, pretrained, found)
    table = markdown(rows)
    series.write_table(args.out / "width.md", table)
    lines = {}
    for row in rows:
        if not row["name"].endswith("half"):
            lines.setdefault(RECIPES[row["recipe"]], []).append((row["width"], row["fluid"]))
    save_png(args.out / "width.png", line_plot(lines, "width", "fluid Dice"))
    print(f"\n{table}\ntable: {args.out / 'width.md'}\nfigure: {args.out / 'width.png'}")


def summarise(
    starts: list[str], pretrained: dict[str, dict], found: dict[str, dict]
) -> list[dict]:
    """Of each start with finished runs: vessel Dice, and fluid Dice of every seed."""
    rows = []
    for name in starts:
        own = [result for run, result in found.items() if run.startswith(f"row10-{name}-seed")]
        made = pretrained.get(f"pretrain-{name}")
        if own and made:
            dice = [result["pooled"]["dice"][1] for result in own]
            row = STARTS[name]._asdict() | {
                "name": name,
                "seeds": dice,
                "fluid": sum(dice) / len(dice),
            }
            rows.append(
                row | {"vessel": made["rows"][0]["dice_scale"], "seconds": made["seconds"]}
            )
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        "| pretrained by | width | steps | vessel Dice | fluid Dice, row 10 | seeds |",
        "|---" * 6 + "|",
    ]
    for row in rows:
        cells = [
            RECIPES[row["recipe"]],
            str(row["width"]),
            str(row["steps"]),
            f"{row['vessel']:.4f}",
        ]
        cells += [series.mean_sd(row["seeds"]), str(len(row["seeds"]))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
