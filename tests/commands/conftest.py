"""Fixtures of the tests of commands."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.knowing_networks import Bright
from helpers.scripts import exit_code, load_script, table


@dataclass
class Done:
    """What a run of predict.py left: exit code, output and its folder, --out or one beside it."""

    code: int
    printed: str
    errors: str
    out: Path

    def table(self, name: str = "measurements.csv") -> list[dict]:
        return table(self.out / name)

    def volume(self) -> dict:
        """The only one."""
        (volume,) = self.table("volumes.csv")
        return volume

    def results(self) -> dict:
        return json.loads((self.out / "measurements.json").read_text())

    def page(self) -> str:
        return (self.out / "report.html").read_text(encoding="utf-8")

    def has(self, name: str) -> bool:
        return (self.out / name).exists()


@pytest.fixture
def predict(monkeypatch, tmp_path, capsys):
    """predict(*arguments) runs predict.py; every network it asks for is Bright.

    networks: by name, those it gets instead; {} loads them from files. odd: whether it looks for
    pictures that are no B-scans.
    """
    module = load_script("predict")

    def call(*arguments, networks=None, out=tmp_path / "out", odd=False) -> Done:
        def load(name, device):
            return Bright() if networks is None else networks[str(name)]

        with monkeypatch.context() as patch:
            if not odd:  # most pictures of the tests are no B-scans
                patch.setattr("dme.report.batch.oddities_of", lambda pixels: [])
            if networks != {}:
                patch.setattr("dme.report.networks.load_model", load)
            capsys.readouterr()
            code = exit_code(module, "--out", out, *arguments)
        captured = capsys.readouterr()
        elsewhere = re.search(r"writing into (.+)$", captured.out, re.M)
        written = Path(elsewhere[1]) if elsewhere else out
        return Done(code, captured.out, captured.err, written)

    return call
