"""How many labelled scans does it take, and does it pay to ask `suggest` which?

python experiments/studies/labels.py --data chiu2015 --amp bf16
python experiments/studies/labels.py --data octlayers --task layers --out runs/labels_layers
python experiments/studies/labels.py --results experiments/results/labels --amp bf16 --print

Each run is finetune.py on some scans of a fold's training eyes, scored on the fold's other eyes.
At random: the first N of an order drawn by the seed. By suggest: the first scan as of seed 0, then
round by round the scans that suggest chooses with the network trained on those chosen before, so
that no network which chooses has seen another label or a scored eye. Rest unlabelled: beside those
that suggest chose the fold's other training scans, without their labels. An order begins with a
scan that holds fluid, without which nothing can be learned. Runs go in order of worth; the table
of an unfinished series says what is missing. Every finished run is a file in --results, beside
orders.json, which says in which order scans are labelled.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dme.bscan import BScan
from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.options import check, setting
from dme.common.tables import mean_sd, table_head, table_line
from dme.drawing.canvas import save_png
from dme.drawing.plots import line_plot
from dme.retina.agreement import dice
from dme.training import series

if TYPE_CHECKING:  # --help is answered without torch
    from dme.data.scan_set import Cache

STARTS = {
    "devices-psp": "synthetic scans",
    "hrf-psp": "vessels (HRF)",
    "hrf-fcn": "vessels (HRF)",
    "none": "nothing",
}
RANDOM, SUGGEST = "random", "suggest"
REST = "suggest, rest unlabelled"
FIRST = "seed0"  # an order that every split has
FILE = "orders.json"
NOTES = (
    "Share: of what all training scans give from the same start, on the same folds. Folds "
    "together: the seeds that are finished on every fold."
)
# the phantom's constants were measured on the labels of all eyes
NOT_BLIND = "The start from synthetic scans, and those beside the data, know a little of all eyes."


@dataclass(frozen=True)
class Protocol:
    """What is run for a task."""

    recipe: str  # arguments of finetune.py
    splits: tuple[str, ...]  # folds by subject
    start: str  # of the curve
    counts: tuple[int, ...]  # of labelled scans; all of them come last
    worth: int  # the count that is run first and judged
    seeds: tuple[int, ...] = (0,)  # of the random orders, and of the trainings
    suggests: bool = False  # whether suggest chooses too, once
    unlabelled: str = ""  # arguments where the rest is unlabelled, of finetune.py; "" for no such
    others: tuple[str, ...] = ()  # further starts, no synthetic scans: seed 0, first fold
    few: tuple[int, ...] = ()  # their counts


PROTOCOLS = {
    "fluid": Protocol(
        recipe="--recipe fluid --iters 300 --ema 0.98",
        splits=("subject:2/5", "subject:4/5"),
        start="devices-psp",
        counts=(1, 2, 4, 8, 16, 40),
        worth=8,
        seeds=(0, 1, 2),
        suggests=True,
        unlabelled="--iters 600 --ema 0.99",
        others=("hrf-psp", "none"),
        few=(2, 8),
    ),
    "layers": Protocol(
        recipe="--recipe layers --iters 300 --ema 0.98",
        splits=("subject:1/7", "subject:4/7"),
        start="hrf-fcn",
        counts=(1, 6),
        worth=6,
    ),
}
UNITS = {"fluid": "fluid Dice", "layers": "error in px"}
COMPARED = {"fluid": "of the fluid Dice", "layers": "the error in px"}  # after a share


@dataclass(frozen=True)
class Settings:
    """What is learned."""

    task: str = setting("fluid", "which curve", choices=tuple(PROTOCOLS))
    __post_init__ = check


@dataclass(frozen=True)
class Trial:
    """One run."""

    start: str
    rule: str  # RANDOM, SUGGEST or REST
    count: int | None  # of labelled scans, None for all
    split: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder and its result."""
        count = "all" if self.count is None else self.count
        split = series.in_name(self.split)
        rule = "unlabelled" if self.rule == REST else self.rule
        return f"{self.start}-{rule}-{count}-{split}-seed{self.seed}"

    @property
    def order(self) -> str:
        """Which of the split's orders it takes its scans from."""
        return f"seed{self.seed}" if self.rule == RANDOM else SUGGEST


Row = tuple[str, str, int | None]  # of the table: start, rule, count
Orders = dict[str, dict[str, list[str]]]  # split -> order -> names, the first labelled first


