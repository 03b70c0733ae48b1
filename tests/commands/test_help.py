"""Every command answers --help by itself, at once: with Python's standard library alone."""

import os
import subprocess
import sys

import pytest
from helpers.scripts import ROOT

from dme.__main__ import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_package(command):
    program = [sys.executable, "-S", "-m", "dme", command, "--help"]  # -S: without site-packages
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: dme {command}")
    assert "(default" in done.stdout
