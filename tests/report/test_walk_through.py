"""The README's loop, line by line: predict, suggest, correct, measure again, train, predict."""

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import ROOT
from PIL import Image

from dme.annotation.sheets import sheets_of_results
from dme.data.corrections import Corrections
from dme.data.phantom import phantom_bscan
from dme.report.stored import open_results

SHORT = " --iters 2 --batch 2"  # of the training
MOST_LINES = 12
SUFFIXES = (".png", ".tif")  # of the scans, whose names hold spaces


def walk_through() -> list[str]:
    """The commands of the README's loop, without what they say of themselves."""
    text = (ROOT / "dme" / "report" / "README.md").read_text("utf-8")
    section = text.split("## Correct, measure again, learn")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)[1]
    lines = block.splitlines()
    assert len(lines) <= MOST_LINES
    commands = [line.split(" #")[0].strip() for line in lines if not line.startswith("#")]
    return [command.replace("./run.sh", f"{sys.executable} -m dme") for command in commands]


def correct(results: Path, order: Path, truth: dict[str, np.ndarray]) -> None:
    """What a person does in the browser: the true fluid on the scans of the list, all done."""
    with open(order, newline="", encoding="utf-8") as file:
        names = [row["scan"] for row in csv.DictReader(file)]
    corrections = Corrections(results / "edited")
    for sheet in sheets_of_results(open_results(results)):
        drawable = sheet.drawable
        if drawable.place.name in names:
            before = drawable.original()
            drawn = replace(before, fluid=truth[drawable.place.name], done=True)
            corrections.save(drawable.place, drawable.image(), drawn, before)


@pytest.mark.slow
def test_the_loop_runs_as_it_is_written(tmp_path):
    truth = {}
    (tmp_path / "my_scans").mkdir()
    for seed in range(10):
        scan = phantom_bscan(seed, 128, 192)
        name = f"Patient {seed} left eye"
        truth[name] = scan.fluid
        Image.fromarray(scan.image).save(tmp_path / "my_scans" / (name + SUFFIXES[seed % 2]))

    environment = os.environ | {"PYTHONPATH": str(ROOT), "DME_CACHE": str(tmp_path / "cache")}
    for command in walk_through():
        if " annotate " in command:
            arguments = command.split(" annotate ")[1].split()
            assert arguments[1] == "--order"
            correct(tmp_path / arguments[0], tmp_path / arguments[2], truth)
            continue
        if " finetune " in command:
            command += SHORT
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        if " prepare " in command or " finetune " in command:  # nobody said of which eyes
            assert "of one eye is unknown" in done.stdout, done.stdout
        if " finetune " in command:
            assert "scale unknown" in done.stdout and "--scale" in done.stdout

    # what is corrected lies in no volume
    index = (tmp_path / "runs/predict/edited/index.csv").read_text().split("\n")[1:-1]
    assert all(line.strip().endswith(",,,,,,") for line in index) and len(index) == 5

    # the five that were corrected, and the others
    corrected = {file.stem for file in (tmp_path / "runs/predict/edited/fluid").iterdir()}
    rest = {file.stem for file in (tmp_path / "better/masks").iterdir()}
    assert len(corrected) == len(rest) == 5 and corrected | rest == set(truth)
    for name in corrected:
        mask = np.asarray(Image.open(tmp_path / f"runs/predict-edited/masks/{name}.png"))
        assert ((mask > 0) == truth[name]).all()
    with open(tmp_path / "runs/next/suggested.csv", newline="", encoding="utf-8") as file:
        assert {row["scan"] for row in csv.DictReader(file)} == rest
