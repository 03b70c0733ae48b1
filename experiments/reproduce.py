"""The whole study in one command, in the order of worth: on one large GPU in about a quarter of an hour.

tests     the tests marked gpu
bench     kernels, a training step of width 64 and prediction beside peers (a GPU)
pretrain  a PSP network of the study's width on fundus vessels, by OpenMMLab's recipe at half size
table2    Table 2: row 10 with three seeds, rows 6, 2, 5 and 9 with one
rows      the other rows of Table 2, then 12, 13 and 18 to 20
table1    Table 1 with both protocols (on a CPU with the light one)

./run.sh reproduce                                  # on a GPU: everything, width 64
./run.sh reproduce --minutes 10 --jobs 6            # what fits, six runs at a time on one card
./run.sh reproduce --only pretrain table2
./run.sh reproduce --weights hrf-psp-openmmlab      # from the study's own network, once it is downloaded

What is finished is never run again; what was interrupted goes on. On a CPU the network has width 16.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import table2
import torch

from dme.common.errors import InputError, run
from dme.common.files import write_json
from dme.common.provenance import ROOT, device_name, provenance
from dme.data.hrf import open_hrf
from dme.data.opening import open_source
from dme.training.series import write_table

CORE = [(10, 0), (6, 0), (10, 1), (10, 2), (2, 0), (5, 0), (9, 0)]  # row, seed
OTHERS = [(row, 0) for row in (7, 8, 11, 1, 3, 4, 12, 13, 18, 19, 20)]
PARTS = ("tests", "bench", "pretrain", "table2", "rows", "table1")
GRACE_S = 30  # to write a checkpoint, when time is over


@dataclass(frozen=True)
class Task:
    """A process of its own, finished when `result` is there."""

    part: str
    name: str
    command: list[str]  # of Python
    result: Path
    seconds: float  # about, on one H200; 0 unknown
    row: list[str] | None = None  # of Table 2: finetune.py's arguments


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="parts to do"
    )
    add(
        "--minutes",
        type=float,
        default=0,
        help="stop then, whatever is finished (default: no limit)",
    )
    add(
        "--pretrain-minutes",
        type=float,
        default=3,
        help="of pretraining, scoring aside (default 3)",
    )
    add("--pretrain-steps", type=int, help="instead: as many steps")
    add("--jobs", type=int, default=1, help="runs of Tables 1 and 2 at a time (default 1)")
    add("--weights", help="start Table 2 from this network, a name or file; nothing is pretrained")
    add("--width", type=int, help="of the pretrained network (default 64, on a CPU 16)")
    add("--data", help="the 110 scans: .mat files or folder (default: DME_DATA)")
    add("--hrf", help="the photographs (default: HRF_DATA)")
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: bf16 or fp16 on a GPU)")
    add(
        "--rehearse",
        action="store_true",
        help="every part at width 4, of one step: shows that all runs",
    )
    add("--out", type=Path, default=Path("runs/reproduce"), help="folder for everything")
    args = parser.parse_args()
    for name in ("minutes", "pretrain_minutes", "jobs"):
        value, least = (
            getattr(args, name),
            {"minutes": 0, "pretrain_minutes": 0.01, "jobs": 1}[name],
        )
        if not value >= least:
            raise InputError(f"--{name.replace('_', '-')} is {value}; expected at least {least}")
    args.out = args.out.resolve()
    return args


def main() -> int:
    args = parse_args()
    began = time.monotonic()
    gpu = torch.cuda.is_available()
    needs_data = {"pretrain", "table2", "rows", "table1"} & set(args.only)
    if needs_data:
        print(f"scans: {open_source(args.data).description}")
    if "pretrain" in args.only and not args.weights:
        print(f"photographs: {open_hrf(args.hrf).description}")
    tasks = [task for task in all_tasks(args, gpu) if task.part in args.only]
    announce(args, tasks, gpu)
    deadline = began + 60 * args.minutes if args.minutes else None
    failed = []
    for part in args.only:
        own = [task for task in tasks if task.part == part and not task.result.exists()]
        jobs = args.jobs if part in ("table2", "rows", "table1") else 1
        failed += run_part(own, jobs, deadline, args.out)
    unfinished = [task.name for task in tasks if not task.result.exists()]
    summary = summarise(args, tasks)
    write_table(args.out / "summary.md", summary)
    print(f"\n{summary}")
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}; the same command goes on")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; summary: {args.out / 'summary.md'}")
    return 1 if failed else 0


def all_tasks(args: argparse.Namespace, gpu: bool) -> list[Task]:
    """Every part's, in order. Each knows the file that it leaves when it is done."""
    out, width = args.out, args.width or (4 if args.rehearse else 64 if gpu else 16)
    data = ["--data", args.data] if args.data else []
    scripts = ROOT / "experiments"
    report = out / "gpu-tests.xml"
    tasks = [
        Task(
            "tests",
            "gpu tests",
            ["-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests"), f"--junit-xml={report}"],
            report,
            60,
        )
    ]
    if gpu:
        bench = [str(scripts / "benchmarks" / "gpu.py"), "--repeats", "3", "--width", str(width)]
        tasks.append(
            Task("bench", "benchmarks", [*bench, "--out", str(out)], out / "gpu.json", 90)
        )
    weights = args.weights
    if not weights:
        folder, shipped = out / f"pretrain-{width}", out / f"hrf-psp-{width}.pth"
        steps = 1 if args.rehearse else args.pretrain_steps
        length = ["--steps", str(steps)] if steps else ["--minutes", f"{args.pretrain_minutes:g}"]
        photographs = ["--data", args.hrf] if args.hrf else []
        recipe = [
            "--recipe",
            "openmmlab",
            "--scale",
            "0.5",
            "--heads",
            "psp",
            "--width",
            str(width),
        ]
        pretrain = [
            str(scripts / "pretrain_hrf.py"),
            *recipe,
            *length,
            "--amp",
            args.amp,
            *photographs,
        ]
        seconds = 60 * args.pretrain_minutes + 60
        tasks.append(
            Task(
                "pretrain",
                "pretraining",
                [*pretrain, "--out", str(folder)],
                folder / "results.json",
                seconds,
            )
        )
        convert = [str(scripts / "weights.py"), "--convert", str(folder / "best-psp.pt"), "--half"]
        tasks.append(Task("pretrain", "float16", [*convert, "--out", str(shipped)], shipped, 5))
        weights = str(shipped)
    for part, rows in (("table2", CORE), ("rows", OTHERS)):
        for number, seed in rows:
            ((name, arguments),) = table2.run_of(number, seed, weights, args.amp).items()
            folder = out / "runs" / name
            short = ["--iters", "1"] if args.rehearse else []
            command = [
                str(scripts / "finetune.py"),
                *arguments,
                *short,
                *data,
                "--out",
                str(folder),
            ]
            result = out / "table2" / f"{name}.json"
            tasks.append(Task(part, f"row {number}, seed {seed}", command, result, 20, arguments))
    for protocol in ("light", "paper") if gpu else ("light",):
        folder = out / f"table1-{protocol}"
        networks = [weights, "hrf-fcn", "hrf-deeplabv3"]
        baseline = [
            str(scripts / "baseline.py"),
            "--protocol",
            protocol,
            "--weights",
            *networks,
            *data,
        ]
        seconds = 20 if protocol == "light" else 120
        result = folder / "results.json"
        tasks.append(
            Task(
                "table1",
                f"Table 1, {protocol}",
                [*baseline, "--out", str(folder)],
                result,
                seconds,
            )
        )
    return tasks


