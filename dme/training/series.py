"""A series of runs of one script, each in its own process; what is finished is never run again."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from dme.common.errors import InputError
from dme.common.files import atomic_path, write_json
from dme.common.provenance import ROOT


def add_arguments(parser: argparse.ArgumentParser, out: str, what: str = "runs") -> None:
    """The options that every series has. out: default folder. what: how its runs are called."""
    add = parser.add_argument
    add(
        "--data",
        help=".mat files or folder of B-scans, or 'phantom' (default: DME_DATA, else phantom)",
    )
    add("--amp", default="auto", help="auto, off, bf16 or fp16 (auto: float32 on a CPU)")
    add("--print", action="store_true", help=f"train nothing, show the {what} that are finished")
    add("--out", type=Path, default=Path(out), help=f"run folders and tables (default {out})")
    add(
        "--results", type=Path, help=f"folder for the finished {what}' files (default: OUT/{what})"
    )


def results_folder(args: argparse.Namespace, what: str = "runs") -> Path:
    return args.results or args.out / what


def gather(
    args: argparse.Namespace,
    runs: dict[str, list[str]],
    what: str = "runs",
    script: str = "finetune.py",
    may_be_empty: bool = False,
) -> dict[str, dict]:
    """Results of `runs`, as the options of `add_arguments` ask: of all, or with --print of the finished ones.

    Raises InputError when there is none, unless that may be.
    """
    results = results_folder(args, what)
    if args.data:
        os.environ["DME_DATA"] = args.data  # which the scripts read too
    found = finished(runs, results) if args.print else run_missing(script, runs, args.out, results)
    if not found and not may_be_empty:
        raise InputError(f"no finished {what} in {results}; run without --print first")
    return found


def write_table(path: Path, table: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(table)


def mean_sd(values: Sequence[float]) -> str:
    """Cell of a table: the mean, of several values with their standard deviation; empty for none."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}" if len(values) else ""


def fewest_to_most(counts: Collection[int]) -> str:
    """Cell of a table: how many runs its other cells rest on."""
    low, high = min(counts), max(counts)
    return f"{low}-{high}" if low < high else f"{high}"


def in_name(split: str) -> str:
    """A split as part of a run's name: subject:1/5 is subject1of5."""
    return split.replace(":", "").replace("/", "of")


def finished(runs: dict[str, list[str]], results: Path) -> dict[str, dict]:
    """Results of those of `runs` (name -> arguments) that `results` holds, as `run_missing` left them there.

    Raises InputError for a file that was made with other arguments, or is none of ours, and for
    files made on different data.
    """
    found = {}
    for name, arguments in runs.items():
        path = results / f"{name}.json"
        if not path.exists():
            continue
        try:
            found[name] = json.loads(path.read_text())
            made_with = found[name]["arguments"]
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"{path} is damaged or no result of this script; delete it") from e
        if made_with != arguments:
            raise InputError(
                f"{path} was made with {' '.join(made_with)}; expected {' '.join(arguments)}; "
                "give the same options, choose another --results, or delete it and its run's folder in --out"
            )
    refuse_mixed(found.values(), results)
    return found


def refuse_mixed(of_runs: Iterable[dict], results: Path) -> None:
    """Raise InputError for results of runs on different data."""
    if len({result.get("data_sha256") for result in of_runs}) > 1:
        raise InputError(
            f"the results in {results} were made on different data; keep one folder per data set"
        )


def run_missing(
    script: str, runs: dict[str, list[str]], out: Path, results: Path
) -> dict[str, dict]:
    """Results of all of `runs`; those without a file in `results` are run first, in order.

    script: file in experiments/ that takes --out and --resume and leaves a results.json. A run's
    folder is out/NAME; an interrupted one is continued there. Its results.json and its arguments
    become results/NAME.json. Raises InputError when a run fails or was made on other data than
    those before it; what was finished before is kept.
    """
    done = finished(runs, results)
    for name in [name for name in runs if name not in done]:
        print(
            f"\n== {name} ({len(done)} of {len(runs)} done): {script} {' '.join(runs[name])}",
            flush=True,
        )
        command = [sys.executable, ROOT / "experiments" / script, *runs[name], "--out", out / name]
        if (out / name / "last.pt").exists():
            command.append("--resume")
        status = subprocess.run(command).returncode
        if status in (130, -2):
            raise KeyboardInterrupt
        if status:
            raise InputError(
                f"run {name} failed with exit code {status} (see above); {len(done)} of {len(runs)} are done "
                f"in {results}, the same command goes on from there"
            )
        result = json.loads((out / name / "results.json").read_text())
        refuse_mixed([*done.values(), result], results)
        write_json(results / f"{name}.json", {"arguments": runs[name], **result})
        done = finished(runs, results)
    return {name: done[name] for name in runs}
