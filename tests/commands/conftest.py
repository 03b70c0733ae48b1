"""Fixtures of the tests of commands."""

from pathlib import Path

import pytest
from helpers.knowing_networks import Bright
from helpers.scripts import exit_code, load_script


@pytest.fixture
def script(monkeypatch, tmp_path):
    """script(*arguments) runs predict.py, returns the exit code and --out.

    networks: name -> network; without it every network is Bright. {} loads from files.
    """
    module = load_script("predict")

    def call(*arguments, networks=None, out=tmp_path / "out") -> tuple[int, Path]:
        with monkeypatch.context() as patch:
            if networks is None:
                patch.setattr("dme.report.networks.load_model", lambda name, device: Bright())
            elif networks:
                patch.setattr(
                    "dme.report.networks.load_model", lambda name, device: networks[str(name)]
                )
            return exit_code(module, "--out", out, *arguments), out

    return call
