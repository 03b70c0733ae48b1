"""The numbers of the READMEs' tables are those of the files in experiments/results.

The tables are made again by the programs that made them. A table of a README, wherever it is, is
known by its header; it may leave out rows and columns, but every row it shows must be one that the
program makes.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import EXPERIMENTS, ROOT, load_script, written_table

from dme.common.files import sha256_file
from dme.retina.agreement import relative_bias

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
    rows = [*range(1, 14), 18, 19, 20]
    words = [
        "--amp",
        "auto",
        "--weights",
        "runs/trip-out/b/hrf-psp-64.pth",
        "--seeds",
        "0",
        "1",
        "2",
    ]
    assert_shown(made("table2", "reproduce/full/table2", *words, "--rows", *map(str, rows)))


def test_width(made):
    folders = [RESULTS / "reproduce" / name for name in ("half", "full")]
    words = ["--amp", "auto", "--reproduced", *folders]
    assert_shown(made("width", "width", *words))


def test_width_for_the_fluid_model():
    text = " ".join(READMES[Path("experiments/README.md")].split())
    wide, narrow = [], []
    for split in ("paper", "subject4of5"):
        wide.append(read(f"reproduce/full/best-{split}.json")["pooled_native"]["dice"][1])
        narrow.append(read(f"crossval/{split}-seed0.json")["pooled_native"]["dice"][1])
    assert (
        f"reaches fluid Dice {wide[0]:.3f} on `paper` and {wide[1]:.3f} on `subject:4/5`" in text
    )
    assert f"the same recipe from `hrf-psp` {narrow[0]:.3f} and {narrow[1]:.3f}" in text
    costs = read("reproduce/full/costs.json")["rows"]
    ms = [1e3 * costs[name]["seconds"] for name in ("unet-psp-64", "unet-psp")]
    gmac = [costs[name]["multiply_adds"] / 1e9 for name in ("unet-psp-64", "unet-psp")]
    assert f"{ms[0] / ms[1]:.0f} times as long ({ms[0]:.0f} and {ms[1]:.0f} ms" in text
    assert f"{gmac[0]:.1f} and {gmac[1]:.1f} GMAC" in text


def test_transfer(made):
    assert_shown(made("transfer", "transfer"))


def test_development(made):
    assert_shown(made("development", "development", "--folds", "1", "2"))


def test_labels(made):
    text = made("labels", "labels")
    assert_shown(text)
    sentences = [line for line in text.splitlines() if line.startswith("With ")]
    assert len(sentences) == 3 and all(line in EVERYTHING for line in sentences)


def test_labels_of_layers(made):
    text = made("labels", "labels_layers", "--task", "layers")
    assert_shown(text)
    sentences = [line for line in text.splitlines() if line.startswith("With ")]
    assert len(sentences) == 1 and sentences[0] in EVERYTHING


def test_one_eye(made):
    text = made("one_eye", "one_eye")
    assert_shown(text)
    gains = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(gains) == 3 and all(line in EVERYTHING for line in gains)


def test_one_network(made):
    assert_shown(made("one_network", "one_network"))


def test_devices(made):
    assert_shown(made("devices", "devices"))


def test_robustness():
    markdown = load_script("robustness").markdown
    texts = [markdown(read(f"robustness_{name}.json")) for name in ("shipped", "devices")]
    header = "| perturbation |"
    assert_shown(*(header + text.split(header)[1] for text in texts))


def test_layers(made):
    text = made("layers", "layers")
    assert_shown(text)
    header, rows = markdown_tables(text)[0]
    best = dict(zip(header, rows[-1], strict=True))  # octlayers starts from large cysts
    for place in (READMES[Path("README.md")], card("octlayers")):
        assert f"mean absolute error {best['all boundaries']} px, {best['µm']} µm" in place


def test_backbones(made):
    assert_shown(made("backbones", "backbones"))


BEST = ["--recipe", "best"]
FAST = ["--weights", "devices-mobilenet_v3_small"]


def test_cross_validation(made):
    texts = [
        made("crossval", "crossval", *BEST, "--leaky", "--seeds", "0", "1", "2"),
        made("crossval", "crossval_fast", *BEST, "--weights", "hrf-mobilenet_v3_small"),
        made("crossval", "crossval_fluid", "--leaky", "--seeds", "0", "1", "2"),
        made("crossval", "crossval_fluid_fast", *FAST),
    ]
    assert_shown(*texts)


SIX = "the six that chose nothing"
LAST = "eyes 9 and 10, in no development fold"
NETWORKS = {"dme-fluid": ("crossval_fluid", []), "dme-fluid-fast": ("crossval_fluid_fast", FAST)}


def tables_of(text: str) -> dict[str, dict[str, list[str]]]:
    """Of a cross-validation the tables over all folds: first title -> first cell -> others."""
    tables = {}
    for header, rows in markdown_tables(text):
        tables[header[0]] = {row[0]: row[1:] for row in rows}
    return tables


@pytest.mark.parametrize("network", NETWORKS)
def test_cross_validation_in_short(made, network):
    """The comparison of two networks, the front page, the networks' cards and the zoo."""
    folder, options = NETWORKS[network]
    tables = tables_of(made("crossval", folder, *options))
    groups = tables["eyes"]
    detail = tables["95 % intervals by eye in brackets"]
    _, pooled, mean, central, _ = groups["all ten eyes"]
    short = [
        pooled,
        mean,
        groups[SIX][1],
        central.split()[0],
        detail["scans with fluid in which some is found"][0].split(" (")[0],
        detail["scans without fluid left empty"][0].split(" (")[0],
    ]
    rows = [row for _, rows in markdown_tables(EVERYTHING) for row in rows]
    assert [row[1:] for row in rows if f"(`{network}`)" in row[0]] == [short]

    # the front page: a row per group of eyes, two columns per network
    front = next(
        (header, rows)
        for header, rows in markdown_tables(READMES[Path("README.md")])
        if header[0] == "fluid Dice, eyes left out"
    )
    place = next(i for i, title in enumerate(front[0]) if title.startswith(f"`{network}`,"))
    shown = {row[0]: [row[1], *row[place : place + 2]] for row in front[1]}
    assert list(shown) == ["all ten eyes", SIX, LAST]
    assert shown == {name: groups[name][:3] for name in shown}

    # card and zoo
    value, low, high = re.findall(r"[\d.]+", pooled)
    interval = f"95 % interval by eye {float(low):.3f} to {float(high):.3f}"
    in_card = f"fluid Dice {float(value):.3f} pooled over ten eyes, {interval}"
    assert in_card in card(network)
    six = f"of the six eyes that chose nothing {float(groups[SIX][1].split()[0]):.3f}"
    last = f"of eyes 9 and 10 {float(groups[LAST][1]):.3f}"
    assert f"{in_card}; {six}; {last}; mean over the ten eyes " in card(network)
    spread = " ± ".join(f"{float(number):.3f}" for number in mean.split(" ± "))
    assert f"mean over the ten eyes {spread}" in card(network)
    zoo = json.loads((ROOT / "weights" / "zoo.json").read_text())[network]["reported"]
    assert zoo["dice_percent"] == pytest.approx(100 * float(value))
    assert f"{six}, {last}, mean over the ten eyes {mean}" in zoo["what"]


