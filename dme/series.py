"""A series of runs of one script, each in its own process; what is finished is never run again."""

import json
import subprocess
import sys
from pathlib import Path

from dme.errors import InputError
from dme.record import ROOT, write_json


def finished(runs: dict[str, list[str]], results: Path) -> dict[str, dict]:
    """Results of those of `runs` (name -> arguments) that `results` holds, as `run_missing` left them there.

    Raises InputError for a file that was made with other arguments, or is none of ours.
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
                "delete it to run it again, or choose another --results"
            )
    return found


def run_missing(script: str, runs: dict[str, list[str]], out: Path, results: Path) -> dict[str, dict]:
    """Results of all of `runs`; those without a file in `results` are run first, in order.

    script: file in experiments/ that takes --out and --resume and leaves a results.json. A run's folder is
    out/NAME; an interrupted one is continued there. Its results.json and its arguments become
    results/NAME.json. Raises InputError when a run fails; what was finished before is kept.
    """
    done = finished(runs, results)
    for name in [name for name in runs if name not in done]:
        print(f"\n== {name} ({len(done)} of {len(runs)} done): {script} {' '.join(runs[name])}", flush=True)
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
        write_json(results / f"{name}.json", {"arguments": runs[name], **result})
        done = finished(runs, results)
    return {name: done[name] for name in runs}
