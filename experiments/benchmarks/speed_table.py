"""The table of speeds that the README shows, from what bench.py left.

python experiments/benchmarks/speed_table.py --results experiments/results/bench
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from dme.common.errors import InputError, run
from dme.common.tables import table_head, table_line

MIB = 2**20


class Work(NamedTuple):
    """Lines of the table: a piece of work, our way to do it, and the ways it is compared with."""

    title: str
    bench: str  # NAME of NAME.json
    rows: str  # the key of its rows
    way: str
    against: dict[str, str]  # a way's name in the file: in the table


EAGER = "eager, channels first, OpenMMLab's order of operations"
CONFUSION = {"torchmetrics": "torchmetrics", "argmax and bincount": "arg-max and bincount"}
PLAIN = {"PyTorch operations": "PyTorch operations"}


def depthwise(kernel: int, dilation: int) -> list[Work]:
    """In both precisions."""
    shape = "(4, 672, 32, 48)"
    kind = f"depthwise {kernel} x {kernel}"
    title = f"{kind} convolution, dilation {dilation}, of {shape}, and gradients"
    rows, wrong = f"{kind}, dilation {dilation}", "F.conv2d, whose gradient is wrong"
    single, half = "dme.depthwise_conv, float32", "dme.depthwise_conv, bfloat16"
    return [
        Work(title, "ops", rows, single, {"F.conv2d, float32": "F.conv2d"}),
        Work("the same in bfloat16", "ops", rows, half, {"F.conv2d, bfloat16": wrong}),
    ]


WORKS = [
    Work(
        "open 110 scans and masks from the cache",
        "cache",
        "rows",
        "dme, from the cache",
        {"Pillow, from PNG files": "Pillow, PNG files"},
    ),
    Work(
        "confusion matrix of logits (8, 2, 512, 512)",
        "ops",
        "2 classes",
        "dme.confusion_matrix",
        CONFUSION,
    ),
    Work("the same with 9 classes", "ops", "9 classes", "dme.confusion_matrix", CONFUSION),
    Work(
        "CE + Dice and gradient of logits (2, 2, 320, 320)",
        "ops",
        "CE + Dice, 2 classes",
        "dme.losses.ce_dice",
        PLAIN | {"MONAI DiceCELoss": "MONAI, DiceCELoss (cannot ignore pixels)"},
    ),
    Work(
        "the same of (6, 9, 240, 240)",
        "ops",
        "CE + Dice, 9 classes",
        "dme.losses.ce_dice",
        PLAIN | {"MONAI DiceCELoss": "MONAI, DiceCELoss"},
    ),
    Work(
        "focal loss and gradient of logits (2, 2, 320, 320)",
        "ops",
        "focal loss, 2 classes",
        "dme.losses.focal",
        PLAIN,
    ),
    Work(
        "the same of (6, 9, 240, 240)", "ops", "focal loss, 9 classes", "dme.losses.focal", PLAIN
    ),
    *depthwise(3, 2),
    *depthwise(5, 4),
    Work(
        "training step, UNet-16, PSP, batch 2, crop 320",
        "train",
        "rows",
        "dme, float32",
        {
            "eager float32, channels first, order of OpenMMLab": EAGER,
            "dme, bfloat16": "ours with bfloat16 ({ms})",
        },
    ),
    Work(
        "496 x 768 scan at half size",
        "infer",
        "scan",
        "dme, folded",
        {"eager, channels first, order of OpenMMLab": EAGER, "onnxruntime": "onnxruntime"},
    ),
    Work(
        "sliding window, 9 windows in 512 x 512",
        "infer",
        "sliding_window",
        "dme, folded",
        {
            "MONAI, eager": "MONAI with the eager network",
            "MONAI, folded": "MONAI with our folded network",
        },
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("runs/bench"), help="of bench.py")
    print(markdown(parser.parse_args().results), end="")


def markdown(results: Path) -> str:
    """Median times, the most memory one call holds, and the ratio of the same rounds.

    Raises InputError when a bench is not finished.
    """
    lines = table_head(["work", "`dme`", "against", "times as long"])
    for work in WORKS:
        path = results / f"{work.bench}.json"
        if not path.exists():
            raise InputError(f"{path} is not there; run bench.py {work.bench} first")
        rows = json.loads(path.read_text())[work.rows]
        title = work.title
        ours = milliseconds(rows[work.way]) + memory(rows[work.way])
        # a line for each way that it is compared with
        for way, name in work.against.items():
            peer = name.format(ms=milliseconds(rows[way])) + memory(rows[way])
            times = times_as_long(rows, work.way, way)
            lines.append(table_line([title, ours, peer, times]))
            title = ours = ""  # said once
    return "\n".join(lines) + "\n"


def times_as_long(rows: dict[str, dict], ours: str, peer: str) -> str:
    """The median over rounds where ours is the first way; else the quotient of the medians."""
    ratio = rows[peer]["ratio"]
    if rows[ours]["ratio"] != 1:
        ratio = rows[peer]["median_s"] / rows[ours]["median_s"]
    return f"{ratio:.1f}" if ratio >= 3 else f"{ratio:.2f}"


def milliseconds(row: dict) -> str:
    value = 1e3 * row["median_s"]
    if value < 1:
        return f"{value:.2f} ms"
    return f"{value:.1f} ms" if value < 50 else f"{value:.0f} ms"


def memory(row: dict) -> str:
    """In brackets, where it was measured."""
    if "peak_bytes" not in row:
        return ""
    value = row["peak_bytes"] / MIB
    return f" ({value:.1f} MiB)" if value < 1 else f" ({value:.0f} MiB)"


if __name__ == "__main__":
    run(main)
