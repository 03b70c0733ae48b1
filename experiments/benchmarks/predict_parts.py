"""Runs of `predict` on a volume, each a process of its own, warm and cold: the bench predict."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from predict_table import lines
from tqdm import tqdm

from dme.common.errors import InputError
from dme.common.files import sha256_file
from dme.data.source import natural
from dme.nets.zoo import ZOO

HERE = Path(__file__).parent
TASKS = ("fluid", "layers", "layers+fluid")
VOLUME = "subject01_volume"  # of the Duke set, in DME_DATA
DUKE = ("--scale", "3.87,11.33,123")
BLOCK = 512  # bytes, of what the system counts as read
MB = 1e6
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of the most memory


def volume_of(data: str | None) -> tuple[list[str], str]:
    """Words for `predict` and what they name: the data given, the Duke volume, or the phantom."""
    known = Path(os.environ.get("DME_DATA", "")) / VOLUME
    if data is None and os.environ.get("DME_DATA") and known.is_dir():
        return [str(known), *DUKE], f"{VOLUME} of the Duke set (Chiu et al. 2015)"
    if data is None:
        return ["phantom"], "SYNTHETIC phantom scans"
    if not Path(data).exists():
        raise InputError(f"--data {data}: no such file or folder")
    return [data], Path(data).name


def measure(data: str | None, repeats: int) -> dict:
    """Of every task the medians of so many warm runs, and one run with nothing in memory."""
    words, description = volume_of(data)
    load = os.getloadavg()
    tasks: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # a round takes all tasks in turn, the first one warms up
        warm: dict[str, list[dict]] = {task: [] for task in TASKS}
        for number in tqdm(range(repeats + 1), desc="rounds", unit="round", leave=False):
            for task in TASKS:
                run = one_run(words, task, folder)
                if number:
                    warm[task].append(run)
        for task in TASKS:
            forget(words[0])
            tasks[task] = {"warm": medians(warm[task]), "cold": one_run(words, task, folder)}

    scans = tasks[TASKS[0]]["warm"]["scans"]
    content = {
        "volume": description,
        "scans": scans,
        "data_sha256": digest(words[0]),
        "tasks": tasks,
        "repeats": repeats,
        "load_before": load,
        "load_after": os.getloadavg(),
        "omp": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")},
    }
    print(f"\npredict: {scans} scans, {description}")
    print("\n".join(lines(content)))
    return content


def one_run(words: list[str], task: str, folder: Path) -> dict:
    """What predict_watch.py saw of a run, its memory, and how much it read."""
    watched = folder / "watched.json"
    out = folder / "out"
    options = ["--task", task, "--out", str(out), "--overwrite"]
    command = [sys.executable, str(HERE / "predict_watch.py"), str(watched), str(time.time())]
    process = subprocess.Popen(
        [*command, *words, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    errors = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"predict failed: {errors.strip().splitlines()[-1:]}")
    scans = len(json.loads((out / "measurements.json").read_text())["scans"])
    return json.loads(watched.read_text()) | {
        "scans": scans,
        "most_memory_mb": used.ru_maxrss * RSS_UNIT / MB,
        "read_mb": used.ru_inblock * BLOCK / MB,
    }


def medians(runs: list[dict]) -> dict:
    """By key, also of the dictionaries in the runs; and the range of the whole time."""
    result = {}
    for key, value in runs[0].items():
        if isinstance(value, dict):
            result[key] = medians([run[key] for run in runs])
        else:
            result[key] = statistics.median(run[key] for run in runs)
    if "since_start_s" in result:
        whole = [run["since_start_s"]["end"] for run in runs]
        result["end_range_s"] = [min(whole), max(whole)]
    return result


def forget(data: str) -> None:
    """Ask the system to drop scans, weights, packages and our code from memory.

    What other processes use stays; how much a run then read from the disk tells.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for root in (data, ZOO, HERE.parents[1] / "dme", Path(sys.prefix) / "lib"):
        for path in Path(root).rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def digest(data: str) -> str | None:
    """Of a file, or of the first file of a folder in natural order; None of the phantom."""
    path = Path(data)
    if path.is_dir():
        path = min(path.iterdir(), key=natural)
    return sha256_file(path) if path.is_file() else None
