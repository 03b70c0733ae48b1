"""The numbers of the READMEs' tables are those of the files in experiments/results.

The tables are made again by the programs that made them. A table of a README, wherever it is, is
known by its header; it may leave out rows and columns, but every row it shows must be one that the
program makes.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import EXPERIMENTS, ROOT, load_script, written_table

RESULTS = EXPERIMENTS / "results"
SKIPPED = {".venv", ".git", "runs", "build"}
READMES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.md"))
    if not SKIPPED & set(path.relative_to(ROOT).parts)
}
EVERYTHING = "\n".join(READMES.values())

Table = tuple[list[str], list[list[str]]]  # header, rows


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def markdown_tables(text: str) -> list[Table]:
    blocks = re.findall(r"(?:^\|.*\n){3,}", text + "\n", re.MULTILINE)
    tables = []
    for block in blocks:
        header, _, *rows = [cells(line) for line in block.splitlines()]
        tables.append((header, rows))
    return tables


def columns(shown: list[str], made: list[str]) -> list[int] | None:
    """Places of the shown columns among those made; None unless they are three or more of them."""
    places, start = [], 0
    for name in shown:
        if name not in made[start:]:
            return None
        places.append(made.index(name, start))
        start = places[-1] + 1
    return places if len(places) >= 3 else None


def assert_shown(*texts: str) -> None:
    """Every table of `texts` is in a README, whose tables with its header hold no other row."""
    made = [table for text in texts for table in markdown_tables(text)]
    assert made
    for header, _ in made:
        alike = [rows for other, rows in made if other == header]
        tables = [
            (places, rows)
            for other, rows in markdown_tables(EVERYTHING)
            if (places := columns(other, header))
        ]
        assert tables, f"no README has the table | {' | '.join(header)} |"
        for places, rows in tables:
            possible = [[row[i] for i in places] for rows in alike for row in rows]
            for row in rows:
                assert row in possible, f"in a README, not in the results: {' | '.join(row)}"


def code_table(*header: str) -> list[list[list[str]]]:
    """Rows of the tables in READMEs' code whose header has these words, cut at spaces."""
    tables = []
    lines = EVERYTHING.splitlines()
    for number, line in enumerate(lines):
        if tuple(line.split()) == header:
            rows = []
            for following in lines[number + 1 :]:
                if not following or following.startswith("```"):
                    break
                rows.append(following.split())
            tables.append(rows)
    return tables


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(script, folder, *options): the table of a series from its finished runs."""
    monkeypatch.chdir(tmp_path)  # the options of runs name folders below runs/

    def make(name: str, folder: str, *options) -> str:
        words = ["--print", "--amp", "bf16", "--results", RESULTS / folder, *options]
        return written_table(load_script(name), Path("runs", name), *words)

    return make


def read(name: str) -> dict:
    return json.loads((RESULTS / name).read_text())


def card(name: str) -> str:
    """The text about a network in weights/README.md."""
    sections = re.split(r"^#+ ", READMES[Path("weights/README.md")], flags=re.MULTILINE)
    return next(section for section in sections if section.startswith(name + "\n"))


# ---- tables that a series prints


def test_table_2(made):
    assert_shown(made("table2", "table2", "--seeds", "0", "1", "--extended"))


def test_transfer(made):
    assert_shown(made("transfer", "transfer"))


def test_development(made):
    assert_shown(made("development", "development", "--folds", "1", "2"))


def test_layers(made):
    text = made("layers", "layers")
    assert_shown(text)
    ((header, rows),) = markdown_tables(text)
    best = dict(zip(header, rows[1], strict=True))  # octlayers starts from synthetic scans
    for place in (READMES[Path("README.md")], card("octlayers")):
        assert f"mean absolute error {best['all boundaries']} px, {best['µm']} µm" in place


def test_backbones(made):
    assert_shown(made("backbones", "backbones"))


def test_width(made):
    assert_shown(made("width", "width", "--amp", "auto"))


FAST = ["--weights", "hrf-mobilenet_v3_small"]


def test_cross_validation(made):
    text = made("crossval", "crossval", "--leaky", "--seeds", "0", "1", "2")
    assert_shown(text, made("crossval", "crossval_fast", *FAST))


@pytest.mark.parametrize(
    ("folder", "options", "network"),
    [("crossval", [], "dme-fluid"), ("crossval_fast", FAST, "dme-fluid-fast")],
)
def test_cross_validation_in_short(made, folder, options, network):
    """The comparison of two networks, the front page and the networks' cards."""
    together = next(
        rows
        for header, rows in markdown_tables(made("crossval", folder, *options))
        if not header[0]
    )
    all_columns = {row[0]: row[1] for row in together}
    graded = {row[0]: row[2] for row in together}
    dice = "fluid Dice, pooled (95 % interval by eye)"
    short = [
        all_columns[dice],
        graded[dice].split()[0],
        re.search(r"\((.*)\)", all_columns["scans with fluid found"])[1],
        re.search(r"\((.*)\)", all_columns["scans without fluid left empty"])[1],
    ]
    rows = [row for _, rows in markdown_tables(EVERYTHING) for row in rows]
    assert [row[1:] for row in rows if f"(`{network}`)" in row[0]] == [short]

    value, low, high = re.findall(r"[\d.]+", all_columns[dice])
    front = [row for row in rows if row[0].startswith(f"fluid, `{network}`")]
    assert [row[2] for row in front] == [f"Dice {value}, 95 % interval by eye {low} to {high}"]
    expected = f"fluid Dice {float(value):.3f} pooled over ten eyes, 95 % interval by eye "
    assert f"{expected}{float(low):.3f} to {float(high):.3f}" in card(network)


