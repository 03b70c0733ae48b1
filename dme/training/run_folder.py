"""What a training run leaves behind: config, metrics line by line, TensorBoard events, pictures."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dme.common.files import atomic_path, plain, write_json
from dme.common.provenance import provenance
from dme.drawing.plots import line_plot


class Run:
    """The folder of a training run: config.json, metrics.jsonl and TensorBoard events.

    start: steps that are done already; what an interrupted run left of later ones is dropped. With
    0, so is what an older run left: a kill before this run's first checkpoint must not make the
    older one's the one to resume, nor its network pass for this run's.
    """

    def __init__(self, out: Path, config: dict, start: int = 0):
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        for leftover in out.glob(".*.part"):  # of a killed run
            leftover.unlink()
        if start == 0:
            pictures = ("loss.png", "figure6.png", "layers.png")
            for name in ("last.pt", "best-*.pt", "model.pt", "results.json", *pictures):
                for older in out.glob(name):
                    older.unlink()
        write_json(out / "config.json", {"config": config, **provenance()})
        kept = [row for row in read_rows(out / "metrics.jsonl") if row["step"] <= start]
        with atomic_path(out / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
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
        self.file.close()
        if self.board is not None:
            self.board.close()


def events_writer(out: Path, start: int) -> Any:
    """TensorBoard's SummaryWriter of a run; None, and a line that says so, where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard events: install tensorboard, or dme[train]", file=sys.stderr)
        return None
    return SummaryWriter(str(out), purge_step=start + 1)


def read_rows(path: str | Path) -> list[dict]:
    """The lines of a metrics.jsonl so far, none without the file; one cut short by a kill is left out."""
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class Stopwatch:
    """Seconds spent in named phases; on a GPU measured there by events, without making the host wait."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.marks = [("", self._now())]

    def _now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, name: str) -> None:
        """The time since the last lap belongs to `name`."""
        self.marks.append((name, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds per name since the last read."""
        if self.cuda:
            torch.cuda.synchronize()
        total = {}
        for (_, before), (name, after) in zip(self.marks, self.marks[1:], strict=False):
            spent = before.elapsed_time(after) / 1000 if self.cuda else after - before
            total[name] = total.get(name, 0.0) + spent
        self.marks = [("", self._now())]
        return total


def loss_curve(rows: list[dict]) -> np.ndarray:
    """Picture of the training loss and the validation score against steps, uint8 (H, W, 3)."""
    lines = {
        name: [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        for name in ("train/loss", "train/dice", "validation/score")
    }
    return line_plot(
        {name: points for name, points in lines.items() if points}, "step", "loss, score"
    )


def seconds_per_step(history: list[dict]) -> float:
    """Median over the lines of a metrics.jsonl, which pauses and other work on the machine move little."""
    phases = ("data", "forward", "backward", "optimiser")
    return float(np.median([sum(row[f"seconds/{phase}"] for phase in phases) for row in history]))