def main() -> None:
    settings, args = series.parsed(__doc__, Settings, "runs/labels")
    task = settings.task
    protocol = PROTOCOLS[task]

    # stage by stage: what suggest chooses is known once the network before is trained
    orders = known_orders(args, protocol)
    results: series.Results = {}
    for stage in stages(protocol):
        runs = {}
        for trial in stage:
            if trial.rule == SUGGEST and not args.print:
                extend(orders, trial, protocol, args)
            if trial.rule == REST and not args.print:
                copy_training(trial.split, protocol, args)
            if is_known(orders, trial):
                runs[trial.name] = arguments(trial, orders, protocol, args)
        results |= series.gather(args, runs, may_be_empty=True)
    series.refuse_mixed(results.values(), series.results_folder(args))
    if not results:
        raise InputError("no run is finished; run without --print first")

    table = markdown(task, orders, results)
    series.leave_table(args, "labels", table)
    save_png(args.out / "labels.png", picture(task, orders, results))
    print(f"curve: {args.out / 'labels.png'}")


# ---- what is run


def stages(protocol: Protocol) -> list[list[Trial]]:
    """All trials in order of worth; those of a stage need no network of the same stage."""
    # what is judged, then all else
    early = curve(protocol, protocol.worth) + curve(protocol, None)
    early.sort(key=lambda trial: trial.seed)
    rest = []
    for split in protocol.splits[:1]:
        for start in protocol.others:
            for count in (*protocol.few, None):
                rest.append(Trial(start, RANDOM, count, split))
    for count in protocol.counts:
        rest += curve(protocol, count)

    # suggest goes as far as the count of worth before all that is left
    rounds = suggested_rounds(protocol)
    soon = [stage for stage in rounds if stage[0].count <= protocol.worth]
    soon += more_seeds(protocol)
    later = [stage for stage in rounds if stage[0].count > protocol.worth]
    if rounds:  # which begin with the first random scan
        for split in protocol.splits:
            early.append(_trial(protocol, RANDOM, protocol.counts[0], split))
    rest = [trial for trial in rest if trial not in early]
    return [early, *soon, rest, *later]


def _trial(protocol: Protocol, rule: str, count: int | None, split: str, seed: int = 0) -> Trial:
    return Trial(protocol.start, rule, count, split, seed)


def curve(protocol: Protocol, count: int | None) -> list[Trial]:
    """So many scans at random, every seed and fold."""
    trials = []
    for seed in protocol.seeds:
        for split in protocol.splits:
            trials.append(_trial(protocol, RANDOM, count, split, seed))
    return trials


def suggested_rounds(protocol: Protocol) -> list[list[Trial]]:
    """By suggest, a stage per count but the first, which is that of the random order."""
    if not protocol.suggests:
        return []
    rounds = []
    for count in protocol.counts[1:]:
        stage = [_trial(protocol, SUGGEST, count, split) for split in protocol.splits]
        rounds.append(stage)
    return rounds


def is_known(orders: Orders, trial: Trial) -> bool:
    """Whether it has been chosen which scans the trial learns from."""
    if trial.count is None:
        return True
    order = orders[trial.split].get(trial.order, [])
    return trial.count <= len(order)


def arguments(
    trial: Trial, orders: Orders, protocol: Protocol, args: argparse.Namespace
) -> list[str]:
    """Of finetune.py."""
    words = f"{protocol.recipe} --weights {trial.start} --split {trial.split}".split()
    words += f"--amp {args.amp} --seed {trial.seed}".split()
    if trial.start in protocol.others:
        words += ["--synthetic", "0"]
    if trial.rule == REST:
        folder = training_folder(trial.split, args)
        words += [*protocol.unlabelled.split(), "--unlabelled", str(folder)]
    if trial.count is None:
        return words
    order = orders[trial.split][trial.order]
    return [*words, "--train-on", *order[: trial.count]]


def more_seeds(protocol: Protocol) -> list[list[Trial]]:
    """The scans of worth that suggest chose, by every seed; the rest unlabelled beside them."""
    if not protocol.unlabelled:
        return []
    trials = []
    for rule in (SUGGEST, REST):
        for seed in protocol.seeds:
            for split in protocol.splits:
                if rule == REST or seed > 0:
                    trials.append(_trial(protocol, rule, protocol.worth, split, seed))
    return [trials]


# ---- which scans


def training_folder(split: str, args: argparse.Namespace) -> Path:
    """Where a split's training scans are without their labels."""
    return args.out / f"training-{series.in_name(split)}"


def copy_training(split: str, protocol: Protocol, args: argparse.Namespace) -> None:
    """Write a split's training scans; of them finetune.py leaves out those it has labels of."""
    from dme.data.folder_writing import write_folder

    cache, training = open_scans(args.data, protocol)
    scans = []
    for i in training[split].tolist():
        eye, position = cache.places[i]
        image = cache.images[i]
        scan = BScan(cache.names[i], image, None, None, eye, position, cache.scale_um)
        scans.append(scan)
    write_folder(training_folder(split, args), scans)


