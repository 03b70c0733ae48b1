"""The table of speeds on a GPU that the README shows, from what gpu.py left.

python experiments/benchmarks/gpu_table.py --results experiments/results/bench
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from speed_table import memory, milliseconds, times_as_long

from dme.common.errors import InputError, run
from dme.common.tables import table_head, table_line


class Work(NamedTuple):
    """Lines of the table: a piece of work, our way to do it, and all it is compared with."""

    title: str
    keys: tuple[str, ...]  # that lead to its rows in gpu.json
    way: str


CONFUSION = "dme.confusion_matrix"
STEP, SCANS = "dme, bfloat16", "dme, folded, float32"
WORKS = [
    Work("confusion matrix of logits (64, 2, 1024, 1024)", ("confusion", "2 classes"), CONFUSION),
    Work("confusion matrix of logits (16, 9, 1024, 1024)", ("confusion", "9 classes"), CONFUSION),
    *(
        Work(f"{name} and gradient of logits {shape}", ("losses", f"{name} {shape}"), way)
        for name, way in (("CE + Dice", "dme.losses.ce_dice"), ("focal loss", "dme.losses.focal"))
        for shape in ("(16, 2, 320, 320)", "(16, 2, 1024, 1024)", "(16, 9, 512, 512)")
    ),
    Work("16 crops of 320 x 320, turned and scaled", ("crops",), "dme.sample_crops"),
    Work("training step, UNet-64, PSP, batch 2, crop 320", ("training", "batch 2", "rows"), STEP),
    Work("the same, batch 16", ("training", "batch 16", "rows"), STEP),
    Work("61 scans of 496 x 768 at half size, dme-fluid", ("prediction", "rows"), SCANS),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("runs/bench"), help="of gpu.py")
    print(markdown(parser.parse_args().results), end="")


def markdown(results: Path) -> str:
    """Median times, the most memory one call holds, and the ratio of the same rounds.

    Raises InputError when the benchmarks are not finished.
    """
    path = results / "gpu.json"
    if not path.exists():
        raise InputError(f"{path} is not there; run gpu.py on a machine with a GPU first")
    content = json.loads(path.read_text())
    lines = table_head(["work on a GPU", "`dme`", "against", "times as long"])
    for work in WORKS:
        rows = content
        for key in work.keys:
            rows = rows[key]
        title = work.title
        ours = milliseconds(rows[work.way]) + memory(rows[work.way])
        for way, row in rows.items():
            if way != work.way:
                peer = f"{way}: {milliseconds(row)}{memory(row)}"
                times = times_as_long(rows, work.way, way)
                lines.append(table_line([title, ours, peer, times]))
                title = ours = ""  # said once
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