def test_what_the_front_page_says_of_eyes(made):
    text = " ".join(READMES[Path("README.md")].split())
    tables = tables_of(made("crossval", "crossval_fluid"))
    seeds = tables_of(made("crossval", "crossval_fluid", "--seeds", "0", "1", "2"))
    for name in ("all ten eyes", SIX):
        spread = [float(number) for number in seeds["eyes, each seed"][name][-1].split(" ± ")]
        assert "{:.3f} ± {:.3f}".format(*spread) in text
    dice = [float(row[3]) for row in tables["eye"].values()]
    assert f"Eyes differ much (Dice {min(dice):.2f} to {max(dice):.2f})" in text
    detail = tables["95 % intervals by eye in brackets"]
    area = float(detail["area error per scan, mm²"][0].split()[0])
    share = float(detail["area too large by, all scans together"][0].split("%")[0])
    assert f"too large by {area:.2f} mm² on average, {share} % of all fluid" in text
    right, dry = map(int, detail["scans without fluid left empty"][0].split(" (")[0].split(" of "))
    assert f"some fluid is found in {dry - right} of {dry} scans that hold none" in text
    beside = [float(row[5].rstrip(" %")) for row in tables["eye"].values()]
    assert max(beside) == pytest.approx(10, abs=1)  # a tenth, of one eye
    assert sorted(beside)[-2] < 4
    assert f"up to {max(beside):.0f} % of what it finds" in " ".join(card("dme-fluid").split())


