"""What a training run leaves: config, metrics line by line, TensorBoard events, pictures."""

import filecmp
import glob
import itertools
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dme.common.files import (
    atomic_path,
    plain,
    refuse_special,
    sealed,
    sha256_file,
    unsealed,
    write_json,
)
from dme.common.folders import read_record, refuse_foreign
from dme.common.provenance import provenance
from dme.drawing.plots import line_plot

# what a run leaves at its end: an older one's stay until they are replaced
PRODUCTS = (
    "model.pt",
    "results.json",
    "loss.png",
    "figure6.png",
    "layers.png",
    "vessels.png",
)
CONFIG = "config.json"  # the mark of a run of ours
METRICS = "metrics.jsonl"
CHECKPOINT = "last.pt"
PHASES = ("data", "forward", "backward", "optimiser")  # of a step
OLDER = "older-{}"  # folders for what older runs left


class Run:
    """The folder of a training run: config.json, metrics.jsonl and TensorBoard events.

    start: steps that are done already; what an interrupted run left of later ones is dropped. With
    0 an older run's files are kept in a folder of their own: a kill before this run's first
    checkpoint must not make the older one's the one to resume. Raises InputError where files that
    no run left, or links, would have to be replaced.
    """

    def __init__(self, out: Path, config: dict, start: int = 0) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        refuse_foreign_files(out, config)
        for name in (CONFIG, *names_of(config)):
            refuse_special(out / name)
            for leftover in out.glob(f".{glob.escape(name)}.*.part"):  # of a killed run
                leftover.unlink()
        if not start:
            kept = set_aside(out)
            if kept:
                print(f"what an older run left in {out} is kept in {kept}")
        write_json(out / CONFIG, {"config": config, **provenance()})

        # lines up to `start` stay, and later ones follow them
        with atomic_path(out / METRICS) as temporary:
            with open(temporary, "w") as file:
                for row in read_rows(out / METRICS):
                    if row["step"] <= start:
                        file.write(json.dumps(sealed(row)) + "\n")
        self.file = open(out / METRICS, "a")
        self.board = events_writer(out, start)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one TensorBoard point per value, at `step` completed steps."""
        self.file.write(json.dumps(sealed({"step": step, **plain(values)})) + "\n")
        self.file.flush()
        if self.board is None:
            return
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a uint8 (H, W, 3) picture in TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files; nothing can be logged afterwards."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def events_writer(out: Path, start: int) -> Any:
    """TensorBoard's SummaryWriter of a run; None, and a line that says so, without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard events: install tensorboard, or dme[train]", file=sys.stderr)
        return None
    # it names its file after the computer, and the folder may be shared
    name_of_host = socket.gethostname
    socket.gethostname = lambda: "dme"
    try:
        return SummaryWriter(str(out), purge_step=start + 1)
    finally:
        socket.gethostname = name_of_host


def names_of(config: dict) -> list[str]:
    """What a run of these settings writes beside CONFIG and TensorBoard's files."""
    names = [METRICS, CHECKPOINT, *PRODUCTS]
    for key in config:
        if key.endswith(".backbone"):  # of each network
            names.append(f"best-{key.removesuffix('.backbone')}.pt")
    return names


def config_of(out: Path) -> dict | None:
    """Settings of the run that wrote into a folder; None where none of ours did."""
    record = read_record(out / CONFIG) or {}
    config = record.get("config")
    return config if isinstance(config, dict) else None


def refuse_foreign_files(out: Path, config: dict | None = None) -> None:
    """Raise InputError for files, named as a run's are, in a folder that no run wrote into."""
    refuse_foreign(out, CONFIG, names_of(config or {}))