def announce(args: argparse.Namespace, tasks: list[Task], gpu: bool) -> None:
    """Say what will be done, and how long it took on the GPU it was measured on."""
    if args.rehearse:
        print("REHEARSAL: every part runs, for one step; its numbers mean nothing")
    print(
        f"device: {device_name()}"
        + ("" if gpu else "; width 16 and no GPU tests: sized down for a CPU")
    )
    print(f"{'part':10} {'runs':>5} {'done':>5} {'minutes on an H200':>20}")
    for part in args.only:
        own = [task for task in tasks if task.part == part]
        minutes = sum(task.seconds for task in own if not task.result.exists()) / 60
        done = sum(task.result.exists() for task in own)
        print(f"{part:10} {len(own):5} {done:5} {minutes:20.1f}")
    print(flush=True)


def run_part(tasks: list[Task], jobs: int, deadline: float | None, out: Path) -> list[str]:
    """Run a part's tasks, `jobs` at a time, until the deadline; returns the names of those that failed."""
    waiting, running, failed = list(tasks), [], []
    (out / "logs").mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            over = deadline is not None and time.monotonic() > deadline
            if over:
                waiting.clear()
                stop(running)
            while waiting and len(running) < jobs:
                running.append(start(waiting.pop(0), out))
            for entry in list(running):
                task, process, since, log = entry
                if process.poll() is None:
                    continue
                running.remove(entry)
                seconds = time.monotonic() - since
                if process.returncode == 0:
                    keep_row(task)
                    print(f"{seconds:7.1f} s  {task.name}", flush=True)
                elif not over:
                    failed.append(task.name)
                    last = log.read_text(errors="replace").strip().splitlines()[-1:] or [
                        "no output"
                    ]
                    print(
                        f"{seconds:7.1f} s  {task.name} FAILED: {last[0]} (all of it: {log})",
                        flush=True,
                    )
            time.sleep(0.1)
    finally:
        stop(running)
    return failed