# ---- tables of single results


@pytest.mark.parametrize(
    "files",
    [
        ["table1_light.json"],
        ["table1_paper_psp.json", "table1_paper_fcn.json", "table1_paper_deeplabv3.json"],
    ],
)
def test_table_1(files, capsys):
    rows = [row for name in files for row in read(name)["rows"]]
    load_script("table1").print_table(rows, synthetic=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    header = next(line for line in lines if line[:2] == ["backbone", "head"])
    expected = [line for line in lines if line[:1] == ["unet"]]
    assert len(expected) == 3
    shown = code_table(*header)
    assert len(shown) == 2
    assert expected in [rows[:3] for rows in shown]


def test_vessels_of_the_pretrained_networks():
    rows = {row["network"]: row for row in read("pretrain_hrf.json")["rows"]}
    header = ["network", "backbone", "head", "width", "scale", "full", "OpenMMLab"]
    scores = {
        name: [f"{row['dice_scale']:.4f}", f"{row['dice_full']:.4f}"] for name, row in rows.items()
    }
    (shown,) = code_table(*header)
    assert {row[0]: row[4:6] for row in shown} == scores
    in_cards = {
        row[0].strip("`").removeprefix("hrf-"): row[1:3]
        for header, rows in markdown_tables(card("hrf-psp, hrf-fcn, hrf-deeplabv3"))
        for row in rows
        if "full" in header
    }
    assert in_cards == scores

    small = read("backbones/pretrain-mobilenet_v3_small-lraspp.json")["rows"][0]
    scores = f"{small['dice_scale']:.4f} at half size, {small['dice_full']:.4f} full"
    assert f"vessel Dice {scores}" in card("hrf-mobilenet_v3_small")


def test_the_real_set(capsys):
    load_script("prepare").print_description(read("prepare.json"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    header = next(line for line in lines if line[:2] == ["subject", "scans"])
    start = lines.index(header) + 1
    assert code_table(*header) == [lines[start : start + 11]]
    rest = [" ".join(line) for line in lines[start + 11 :] if line]
    shown = {" ".join(line.split()) for line in EVERYTHING.splitlines()}
    assert rest and set(rest) <= shown


def test_speed():
    script = load_script("speed_table")
    assert_shown(script.markdown(RESULTS / "bench"))
    assert_shown(load_script("gpu_table").markdown(RESULTS / "bench"))


def test_scores_on_their_own_training_scans():
    for name, file in (("dme-fluid", "dme_fluid"), ("dme-fluid-fast", "dme_fluid_fast")):
        dice = read(f"{file}.json")["pooled"]["dice"][1]
        assert f"| on its own training scans | fluid Dice {dice:.3f} |" in card(name)
    errors = np.array(read("octlayers.json")["boundary_errors_px_per_scan"], float)[:, -1]
    mean, spread = np.nanmean(errors), np.nanstd(errors, ddof=1)
    assert f"| on its own training scans | {mean:.2f} ± {spread:.2f} px |" in card("octlayers")
    synthetic = read("phantom_psp.json")["pooled"]["dice"][1]
    assert f"fluid Dice {synthetic:.4f} on the 22 SYNTHETIC scans" in card("phantom-psp")


def test_fluid_found_in_healthy_eyes():
    found = {}
    for name in ("dme_fluid_healthy", "dme_fluid_fast_healthy"):
        with open(RESULTS / f"{name}.csv", newline="") as file:
            areas = [int(row["fluid_px"]) for row in csv.DictReader(file)]
        found[name] = (sum(area > 0 for area in areas), f"{sum(areas):,}", len(areas))
    scans, area, total = found["dme_fluid_fast_healthy"]
    slow_scans, slow_area, _ = found["dme_fluid_healthy"]
    text = " ".join(card("dme-fluid-fast").split())
    assert (
        f"Of {total} scans of healthy eyes it finds some fluid in {scans} ({area} px in all; "
        f"`dme-fluid` in {slow_scans}, {slow_area} px)"
    ) in text