def set_aside(out: Path) -> Path | None:
    """Keep what an older run left in a new folder beside it; None if there is nothing to keep.

    The files that the next run writes from its first steps on are moved; what it leaves at its
    end is copied, and stays in place until it is replaced.
    """
    config = config_of(out)
    if config is None:
        return None
    in_work = []
    for name in names_of(config):
        if name == CHECKPOINT or name.startswith("best-"):
            in_work.append(name)
    in_work = [name for name in in_work if (out / name).is_file()]
    finished = [name for name in PRODUCTS if (out / name).is_file()]
    latest = _older_folders(out)[-1:]
    finished = [name for name in finished if not _kept_already(out, latest, name)]
    if not in_work and not finished:
        return None

    # copies first: whenever this is cut short, all is in one place or the other
    number = 1
    while (out / OLDER.format(number)).exists():
        number += 1
    folder = out / OLDER.format(number)
    for name in [*finished, CONFIG, METRICS]:
        if (out / name).is_file():
            with atomic_path(folder / name) as temporary:
                shutil.copy2(out / name, temporary)
    for name in in_work:
        os.replace(out / name, folder / name)
    return folder


def _older_folders(out: Path) -> list[Path]:
    """Those that hold what older runs left, the latest last."""
    folders = []
    for folder in out.glob(OLDER.format("*")):
        number = folder.name.rpartition("-")[2]
        if number.isdecimal():
            folders.append((int(number), folder))
    return [folder for _, folder in sorted(folders)]


def _kept_already(out: Path, folders: list[Path], name: str) -> bool:
    for folder in folders:
        if (folder / name).is_file():
            return filecmp.cmp(out / name, folder / name, shallow=False)
    return False


def start_of_resumed(out: Path, weights: str) -> str:
    """The file that a run in `out` started from, if that run or a later one has replaced it.

    weights: as they were named then; what is no file in `out` is returned as it is.
    """
    path = Path(weights)
    if path.resolve().parent != out.resolve():
        return weights
    config = config_of(out) or {}
    started_from = {value for key, value in config.items() if key.endswith(".weights")}
    for folder in (out, *reversed(_older_folders(out))):
        file = folder / path.name
        if file.is_file() and sha256_file(file) in started_from:
            return str(file)
    return weights


def read_rows(path: str | Path) -> list[dict]:
    """The lines of a metrics.jsonl so far, none without the file.

    One cut short by a kill is left out; so is one that was damaged, which is said on stderr.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row = unsealed(json.loads(line))
            if not _is_row(row):
                raise ValueError("no step, or no numbers")
        except (ValueError, RecursionError):
            cut_short = number == len(lines)  # what follows the last line's end
            if line and not cut_short:
                print(f"{path}: line {number} is damaged, left out", file=sys.stderr)
            continue
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """Whether it is a step with numbers, as `Run.log` writes them."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return all(value is None or isinstance(value, int | float) for value in row.values())


class Stopwatch:
    """Seconds spent in named phases.

    On a GPU they are measured there, by events, without making the host wait. clock: that of a
    CPU.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.cuda = device.type == "cuda"
        self.clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget the laps so far: the first phase begins now."""
        self.marks: list[tuple[str, Any]] = [("", self._now())]

    def _now(self) -> Any:
        if not self.cuda:
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, phase: str) -> None:
        """The time since the last lap belongs to `phase`."""
        self.marks.append((phase, self._now()))

    def skip(self) -> None:
        """The time since the last lap belongs to no phase."""
        self.lap("")

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; of a GPU that is done with them."""
        total: dict[str, float] = {}
        for (_, before), (phase, after) in itertools.pairwise(self.marks):
            if not phase:
                continue
            spent = before.elapsed_time(after) / 1000 if self.cuda else after - before
            total[phase] = total.get(phase, 0.0) + spent
        return total

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last read, for which a GPU is waited for."""
        if self.cuda:
            torch.cuda.synchronize()
        seconds = self.seconds()
        self.restart()
        return seconds


def loss_curve(rows: list[dict]) -> np.ndarray:
    """Picture of the training loss and the validation score against steps, uint8 (H, W, 3)."""
    lines = {}
    for name in ("train/loss", "train/dice", "validation/score"):
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            lines[name] = points
    return line_plot(lines, "step", "loss, score")


def seconds_per_step(history: list[dict]) -> float:
    """Median over the lines of a metrics.jsonl, which pauses of the machine move little.

    NaN if none of them has the seconds of every phase.
    """
    of_lines = []
    for row in history:
        seconds = [row.get(f"seconds/{phase}") for phase in PHASES]
        if None not in seconds:
            of_lines.append(sum(seconds))
    return float(np.median(of_lines)) if of_lines else math.nan
