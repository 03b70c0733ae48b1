"""Table 2 of the study: eleven ways to fine-tune the PSP network, each options of finetune.py.

python experiments/table2.py              # all rows that have no result yet, then the table
python experiments/table2.py --rows 6 10 --seeds 0 1 2
python experiments/table2.py --extended   # what the study's documents ask for beside them
python experiments/table2.py --results experiments/results/table2 --amp bf16 --print  # as it is

Every finished row is a file in --results. An interrupted series continues where it was.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dme.common.errors import InputError, run
from dme.common.options import option_parser
from dme.common.tables import mean_sd, table_head, table_line
from dme.training import series


class Row(NamedTuple):
    """A row of the table: what it is, finetune.py's arguments, and what the study published."""

    name: str
    arguments: str
    mean_dice: float | None = None
    mean_iou: float | None = None
    fluid_dice: float | None = None  # of the study's notebooks, not in its paper
    fluid_iou: float | None = None


ROWS = {
    1: Row("200 it., no crop", "--iters 200 --crop 0 --l2 5e-4", 0.7721, 0.6855, 0.5468, 0.3762),
    2: Row("no crop", "--crop 0 --l2 5e-4", 0.7173, 0.6371, 0.4374, 0.2799),
    3: Row("no crop, flip", "--crop 0 --flip --l2 5e-4", 0.7040, 0.6263, 0.4109, 0.2585),
    4: Row("crop 192", "--crop 192 --l2 5e-4", 0.6951, 0.6190, 0.3937, 0.2451),
    5: Row("crop 224", "--crop 224 --l2 5e-4", 0.7106, 0.6299, 0.4271, 0.2715),
    6: Row("crop 320", "--crop 320 --l2 5e-4", 0.8401, 0.7567, 0.6826, 0.5182),
    7: Row("crop 320, Dice", "--crop 320 --loss dice --l2 5e-4", 0.8395, 0.7560, 0.6813, 0.5166),
    8: Row("crop 320, focal", "--crop 320 --loss focal --l2 5e-4", 0.8280, 0.7429, 0.6585, 0.4909),
    9: Row("crop 320, Adam", "--crop 320 --optimizer adam --l2 5e-4", 0.4981, 0.4963, 0.0, 0.0),
    10: Row("crop 320, L2 1e-4", "--crop 320 --l2 1e-4", 0.8430, 0.7600, 0.6883, 0.5247),
    11: Row("crop 320, L2 1e-3", "--crop 320 --l2 1e-3", 0.8312, 0.7464),
}
# Beyond the paper: its notebooks' crop 288, and what the proposal and the future work name
EXTENDED = {
    12: Row("crop 288", "--crop 288 --l2 5e-4", 0.8351, 0.7509),
    13: Row("crop 288, flip", "--crop 288 --flip --l2 5e-4", 0.8420, 0.7589),
    14: Row("row 10, rotation", "--crop 320 --rotate 10"),
    15: Row("row 10, shift", "--crop 320 --shift 0.1"),
    16: Row("row 10, brightness", "--crop 320 --brightness 0.1"),
    17: Row("row 10, IoU-balanced", "--crop 320 --loss iou"),
    18: Row("row 10, CE + Dice", "--crop 320 --loss ce+dice:1,1"),
    19: Row("row 10, CE + 0.5 Dice", "--crop 320 --loss ce+dice:1,0.5"),
    20: Row("row 10, 0.5 CE + Dice", "--crop 320 --loss ce+dice:0.5,1"),
    21: Row("row 10, FCN head", "--crop 320 --head fcn --weights hrf-fcn"),
    22: Row("row 10, DeepLabV3 head", "--crop 320 --head deeplabv3 --weights hrf-deeplabv3"),
}


# Columns of the table that are ours: what is taken of a run's pooled scores
MEASURED: tuple[Callable[[dict], float], ...] = (
    lambda pooled: pooled["mean_dice"],
    lambda pooled: pooled["mean_iou"],
    lambda pooled: pooled["dice"][1],
    lambda pooled: pooled["iou"][1],
)
SCORES = ("mIoU", "fluid Dice", "IoU")
TITLES = ("row", "", "published mDice", *SCORES, "ours: mDice", *SCORES, "seeds", "s/it")


def parse_args() -> argparse.Namespace:
    parser = option_parser(__doc__)
    add = parser.add_argument
    add(
        "--rows",
        type=int,
        nargs="+",
        help="numbers of rows (default: 1 to 11, with --extended also 12 to 22)",
    )
    add("--extended", action="store_true", help="also the rows that the paper's table lacks")
    add("--seeds", type=int, nargs="+", default=[0], help="runs of each row (default: 0)")
    add(
        "--weights",
        default="hrf-psp",
        help="start of the PSP rows, a name or file (default hrf-psp)",
    )
    series.add_arguments(parser, "runs/table2", "rows")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    rows = ROWS | EXTENDED
    numbers = args.rows or list(rows if args.extended else ROWS)
    for number in numbers:
        if number not in rows:
            raise InputError(f"no row {number}; there are 1 to {len(rows)}")
    runs = {}
    for number in numbers:
        for seed in args.seeds:
            runs |= run_of(number, seed, args.weights, args.amp)
    results = series.gather(args, runs)
    table = markdown({number: rows[number] for number in numbers}, results)
    series.leave_table(args, "table2", table)


def run_of(number: int, seed: int, weights: str, amp: str) -> dict[str, list[str]]:
    """A row's run: its name, and the arguments of finetune.py."""
    row = (ROWS | EXTENDED)[number]
    arguments = [*row.arguments.split(), "--split", "paper"]
    if "--weights" not in row.arguments:
        arguments += ["--weights", weights]
    return {f"{number:02}-seed{seed}": [*arguments, "--amp", amp, "--seed", str(seed)]}


def markdown(rows: dict[int, Row], results: dict[str, dict]) -> str:
    """The table; of each row the mean over its seeds, with their standard deviation.

    results: name of a run, see `run_of` -> its results.json.
    """
    first = next(iter(results.values()))
    scans = f"{series.kind_of_scans(results.values())} scans"
    count = len(first["scans"])
    lines = [
        f"Published, and ours on {scans}: head PSP if nothing else is said, "
        f"width {first['arch']['width']}, {count} validation scans of split paper",
        "",
        *table_head(TITLES),
    ]
    for number, row in rows.items():
        of_row = [results[name] for name in results if name.startswith(f"{number:02}-")]
        if of_row:
            lines.append(table_line([number, *_cells(row, of_row)]))

    background = [result["pooled"]["dice"][0] for result in results.values()]
    lines += [
        "",
        "mDice and mIoU average fluid and background, whose Dice here is "
        f"{min(background):.3f} to {max(background):.3f} whatever the fluid's. The published "
        "fluid scores stand in the study's notebooks, not in its paper.",
        f"The split is by B-scan, not by eye: {first['leak']} of the {count} validation scans "
        "have a neighbour in training, so no score here says anything about a new patient.",
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row, results: Sequence[dict]) -> list[str]:
    """A row's cells but its number."""
    cells = [row.name]
    for value in (row.mean_dice, row.mean_iou, row.fluid_dice, row.fluid_iou):
        cells.append("" if value is None else f"{value:.4f}")
    for score in MEASURED:
        cells.append(mean_sd([score(result["pooled"]) for result in results]))
    seconds = np.median([result["seconds_per_iteration"] for result in results])
    return [*cells, str(len(results)), f"{seconds:.2f}"]


if __name__ == "__main__":
    run(main)
