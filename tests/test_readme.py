"""The READMEs: short at the front door, and true: links, pictures, commands, paths, snippets."""

import re
from pathlib import Path

import numpy as np
import pytest

import dme
from dme.data.phantom import phantom_bscan
from dme.retina.accuracy import boundary_errors_px

ROOT = Path(dme.__file__).parents[1]
MOST_LINES = 150  # of the front door
MOST_BYTES = 1_500_000  # of all pictures
FOLDERS = (".github", "docs", "dme", "experiments", "tests", "weights")
DOCUMENTS = [ROOT / "README.md"]
for folder in FOLDERS:
    DOCUMENTS += sorted((ROOT / folder).rglob("*.md"))

ON_DOCUMENTS = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document in links."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def snippets() -> list:
    """Every Python block of every document."""
    blocks = []
    for document in DOCUMENTS:
        found = re.findall(r"^```python\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
        for number, code in enumerate(found, start=1):
            name = f"{document.relative_to(ROOT)}-{number}"
            blocks.append(pytest.param(code, id=name))
    return blocks


def commands_of_run_sh() -> set[str]:
    """The names that run.sh takes: the patterns of its `case`, up to the one for help."""
    case = (ROOT / "run.sh").read_text("utf-8").split('case "$command" in')[1].split('""')[0]
    names = re.findall(r"^\s*([\w| ]+)\)", case, re.M)
    return set(re.findall(r"\w+", " ".join(names)))


def test_front_door_is_short_has_pictures_and_begins_with_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert len(re.findall(r"!\[.+?\]\(.+?\)", text)) >= 3
    first_block = re.search(r"^```\n(.*?)^```", text, re.M | re.S)[1]
    assert first_block.split("\n")[:2] == ["./run.sh baseline", "./run.sh test"]


def test_pictures_are_small_together():
    sizes = [picture.stat().st_size for picture in (ROOT / "docs" / "pictures").glob("*.png")]
    assert 0 < sum(sizes) < MOST_BYTES


@ON_DOCUMENTS
def test_links_and_pictures_exist(document: Path):
    text = document.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{document}: {target} is not there"
        if anchor:
            assert anchor in anchors(path), f"{document}: {target}: no such heading"


@ON_DOCUMENTS
def test_paths_in_the_text_exist(document: Path):
    quoted = re.findall(r"`((?:dme|experiments|tests|weights)/[\w./*-]+)`", document.read_text())
    for name in quoted:
        if "NAME" not in name:
            assert list(ROOT.glob(name)), f"{document}: {name} is not there"


@ON_DOCUMENTS
def test_commands_are_those_of_run_sh(document: Path):
    known = commands_of_run_sh()
    assert {"predict", "pretrain", "test"} <= known
    for command in re.findall(r"\./run\.sh ([a-z]\w*)", document.read_text("utf-8")):
        assert command in known, f"{document}: ./run.sh {command} is no command"


def test_every_command_of_run_sh_is_in_the_front_door():
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.split("## Commands")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", table)) == commands_of_run_sh()


@pytest.mark.parametrize("code", snippets())
def test_snippets_run_and_print_numbers(code: str, capsys):
    if "onnxruntime" in code:
        pytest.skip("needs an exported file: tests/inference/test_export.py runs it")
    exec(compile(code, "README", "exec"), {})
    numbers = re.findall(r"\d+(?:\.\d+)?", capsys.readouterr().out)
    assert any(float(number) > 0 for number in numbers)


def test_the_first_snippet_finds_the_fluid_and_layers_of_its_scan():
    front_door = (ROOT / "README.md").read_text("utf-8")
    names = {}
    exec(re.search(r"^```python\n(.*?)^```", front_door, re.M | re.S)[1], names)
    truth = phantom_bscan(5)
    assert np.array_equal(names["image"], truth.image)
    mask = names["mask"] == 1
    fluid = truth.fluid == 1
    assert 2 * (mask & fluid).sum() > 0.8 * (mask.sum() + fluid.sum())  # Dice above 0.8
    assert boundary_errors_px(names["rows"], truth.layers)[-1] < 2