def known_orders(args: argparse.Namespace, protocol: Protocol) -> Orders:
    """The orders of a series, drawn if it is a new one. Raises InputError on other data."""
    path = series.results_folder(args) / FILE
    if args.print:
        if not path.is_file():
            raise InputError(f"no {path}; run without --print first")
        return json.loads(path.read_text())["orders"]

    cache, training = open_scans(args.data, protocol)
    if path.is_file():
        content = json.loads(path.read_text())
        if content["data_sha256"] != cache.source_sha256:
            raise InputError(
                f"{path} was made on other data; give the same --data, or choose another --out"
            )
        return content["orders"]
    orders: Orders = {}
    for split, indices in training.items():
        orders[split] = {}
        for seed in protocol.seeds:
            orders[split][f"seed{seed}"] = drawn(cache, indices, seed)
    write_json(path, {"data_sha256": cache.source_sha256, "orders": orders})
    return orders


def open_scans(data: str | None, protocol: Protocol) -> tuple["Cache", dict[str, np.ndarray]]:
    """The scans, and indices of the training scans per split. Raises InputError for too few."""
    from dme.data.cache import open_cache
    from dme.data.opening import open_source
    from dme.data.splits import split_indices

    cache = open_cache(open_source(data))
    training = {}
    for split in protocol.splits:
        training[split], _ = split_indices(cache, split)
        if len(training[split]) <= max(protocol.counts):
            raise InputError(
                f"split {split} has {len(training[split])} training scans; expected more than "
                f"{max(protocol.counts)}; use a larger set"
            )
    return cache, training


def drawn(cache: "Cache", training: np.ndarray, seed: int) -> list[str]:
    """Names of all training scans in an order drawn from the seed, one with fluid first."""
    order = np.random.default_rng(seed).permutation(training).tolist()
    if cache.fluid is not None:
        # a set without any is left to finetune.py to refuse
        wet = [i for i in order if (cache.fluid[i] == 1).any()]
        if wet:
            order.remove(wet[0])
            order.insert(0, wet[0])
    return [cache.names[i] for i in order]


def extend(orders: Orders, trial: Trial, protocol: Protocol, args: argparse.Namespace) -> None:
    """Choose the trial's scans, with the network trained on those chosen before, and keep them."""
    if is_known(orders, trial):
        return
    from dme.inference.suggestion import Spot, choose, draw_shifts, look_at
    from dme.nets.folding import folded
    from dme.nets.loading import load_model

    # the network of the round before
    before = protocol.counts[protocol.counts.index(trial.count) - 1]
    rule = SUGGEST if before > protocol.counts[0] else RANDOM
    earlier = _trial(protocol, rule, before, trial.split)
    model = folded(load_model(args.out / earlier.name / "model.pt"))
    labelled = orders[trial.split][earlier.order][:before]

    # it looks at the training eyes alone
    cache, training = open_scans(args.data, protocol)
    indices = training[trial.split].tolist()
    names = [cache.names[i] for i in indices]
    shifts = draw_shifts(0)
    print(f"\n== {earlier.name} looks at {len(names)} scans", flush=True)
    looks = [look_at(model, cache.images[i], shifts, cache.scale_um) for i in indices]
    spots = []
    for i in indices:
        eye = str(cache.subjects[i])
        spots.append(Spot(eye, float(cache.positions[i])))
    places = [names.index(name) for name in labelled]
    chosen = choose(looks, spots, trial.count - before, places)

    orders[trial.split][SUGGEST] = labelled + [names[place] for place in chosen]
    content = {"data_sha256": cache.source_sha256, "orders": orders}
    write_json(series.results_folder(args) / FILE, content)


# ---- what came out


def score(task: str, runs: Iterable[dict]) -> float:
    """Fluid Dice pooled over all columns of all scans; of layers the mean error in px."""
    if task == "layers":
        px = np.concatenate([result["boundary_errors_px_per_scan"] for result in runs])
        return float(np.nanmean(px.astype(float)[:, -1]))
    counts = np.concatenate([result["counts_per_scan"]["native"] for result in runs])
    return float(dice(counts.sum(0)))


def scores(task: str, results: series.Results, trials: Sequence[Trial]) -> list[float]:
    """Over all folds together, of each seed whose folds are finished."""
    values = []
    for seed in sorted({trial.seed for trial in trials}):
        names = [trial.name for trial in trials if trial.seed == seed]
        runs = series.present(results, names)
        if len(runs) == len(names):
            values.append(score(task, runs))
    return values


def rows(protocol: Protocol) -> dict[Row, list[Trial]]:
    """Start, rule and count of each row of the table, and its trials."""
    table: dict[Row, list[Trial]] = {}
    for stage in stages(protocol):
        for trial in stage:
            row = (trial.start, trial.rule, trial.count)
            table.setdefault(row, []).append(trial)
    starts = list(STARTS)

    def place(row: Row) -> tuple:
        start, rule, count = row
        return starts.index(start), rule, count is None, count or 0

    return {row: table[row] for row in sorted(table, key=place)}


