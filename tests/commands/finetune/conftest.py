"""Ways to call finetune.py on made-up scans."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from helpers.finetuning import RUN, make_checkpoint, make_folder
from helpers.scripts import call_main, exit_code, finetune_settings, load_script

from dme.training import fine_tuning


class Stopped(Exception):
    """A test has seen what it wanted."""


@pytest.fixture(scope="module")
def script():
    return load_script("finetune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pth", steps=60, seed=4)


@pytest.fixture
def call(script):
    """call(*arguments) runs the script and returns its exit code."""
    return lambda *arguments: exit_code(script, *arguments)


def on_pixels(folder: Path, weights: Path) -> tuple:
    """Arguments for crops of the scans' own pixels."""
    return ("--data", folder, "--weights", weights, "--crop", 64, "--size", "native")


@pytest.fixture
def finetune(call, folder, tiny, tmp_path):
    """finetune(*arguments) trains for a moment; its results. Own pixels are quickly validated."""
    base = (*on_pixels(folder, tiny), "--iters", 2)

    def finetune(*arguments, code: int = 0) -> dict | None:
        assert call(*base, "--out", tmp_path / "out", *arguments) == code
        return None if code else json.loads((tmp_path / "out" / "results.json").read_text())

    return finetune


@pytest.fixture
def fails(call, folder, tiny, tmp_path, capsys):
    """fails(*arguments): the script's one line; it must leave nothing, with exit code 2."""
    base = (*on_pixels(folder, tiny), "--iters", 2)

    def fails(*arguments) -> str:
        assert call(*base, "--out", tmp_path / "refused", *arguments) == 2
        assert not (tmp_path / "refused").exists()
        *progress, line = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and all("scan" in bar for bar in progress if bar)
        return line.removeprefix("error: ")

    return fails


@pytest.fixture
def prepared(call, monkeypatch, folder, tiny, tmp_path):
    """prepared(*arguments): what the script hands to the training loop, which does not run."""
    base = (*on_pixels(folder, tiny), "--out", tmp_path / "prepared")

    def prepared(*arguments) -> dict:
        seen = {}

        def spy(models, data, augment, recipe, out, validate, *rest):
            seen.update(models=models, data=data, augment=augment, recipe=recipe)
            seen["validate"] = validate
            raise Stopped

        monkeypatch.setattr(fine_tuning, "train", spy)
        with pytest.raises(Stopped):
            call(*base, *arguments)
        return seen

    return prepared


@pytest.fixture
def settings(script):
    """settings(*arguments): the Augment and Recipe they ask for."""
    return lambda *arguments: finetune_settings(script, *arguments)[1:]


@pytest.fixture(scope="module")
def done(script, folder, tiny, tmp_path_factory) -> tuple[Path, dict, str]:
    """One run that other tests look at: its folder, its results.json, what it printed."""
    root = tmp_path_factory.mktemp("done")
    printed = io.StringIO()
    # so low a rate that the network still finds what it found
    arguments = ("--data", folder, "--weights", tiny, "--split", "random", "--lr", 1e-5, *RUN)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("DME_CACHE", str(root / "cache"))
        call_main(script, *arguments, "--out", root / "run")
    results = json.loads((root / "run" / "results.json").read_text())
    return root / "run", results, printed.getvalue()