# ---- tables of single results


def test_held_out():
    result = read("held_out/results.json")
    markdown = load_script("held_out").markdown
    text = markdown(result)
    assert_shown(text, markdown(read("held_out_before/results.json")))
    tables = tables_of(text)
    fluid = [float(tables["probability given"][f"0.{i} to 0.{i + 1}"][2]) for i in (5, 6, 7)]
    shares = f"{100 * min(fluid):.0f} to {100 * max(fluid):.0f} % are fluid"
    words = " ".join(READMES[Path("experiments/studies/README.md")].split())
    assert f"of pixels given 0.5 to 0.8 only {shares}" in words
    dice = tables["95 % intervals by eye"]["fluid Dice, pooled over all pixels"]
    plain, chosen = (float(cell.split()[0]) for cell in dice)
    assert f"at the cost of {plain - chosen:.3f} of Dice" in words


def test_unlabelled(made):
    assert_shown(made("unlabelled", "unlabelled"))


def test_layers_in_perturbed_scans():
    assert_shown(load_script("layer_robustness").markdown(read("layer_robustness.json")))


def test_cysts():
    result = read("cysts.json")
    markdown = load_script("cysts").markdown
    assert_shown(markdown(result))
    assert_shown(markdown(read("cysts_shipped.json")))
    healthy = [np.mean(n["errors_px"]["healthy"]["all_beside"]) for n in result["networks"]]
    _, _, longer, with_cysts = healthy
    words = " ".join(READMES[Path("experiments/studies/README.md")].split())
    assert f"the error is {with_cysts - longer:.3f} px above" in words


def test_graders():
    result = read("graders.json")
    markdown = load_script("graders").markdown
    assert_shown(markdown(result), markdown(read("graders_before.json")))
    # a README that says how much more the second grader draws
    (pair,) = [
        pair
        for pair in result["areas_mm2"]
        if (pair["who"], pair["against"]) == ("grader 2", "grader 1")
    ]
    more = relative_bias(np.sum(pair["moments_per_eye"], 0))
    assert f"draws {100 * more:.1f} % more" in EVERYTHING.replace("\n", " ")


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
    rows = {row["network"]: row for row in read("hrf_shipped.json")["rows"]}
    for name, row in rows.items():
        assert row["weights_sha256"] == sha256_file(ROOT / "weights" / f"{name}.pth")
    header = ["network", "backbone", "head", "width", "scale", "full", "OpenMMLab"]
    scores = {
        name: [f"{row['dice_scale']:.4f}", f"{row['dice_full']:.4f}"] for name, row in rows.items()
    }
    (shown,) = code_table(*header)
    assert {row[0]: row[4:6] for row in shown} == scores
    in_cards = {
        row[0].strip("`"): row[1:3]
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
    assert_shown(load_script("predict_table").markdown(RESULTS / "bench"))
    markdown = load_script("precision").markdown
    assert_shown(markdown(RESULTS / "bench"), markdown(RESULTS / "bench/layers"))
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
        measured = read(f"{name}.json")
        assert measured["commit"] and measured["settings"]["weights_sha256"]
        areas = [scan["fluid_px"] for scan in measured["scans"]]
        found[name] = (sum(area > 0 for area in areas), f"{sum(areas):,}", len(areas))
    scans, area, total = found["dme_fluid_fast_healthy"]
    slow_scans, slow_area, _ = found["dme_fluid_healthy"]
    text = " ".join(card("dme-fluid-fast").split())
    assert (
        f"Of {total} scans of healthy eyes it finds some fluid in {scans} ({area} px in all; "
        f"`dme-fluid` in {slow_scans}, {slow_area} px)"
    ) in text


def test_fluid_outside_the_retina():
    measured = read("octlayers_dme.json")
    assert measured["commit"] and measured["settings"]["layers_weights_sha256"]
    scans = measured["scans"]
    fluid = sum(scan["fluid_px"] for scan in scans)
    outside = 0
    for scan in scans:
        outside += scan["fluid_above_retina_px"] + scan["fluid_below_retina_px"]
    text = " ".join(READMES[Path("experiments/studies/README.md")].split())
    assert f"of {fluid:,} px of fluid {outside:,} are left above or below the retina" in text
