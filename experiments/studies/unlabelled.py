"""Do an eye's B-scans without labels help a network that learns from few labels of other eyes?

python experiments/studies/unlabelled.py --data chiu2015 --volume chiu2015/subject01_volume
python experiments/studies/unlabelled.py --results experiments/results/unlabelled --print

Each pair of runs is finetune.py on the same labelled scans of a fold's training eyes, by the same
seed, without and with --unlabelled: B-scans of the volume of eye 1, which the fold leaves out. Its
annotated B-scans, which are scored, are not among them; those next to these are. The fold's other
eye is scored as a control: nothing of it is seen. Labelled scans are drawn as in labels.py.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from labels import RANDOM, Orders, Protocol, Trial, arguments, known_orders, number_of_all

from dme.bscan import BScan
from dme.common.errors import InputError, run
from dme.common.options import setting
from dme.common.tables import mean_sd, table_head, table_line
from dme.retina import agreement
from dme.training import series

if TYPE_CHECKING:  # --help is answered without torch
    from dme.data.scan_set import Cache

EYE = 1  # whose volume is there
CONTROL = 7  # left out by the same fold
SPLIT = "subject:1/5"
FEW = 8
PROTOCOL = Protocol(
    recipe="--recipe fluid --iters 300 --batch 3 --ema 0.98",
    splits=(SPLIT,),
    start="devices-psp",
    counts=(FEW,),
    worth=FEW,
    seeds=(0, 1, 2),
)


@dataclass(frozen=True)
class Settings:
    """What is looked at."""

    volume: Path | None = setting(None, "folder of all B-scans of eye 1, in order")


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/unlabelled")

    orders = known_orders(args, PROTOCOL)
    folder = args.out / "volume"
    if not args.print:
        copy_unseen(settings.volume, args, folder)
    results = series.gather(args, pairs(orders, folder, args))
    table = markdown(orders, results)
    series.leave_table(args, "unlabelled", table)


# ---- what is run


def trials() -> list[Trial]:
    """Few labels, each draw, then all of them."""
    few = [Trial(PROTOCOL.start, RANDOM, FEW, SPLIT, seed) for seed in PROTOCOL.seeds]
    return [*few, Trial(PROTOCOL.start, RANDOM, None, SPLIT)]


def with_volume(trial: Trial) -> str:
    """Name of the run that sees unlabelled scans too."""
    return f"{trial.name}-unlabelled"


def pairs(orders: Orders, folder: Path, args: argparse.Namespace) -> series.Runs:
    """Names, and arguments of finetune.py, of each trial without and with unlabelled scans."""
    runs = {}
    for trial in trials():
        words = arguments(trial, orders, PROTOCOL, args)
        runs[trial.name] = words
        runs[with_volume(trial)] = [*words, "--unlabelled", str(folder)]
    return runs


def copy_unseen(volume: Path | None, args: argparse.Namespace, folder: Path) -> None:
    """Write the volume's B-scans that are not annotated, and their scale.

    Raises InputError for a volume that is not that of the annotated scans.
    """
    from dme.data.cache import open_cache
    from dme.data.folder_writing import write_folder
    from dme.data.opening import open_source

    if volume is None:
        raise InputError("no volume: give `volume`, the folder of all B-scans of eye 1")
    cache = open_cache(open_source(args.data))
    bscans = list(open_source(volume).scans(labelled_only=False))
    scans = []
    for position in unseen(cache, bscans):
        name = f"bscan_{position:02}"
        image = bscans[position].image
        scans.append(BScan(name, image, None, None, EYE, position, cache.scale_um))
    write_folder(folder, scans)


def unseen(cache: "Cache", bscans: Sequence[BScan]) -> list[int]:
    """Positions of the B-scans of eye 1 that are not annotated.

    Raises InputError unless each annotated scan is the volume's B-scan of its position.
    """
    annotated = []
    for index, (subject, position) in enumerate(cache.places):
        if subject != EYE:
            continue
        annotated.append(position)
        inside = position < len(bscans)
        if not inside or not np.array_equal(bscans[position].image, cache.images[index]):
            raise InputError(
                f"{cache.names[index]} is not B-scan {position} of the volume, of "
                f"{len(bscans)} B-scans: give that of eye {EYE}"
            )
    if not annotated:
        raise InputError(f"no scan of {cache.description} is of eye {EYE}: give Duke's set")
    return sorted(set(range(len(bscans))) - set(annotated))


# ---- what came out


def dice(result: dict, eye: int) -> float:
    """Fluid Dice pooled over all columns of an eye's scans."""
    places = np.array(result["subjects"]) == eye
    counts = np.array(result["counts_per_scan"]["native"])
    return float(agreement.dice(counts[places].sum(0)))


def markdown(orders: Orders, results: series.Results) -> str:
    """A row per draw, one for the mean of several, and what is missing."""
    kind = series.kind_of_scans(results.values())
    lines = [f"{kind} scans of eyes not trained on: pooled fluid Dice, all columns", ""]
    titles = ["labelled scans", "draw"]
    for eye in (EYE, CONTROL):
        titles += [f"eye {eye}, labelled alone", "with unlabelled", "gain"]
    lines += table_head(titles)

    # few labels draw by draw and their mean, then all of them
    few = []
    absent = []
    for trial in trials():
        runs = series.present(results, (trial.name, with_volume(trial)))
        if len(runs) < 2:
            absent.append(trial.name)
            continue
        values = [dice(result, eye) for eye in (EYE, CONTROL) for result in runs]
        if trial.count:
            few.append(values)
        count = trial.count or f"all ({number_of_all(orders)})"
        lines.append(row(count, trial.seed, [values]))
    if len(few) > 1:
        lines.append(row(FEW, f"mean ± sd of {len(few)}", few))

    used = [result["unlabelled"]["scans"] for result in results.values() if "unlabelled" in result]
    for count in sorted(set(used)):
        lines += ["", f"Unlabelled: {count} B-scans of eye {EYE}; nothing of eye {CONTROL}."]
    if absent:
        lines += ["", f"Missing: pairs of {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


def row(count: object, draw: object, values: Sequence[Sequence[float]]) -> str:
    """A line of the table. values: (draws, 4), each eye without and with unlabelled scans."""
    cells = [count, draw]
    for place in (0, 2):
        alone, beside = np.array(values)[:, place : place + 2].T
        gains = beside - alone
        gain = f"{gains.mean():+.4f}"
        if len(gains) > 1:
            gain += f" ± {gains.std(ddof=1):.4f}"
        cells += [mean_sd(alone), mean_sd(beside), gain]
    return table_line(cells)


if __name__ == "__main__":
    run(main)
