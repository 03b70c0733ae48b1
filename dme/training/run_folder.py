"""What a training run leaves: config, metrics line by line, TensorBoard events, pictures."""

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dme.common.files import atomic_path, plain, write_json
from dme.common.provenance import provenance
from dme.drawing.plots import line_plot

# files of an older run in the same folder, which a new one deletes
OLDER = (
    "last.pt",
    "best-*.pt",
    "model.pt",
    "results.json",
    "loss.png",
    "figure6.png",
    "layers.png",
)


class Run:
    """The folder of a training run: config.json, metrics.jsonl and TensorBoard events.

    start: steps that are done already; what an interrupted run left of later ones is dropped. With
    0, so is what an older run left: a kill before this run's first checkpoint must not make the
    older one's the one to resume, nor its network pass for this run's.
    """

    def __init__(self, out: Path, config: dict, start: int = 0) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        leftovers = (".*.part",) if start else (".*.part", *OLDER)  # .part: of a killed run
        for pattern in leftovers:
            for leftover in out.glob(pattern):
                leftover.unlink()
        write_json(out / "config.json", {"config": config, **provenance()})

        # lines up to `start` stay, and later ones follow them
        with atomic_path(out / "metrics.jsonl") as temporary:
            with open(temporary, "w") as file:
                for row in read_rows(out / "metrics.jsonl"):
                    if row["step"] <= start:
                        file.write(json.dumps(row) + "\n")
        self.file = open(out / "metrics.jsonl", "a")
        self.board = events_writer(out, start)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one TensorBoard point per value, at `step` completed steps."""
        self.file.write(json.dumps({"step": step, **plain(values)}) + "\n")
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
    return SummaryWriter(str(out), purge_step=start + 1)


def read_rows(path: str | Path) -> list[dict]:
    """The lines of a metrics.jsonl so far, none without the file.

    One cut short by a kill is left out.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


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

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; of a GPU that is done with them."""
        total: dict[str, float] = {}
        for (_, before), (phase, after) in itertools.pairwise(self.marks):
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
    """Median over the lines of a metrics.jsonl, which pauses of the machine move little."""
    phases = ("data", "forward", "backward", "optimiser")
    of_lines = []
    for row in history:
        of_lines.append(sum(row[f"seconds/{phase}"] for phase in phases))
    return float(np.median(of_lines))
