"""Every command answers --help by itself, at once: with Python's standard library alone."""

import os
import subprocess
import sys

import pytest
from helpers.scripts import ROOT

from dme.__main__ import COMMANDS
from dme.common.errors import by_door
from dme.common.words import COMMAND_NAMES


def test_commands_are_known_to_messages():
    assert set(COMMANDS) == set(COMMAND_NAMES)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_package(command):
    program = [sys.executable, "-S", "-m", "dme", command, "--help"]  # -S: without site-packages
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: dme {command}")
    assert "(default" in done.stdout
    # its examples are called as it was
    assert "run.sh" not in done.stdout and "python experiments" not in done.stdout


def test_commands_in_messages_are_called_as_this_one(monkeypatch):
    text = "from ./run.sh pretrain; ./run.sh weights NAME, ./run.sh finetune --task layers"
    assert by_door(text) == text
    monkeypatch.setattr("sys.argv", ["dme predict", "x.png"])
    expected = "from ./run.sh pretrain; dme weights NAME, dme finetune --task layers"
    assert by_door(text) == expected
