"""Where a result comes from: command, commit, versions, device, time."""

import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]  # of the checkout


def provenance() -> dict:
    """Where a result comes from: command, commit, versions, device, time (UTC)."""
    import torch  # not before it is needed: scripts answer --help without it

    return {
        "command": _command(),
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
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _command() -> str:
    """The command line that repeats what runs: of a script, or of the installed `dme`."""
    program = sys.argv[0]
    if program.startswith("dme "):  # so set by dme/__main__.py
        return shlex.join([*program.split(), *sys.argv[1:]])
    script = Path(program).resolve()
    shown = str(script.relative_to(ROOT)) if script.is_relative_to(ROOT) else program
    return shlex.join(["python", shown, *sys.argv[1:]])


def _commit() -> str:
    """Commit of the project's checkout, '+changes' where files differ; 'unknown' without one."""

    try:
        top = _git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != ROOT:  # installed inside another project
            return "unknown"
        commit = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}+changes" if changes else commit


def _git(*words: str) -> str:
    """What a git command prints. Raises OSError or SubprocessError where it fails."""
    done = subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()
