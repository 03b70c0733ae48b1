"""--help of what trains answers at once: parsing needs no torch."""

import subprocess
import sys

import pytest
from helpers.scripts import EXPERIMENTS, ROOT

# torch cannot be imported, then the script runs as if it had been called
BLOCKED = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
BLOCKED += "runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize("script", ["finetune", "pretrain_hrf", "table2"])
def test_help_needs_no_torch(script):
    command = [sys.executable, "-c", BLOCKED, EXPERIMENTS / f"{script}.py", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ") and "--amp {auto,off,bf16,fp16}" in done.stdout


def test_help_of_finetune_needs_no_package_at_all():
    command = [sys.executable, "-S", EXPERIMENTS / "finetune.py", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--max-class-share" in done.stdout