Running = tuple[Task, subprocess.Popen, float, Path]  # a task, its process, when it began, its log


def start(task: Task, out: Path) -> Running:
    log = out / "logs" / f"{task.name.replace(' ', '-').replace(',', '')}.log"
    command = [sys.executable, *task.command]
    folder = Path(
        task.command[-1]
    )  # of --out, where a run that was interrupted left its checkpoint
    if task.part in ("pretrain", "table2", "rows") and (folder / "last.pt").exists():
        command.append("--resume")
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
    return task, process, time.monotonic(), log


def stop(running: list[Running]) -> None:
    """Ask what runs to stop, as Ctrl-C does, and wait for it."""
    for _, process, *_ in running:
        process.send_signal(signal.SIGINT)
    for _, process, *_ in running:
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def keep_row(task: Task) -> None:
    """A row's results.json becomes the file that `table2 --print --results` reads."""
    if task.row is not None:
        made = json.loads((Path(task.command[-1]) / "results.json").read_text())
        write_json(task.result, {"arguments": task.row, **made})


def summarise(args: argparse.Namespace, tasks: list[Task]) -> str:
    """What is finished, as tables."""
    origin = provenance()
    lines = [f"# The study, reproduced on {origin['device']}", "", f"Commit {origin['commit']}."]
    if args.rehearse:
        lines += ["", "REHEARSAL: these numbers mean nothing."]
    done = {task.name: task for task in tasks if task.result.exists()}
    if "gpu tests" in done:
        counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        suite = done["gpu tests"].result.read_text().split("<testsuite ", 1)[1].split(">", 1)[0]
        for name in counts:
            counts[name] = int(suite.split(f' {name}="', 1)[1].split('"', 1)[0])
        lines += [
            "",
            "gpu tests: " + ", ".join(f"{value} {name}" for name, value in counts.items()),
        ]
    if "pretraining" in done:
        made = json.loads(done["pretraining"].result.read_text())
        row = made["rows"][0]
        lines += [
            "",
            f"Pretrained: width {row['width']}, {made['training_minutes']:.1f} minutes, vessel Dice "
            f"{row['dice_scale']:.4f} on 30 photographs at half size",
        ]
    rows = {
        task.result.stem: json.loads(task.result.read_text()) for task in done.values() if task.row
    }
    if rows:
        lines += ["", table2.markdown(table2.ROWS | table2.EXTENDED, rows)]
    for name, task in done.items():
        if task.part == "table1":
            lines += ["", f"{name}: mean IoU of the class read as fluid, published and here", ""]
            for row in json.loads(task.result.read_text())["rows"]:
                lines.append(
                    f"- {row['arch']['head']}, width {row['arch']['width']}: "
                    f"{row['published']:.4f}, {row['table1_measure']:.4f}"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
