"""The whole study in one command, in order of worth: about a quarter of an hour on a large GPU.

tests     the tests marked gpu
bench     kernels, a training step of width 64 and prediction beside peers (a GPU)
pretrain  a PSP network of the study's width on fundus vessels, by OpenMMLab's recipe at half size
table2    Table 2: row 10 with three seeds, rows 6, 2, 5 and 9 with one
rows      the other rows of Table 2, then 12, 13 and 18 to 20
table1    Table 1 with both protocols (on a CPU with the light one)

./run.sh reproduce                                  # on a GPU: everything, width 64
./run.sh reproduce --minutes 10 --jobs 6            # what fits, six runs at a time on one card
./run.sh reproduce --only pretrain table2
./run.sh reproduce --weights hrf-psp-openmmlab      # from the study's own network, once downloaded

What is finished is never run again, what was interrupted goes on. On a CPU the width is 16.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from studies.parts import SHARED, Settings, Task, all_tasks, summarise

from dme.common.errors import run
from dme.common.files import write_json
from dme.common.options import parsed
from dme.common.provenance import ROOT, device_name
from dme.common.tables import write_table

GRACE_S = 30  # to write a checkpoint, when time is over
POLL_S = 0.1


def parse_args() -> Settings:
    settings = parsed(__doc__, Settings)
    return replace(settings, out=settings.out.resolve())


def main() -> int:
    settings = parse_args()
    began = time.monotonic()
    import torch  # after parsing: --help does not wait for it

    gpu = torch.cuda.is_available()
    show_data(settings)
    tasks = [task for task in all_tasks(settings, gpu) if task.part in settings.only]
    announce(settings, tasks, gpu)

    deadline = began + 60 * settings.minutes if settings.minutes else None
    failed = []
    for part in settings.only:
        missing = ready([task for task in tasks if task.part == part])
        jobs = settings.jobs if part in SHARED else 1
        failed += run_part(missing, jobs, deadline, settings.out)

    summary = summarise(settings, tasks)
    write_table(settings.out / "summary.md", summary)
    print(f"\n{summary}")
    if unfinished := [task.name for task in tasks if not task.result.exists()]:
        print(f"not finished: {', '.join(unfinished)}; the same command goes on")
    minutes = (time.monotonic() - began) / 60
    print(f"{minutes:.1f} minutes; summary: {settings.out / 'summary.md'}")
    return 1 if failed else 0


def ready(tasks: Sequence[Task]) -> list[Task]:
    """Those of a part that are not finished and can be started; says which cannot."""
    missing = [task for task in tasks if not task.result.exists()]
    waiting = [task for task in missing if task.needs and not task.needs.exists()]
    if waiting:
        print(
            f"{len(waiting)} runs of {waiting[0].part} wait for {waiting[0].needs}: pretrain first"
        )
    return [task for task in missing if task not in waiting]


def show_data(settings: Settings) -> None:
    """Say on which data the parts work; raises InputError where they are not."""
    from dme.data.hrf import open_hrf
    from dme.data.opening import open_source

    if {"pretrain", *SHARED} & set(settings.only):
        print(f"scans: {open_source(settings.data).description}")
    if "pretrain" in settings.only and not settings.weights:
        print(f"photographs: {open_hrf(settings.hrf).description}")


def announce(settings: Settings, tasks: Sequence[Task], gpu: bool) -> None:
    """Say what will be done, and how long it took on the GPU it was measured on."""
    if settings.rehearse:
        print("REHEARSAL: every part runs, for one step; its numbers mean nothing")
    note = "" if gpu else "; width 16 and no GPU tests: sized down for a CPU"
    print(f"device: {device_name()}{note}")
    print(f"{'part':10} {'runs':>5} {'done':>5} {'minutes on an H200':>20}")
    for part in settings.only:
        planned = [task for task in tasks if task.part == part]
        missing = [task for task in planned if not task.result.exists()]
        done = len(planned) - len(missing)
        minutes = sum(task.seconds for task in missing) / 60
        print(f"{part:10} {len(planned):5} {done:5} {minutes:20.1f}")
    print(flush=True)


# ---- running


@dataclass(frozen=True)
class Running:
    """A task that was started."""

    task: Task
    process: subprocess.Popen
    since: float  # of time.monotonic
    log: Path


def run_part(tasks: Sequence[Task], jobs: int, deadline: float | None, out: Path) -> list[str]:
    """Run a part's tasks, `jobs` at a time, until the deadline; the names of those that failed."""
    waiting = list(tasks)
    running: list[Running] = []
    failed = []
    (out / "logs").mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            # when time is over nothing new begins, and what runs is asked to stop
            over = deadline is not None and time.monotonic() > deadline
            if over:
                waiting.clear()
                stop(running)
            while waiting and len(running) < jobs:
                running.append(start(waiting.pop(0), out))

            # what has ended makes place
            for entry in [entry for entry in running if entry.process.poll() is not None]:
                running.remove(entry)
                if not finish(entry, over):
                    failed.append(entry.task.name)
            time.sleep(POLL_S)
    finally:
        stop(running)
    return failed


def start(task: Task, out: Path) -> Running:
    log = out / "logs" / f"{task.name.replace(' ', '-').replace(',', '')}.log"
    command = [sys.executable, "-u", *task.command]  # its last line is the last in the log
    if task.folder and (task.folder / "last.pt").exists():
        command.append("--resume")
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    return Running(task, process, time.monotonic(), log)


def finish(entry: Running, over: bool) -> bool:
    """Keep and report what an ended process made. False if it failed, not only ran out of time."""
    seconds = time.monotonic() - entry.since
    if entry.process.returncode == 0:
        keep_row(entry.task)
        print(f"{seconds:7.1f} s  {entry.task.name}", flush=True)
        return True
    if over:
        return True
    lines = entry.log.read_text(errors="replace").strip().splitlines() or ["no output"]
    what = f"{entry.task.name} FAILED: {lines[-1]} (all of it: {entry.log})"
    print(f"{seconds:7.1f} s  {what}", flush=True)
    return False


def stop(running: Sequence[Running]) -> None:
    """Ask what runs to stop, as Ctrl-C does, and wait for it."""
    for entry in running:
        entry.process.send_signal(signal.SIGINT)
    for entry in running:
        try:
            entry.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            entry.process.kill()
            entry.process.wait()


def keep_row(task: Task) -> None:
    """A row's results.json becomes the file that `table2 --print --results` reads."""
    if task.row is not None:
        result = json.loads((task.folder / "results.json").read_text())
        write_json(task.result, {"arguments": task.row, **result})


if __name__ == "__main__":
    run(main)
