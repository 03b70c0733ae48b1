"""What a run leaves behind: provenance, config, metrics line by line, TensorBoard events, results."""

import json
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dme.figures import line_plot
from dme.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]  # of the checkout


def provenance() -> dict:
    """Where a result comes from: command, commit, versions, device, time (UTC)."""
    script = Path(sys.argv[0]).resolve()
    script = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else sys.argv[0]
    return {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "commit": _commit(),
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "device": device_name(),
    }


def device_name() -> str:
    """The GPU's name, or the number of CPU threads in use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _commit() -> str:
    """Commit of the project's own checkout, '+changes' when files differ from it, 'unknown' without one."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT:  # installed inside another project
            return "unknown"
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def write_json(path: str | Path, content: dict) -> None:
    """Write JSON atomically; arrays become lists, NaN null; a list of numbers takes one line."""
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    text = re.sub(r"\[\n[^\[\]{}]*\]", lambda found: re.sub(r"\n\s*", " ", found[0]), text)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n")


def plain(value):
    """The same content in JSON's own types."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, Tensor)):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class Run:
    """The folder of a training run: config.json, metrics.jsonl and TensorBoard events.

    start: steps that are done already; what an interrupted run left of later ones is dropped. With 0, so is
    what an older run left: a kill before this run's first checkpoint must not make the older one's the one to
    resume, nor its network pass for this run's.
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
        self.board = SummaryWriter(str(out), purge_step=start + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line and one TensorBoard point per value, at `step` completed steps."""
        self.file.write(json.dumps({"step": step, **plain(values)}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        self.board.flush()

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a uint8 (H, W, 3) picture in TensorBoard."""
        self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.file.close()
        self.board.close()


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
    return line_plot({name: points for name, points in lines.items() if points}, "step", "loss, score")


def seconds_per_step(history: list[dict]) -> float:
    """Median over the lines of a metrics.jsonl, which pauses and other work on the machine move little."""
    phases = ("data", "forward", "backward", "optimiser")
    return float(np.median([sum(row[f"seconds/{phase}"] for phase in phases) for row in history]))
