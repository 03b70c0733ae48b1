"""A series of runs of one script, each in its own process; what is finished is never run again."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dme.common.errors import InputError
from dme.common.files import write_json
from dme.common.options import add_options, from_options, option_parser
from dme.common.provenance import ROOT
from dme.common.tables import write_table
from dme.common.words import SYNTHETIC_KINDS
from dme.training.settings import Recipe

INTERRUPTED = (130, -2)  # exit codes after Ctrl-C
Runs = dict[str, list[str]]  # name -> arguments of the script
Results = dict[str, dict]  # name -> what the run left in its results.json


def parsed(
    doc: str | None, settings: type, out: str, noun: str = "runs"
) -> tuple[Any, argparse.Namespace]:
    """What the command line says: the dataclass of a script's own options, and those of a series.

    The rest is as of `dme.common.options.parsed` and `add_arguments`.
    """
    parser = option_parser(doc)
    add_options(parser, settings)
    add_arguments(parser, out, noun)
    args = parser.parse_args()
    return from_options(settings, args), args


def add_arguments(parser: argparse.ArgumentParser, out: str, noun: str = "runs") -> None:
    """The options that every series has. out: default folder. noun: how its runs are called."""
    parser.set_defaults(noun=noun)
    add = parser.add_argument
    add(
        "--data",
        help=".mat files or folder of B-scans, or 'phantom' (default: DME_DATA, else phantom)",
    )
    add_options(parser, Recipe, only=("amp",))
    add("--print", action="store_true", help=f"train nothing, show the {noun} that are finished")
    add("--out", type=Path, default=Path(out), help=f"run folders and tables (default {out})")
    add(
        "--results",
        type=Path,
        help=f"folder for the finished {noun}' files (default: OUT/{noun})",
    )


def results_folder(args: argparse.Namespace) -> Path:
    """Where the finished runs' files lie; args as of `add_arguments`."""
    return args.results or args.out / args.noun


def gather(
    args: argparse.Namespace,
    runs: Runs,
    script: str = "finetune.py",
    may_be_empty: bool = False,
) -> Results:
    """Results of all runs, or with --print of the finished ones; args as of `add_arguments`.

    Raises InputError when there is none, unless that may be.
    """
    folder = results_folder(args)
    if args.data:
        os.environ["DME_DATA"] = args.data  # which the scripts read too
    if args.print:
        results = finished(runs, folder)
    else:
        results = run_missing(script, runs, args.out, folder)
    if not results and not may_be_empty:
        raise InputError(f"no finished {args.noun} in {folder}; run without --print first")
    return results


def leave_table(args: argparse.Namespace, name: str, table: str) -> None:
    """Write OUT/NAME.md, and print the table and where it and the finished runs' files lie."""
    path = args.out / f"{name}.md"
    write_table(path, table)
    print(f"\n{table}\ntable: {path}\n{args.noun}: {results_folder(args)}")


def kind_of_scans(results: Iterable[dict]) -> str:
    """real or SYNTHETIC, as every table of a series says; results.json of runs on one data set."""
    kinds = {result.get("data_kind") for result in results}
    return "SYNTHETIC" if kinds & set(SYNTHETIC_KINDS) else "real"


def present(results: Results, names: Iterable[str]) -> list[dict]:
    """Results of those of the names that are finished, in their order."""
    return [results[name] for name in names if name in results]


def in_name(split: str) -> str:
    """A split as part of a run's name: subject:1/5 is subject1of5."""
    return split.replace(":", "").replace("/", "of")


def finished(runs: Runs, folder: Path) -> Results:
    """Results of those of `runs` that the folder holds, as `run_missing` left them there.

    Raises InputError for a file that was made with other arguments, or is none of ours, and for
    files made on different data.
    """
    results = {}
    for name, arguments in runs.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        try:
            result = json.loads(path.read_text())
            made_with = result["arguments"]
            results[name] = _renamed(result)
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"{path} is damaged or no result of this script; delete it") from e
        if made_with != arguments:
            raise InputError(
                f"{path} was made with {' '.join(made_with)}; expected {' '.join(arguments)}; "
                "give the same options, choose another --results, or delete it and its run's "
                "folder in --out"
            )
    refuse_mixed(results.values(), folder)
    return results


def _renamed(result: dict) -> dict:
    """A result with today's names of its scores, which once were called graded columns."""
    if "pooled_graded" in result:
        result["pooled_central"] = result.pop("pooled_graded")
    counts = result.get("counts_per_scan", {})
    if "graded" in counts:
        counts["central"] = counts.pop("graded")
    return result


def refuse_mixed(results: Iterable[dict], folder: Path) -> None:
    """Raise InputError for results of runs on different data."""
    if len({result.get("data_sha256") for result in results}) > 1:
        raise InputError(
            f"the results in {folder} were made on different data; keep one folder per data set"
        )


def run_missing(script: str, runs: Runs, out: Path, folder: Path) -> Results:
    """Results of all of `runs`; those without a file in `folder` are run first, in order.

    script: file in experiments/ that takes --out and --resume and leaves a results.json. A run's
    folder is out/NAME; an interrupted one is continued there. Its results.json and its arguments
    become folder/NAME.json. Raises InputError when a run fails or was made on other data than
    those before it; what was finished before is kept.
    """
    done = finished(runs, folder)
    for name, arguments in runs.items():
        if name in done:
            continue
        # Run it, in its own process
        progress = f"{len(done)} of {len(runs)}"
        print(f"\n== {name} ({progress} done): {script} {' '.join(arguments)}", flush=True)
        status = _run(ROOT / "experiments" / script, arguments, out / name)
        if status in INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            raise InputError(
                f"run {name} failed with exit code {status} (see above); {progress} are done in "
                f"{folder}, the same command goes on from there"
            )
        # Keep its result, and check it again as the next series will
        result = json.loads((out / name / "results.json").read_text())
        refuse_mixed([*done.values(), result], folder)
        write_json(folder / f"{name}.json", {"arguments": arguments, **result})
        done = finished(runs, folder)
    return {name: done[name] for name in runs}


def _run(script: Path, arguments: list[str], out: Path) -> int:
    """Exit code of the script, which goes on where an interrupted run left a checkpoint."""
    command = [sys.executable, script, *arguments, "--out", out]
    if (out / "last.pt").exists():
        command.append("--resume")
    return subprocess.run(command).returncode