def only_fold(protocol: Protocol, trials: Sequence[Trial]) -> str:
    """The split of trials that are on one of several folds, empty for those of all folds."""
    splits = {trial.split for trial in trials}
    return "" if len(splits) == len(protocol.splits) else " ".join(splits)


def number_of_all(orders: Orders) -> int:
    """Training scans of the smallest fold."""
    return min(len(by_order[FIRST]) for by_order in orders.values())


def markdown(task: str, orders: Orders, results: series.Results) -> str:
    """A row per start, rule and count: scores per fold and together, and what is missing."""
    protocol = PROTOCOLS[task]
    kind = series.kind_of_scans(results.values())
    measure = "pooled fluid Dice, all columns"
    if task == "layers":
        measure = "mean absolute error of boundaries in px"
    lines = [f"{kind} scans of eyes not trained on: {measure}; mean ± sd over seeds", ""]
    titles = ["pretrained on", "chosen", "labelled scans", *protocol.splits, "folds together"]
    lines += table_head([*titles, "share", "seeds", "missing runs"])
    table = rows(protocol)
    for (start, rule, count), trials in table.items():
        cells = [STARTS[start], rule, count or f"all ({number_of_all(orders)})"]
        # fold by fold
        for split in protocol.splits:
            of_fold = [trial for trial in trials if trial.split == split]
            cells.append(mean_sd(scores(task, results, of_fold)))
        # together, and what is missing
        together = scores(task, results, trials)
        cells.append("" if only_fold(protocol, trials) else mean_sd(together))
        everything = scores(task, results, table[start, RANDOM, None])
        cells.append(share(task, together, everything))
        absent = sum(trial.name not in results for trial in trials)
        cells += [len(together), f"{absent} of {len(trials)}" if absent else ""]
        lines.append(table_line(cells))
    lines += ["", *sentences(task, orders, results), "", NOTES]
    return "\n".join([*lines, NOT_BLIND] if protocol.others else lines) + "\n"


def share(task: str, part: Sequence[float], everything: Sequence[float]) -> str:
    """Cell of a table: what part of the score of all scans this is, empty where unknown.

    Of an error how many times as large it is.
    """
    if not part or not everything or not np.mean(everything):
        return ""
    ratio = np.mean(part) / np.mean(everything)
    return f"{ratio:.2f} times" if task == "layers" else f"{100 * ratio:.0f} %"


def sentences(task: str, orders: Orders, results: series.Results) -> list[str]:
    """What the count of worth gives of what all scans give, as far as it is known."""
    protocol = PROTOCOLS[task]
    table = rows(protocol)
    few = scores(task, results, table[protocol.start, RANDOM, protocol.worth])
    everything = scores(task, results, table[protocol.start, RANDOM, None])
    if not few or not everything:
        return [f"Not known yet: what {protocol.worth} labels give of what all of them give."]
    # at random, then by suggest
    part = f"{share(task, few, everything)} {COMPARED[task]}"
    lines = [
        f"With {protocol.worth} labels drawn at random you get {part} that all "
        f"{number_of_all(orders)} of them give ({np.mean(few):.4f} of {np.mean(everything):.4f}; "
        f"{len(few)} and {len(everything)} seeds, {len(protocol.splits)} folds)."
    ]

    # of layers suggest chooses none
    told = {SUGGEST: "that suggest chose", REST: "that suggest chose and the rest unlabelled"}
    for rule, words in told.items():
        chosen = scores(task, results, table.get((protocol.start, rule, protocol.worth), []))
        if not chosen:
            continue
        gain = np.mean(chosen) - np.mean(few)
        lines.append(
            f"With {protocol.worth} {words}: {share(task, chosen, everything)} "
            f"({np.mean(chosen):.4f}, {gain:+.4f} against random; seeds: {len(chosen)})."
        )
    return lines


def picture(task: str, orders: Orders, results: series.Results) -> np.ndarray:
    """Score over the number of labelled scans, a line per start and rule."""
    protocol = PROTOCOLS[task]
    lines: dict[str, list[tuple[float, float]]] = {}
    for (start, rule, count), trials in rows(protocol).items():
        values = scores(task, results, trials)
        if values:
            labelled = float(count or number_of_all(orders))
            point = (labelled, float(np.mean(values)))
            name = f"{STARTS[start]}, {rule} {only_fold(protocol, trials)}"
            lines.setdefault(name.strip(), []).append(point)
    scans = series.kind_of_scans(results.values())
    return line_plot(lines, f"labelled scans ({scans})", UNITS[task], x_doubles=True)


if __name__ == "__main__":
    run(main)
