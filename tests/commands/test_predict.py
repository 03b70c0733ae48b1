"""`predict`: its files and numbers, what it says and refuses, ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.knowing_networks import Bright, grey_values
from helpers.scan_files import picture, save
from helpers.scripts import EXPERIMENTS, ROOT
from PIL import Image

from dme.data import phantom
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import build_model, set_classes
from dme.report.columns import SCAN_COLUMNS

SCALE = ["--scale", "4,10,120"]
FLUID_PX = 40  # of every picture()
FLUID_MM3 = FLUID_PX * 4 * 10 * 120 / 1e9  # with SCALE


def save_eye(folder, bscans, width=600):
    """Equal B-scans, the images of one volume."""
    for i in range(bscans):
        save(folder / f"bscan_{i}.png", picture(width=width))
    return folder


class BrokenByBlack(Bright):
    """Makes NaN of scans that begin with a black pixel."""

    def forward(self, x):
        logits = super().forward(x)
        if grey_values(x)[0, 0, 0, 0] < 1:
            logits[:] = float("nan")
        return logits


def test_a_scan_of_which_the_network_makes_nan_is_not_without_fluid(predict, tmp_path):
    black = picture()
    black[0, 0] = 0
    save(tmp_path / "in" / "black.png", black)
    network = BrokenByBlack()
    done = predict(tmp_path / "in", "--weights", "n", networks={"n": network})
    assert done.code == 2
    assert "black.png: bright.pth makes NaN or infinity" in done.errors
    assert "error: no scan could be predicted, 1 skipped" in done.errors

    save(tmp_path / "in" / "grey.png", picture())
    done = predict(tmp_path / "in", "--weights", "n", networks={"n": network}, out=tmp_path / "b")
    assert "1 skipped" in done.printed
    assert [row["scan"] for row in done.table()] == ["grey"]


# ---- single scans -------------------------------------------------------------------------------
@pytest.fixture
def done(predict, tmp_path):
    """A scan with fluid and one without."""
    save(tmp_path / "in" / "wet.png", picture())
    save(tmp_path / "in" / "dry.png", picture()[20:, :])
    return predict(tmp_path / "in", "--scale", "4,10", "--backbone", "unet")


def test_numbers_of_single_scans(done):
    dry, wet = done.table()
    assert list(wet) == list(SCAN_COLUMNS["fluid"])
    expected = {"scan": "wet", "height_px": "40", "width_px": "60", "fluid_px": "40"}
    expected |= {"regions": "1", "spacing_um": "", "volume": ""}
    assert {key: wet[key] for key in expected} == expected
    assert float(wet["fluid_area_mm2"]) == pytest.approx(FLUID_PX * 4 * 10 / 1e6)
    probability = 1 / (1 + np.exp(-3))
    assert float(wet["mean_fluid_probability"]) == pytest.approx(probability, abs=1e-4)
    assert dry["fluid_px"] == "0"
    assert dry["mean_fluid_probability"] == ""


def test_files_of_single_scans(done):
    assert done.code == 0
    assert "2 scans, 1 with fluid (at least 0.001 mm2); 0 skipped" in done.printed
    _, wet = done.table()
    mask = np.asarray(Image.open(done.out / wet["mask"]))
    np.testing.assert_array_equal(mask, np.where(picture() > 100, 255, 0))
    assert Image.open(done.out / wet["overlay"]).width >= 320
    assert not done.has("volumes.csv")

    results = done.results()
    assert results["finished"]
    assert results["settings"]["weights_sha256"] == "ab" * 32
    assert results["scans"][1]["fluid_px"] == 40
    assert results["volumes"] == []
    assert results["skipped"] == []


def test_low_scans_are_named(predict, tmp_path):
    low = save(tmp_path / "low.npy", picture(247))
    high = save(tmp_path / "high.npy", picture(248))
    done = predict(low, high)
    few = "1 of 2 scans less than 248 px high (low)"
    note = f"{few}: the networks learnt from larger ones"
    assert note in done.printed
    assert any(note in kept for kept in done.results()["notes"])


def test_tables_do_not_say_where_on_the_machine_scans_lay(predict, tmp_path, monkeypatch):
    """As they were named, or from the input folder on."""
    near = save(tmp_path / "here" / "visit" / "a.npy", picture())
    far = save(tmp_path / "there" / "anna" / "b.npy", picture(seed=1))
    monkeypatch.chdir(tmp_path / "here")
    save(tmp_path / "all" / "anna" / "c.png", picture(seed=2))
    (tmp_path / "all" / "anna" / "d.png").write_bytes(b"none")
    near = near.relative_to(tmp_path / "here")
    done = predict(near, far, tmp_path / "there" / "anna" / "none.npy", tmp_path / "all" / "anna")
    assert done.code == 1
    sources = ["visit/a.npy", "b.npy", "c.png"]
    assert [row["source"] for row in done.table()] == sources
    assert [row["source"] for row in done.results()["scans"]] == sources
    skipped = {fault["source"] for fault in done.results()["skipped"]}
    assert skipped == {"none.npy", "d.png"}
    assert "visit/a.npy" in done.page()
    tables = [path.read_text() for path in done.out.glob("*.csv")]
    assert tables and not any(str(tmp_path) in text for text in tables)


def test_a_few_pixels_are_no_scan_with_fluid(predict, tmp_path):
    few = picture()
    few[10:15, 20:28] = 50
    few[10:14, 20:26] = 160  # 24 px
    done = predict(save(tmp_path / "few.npy", few), save(tmp_path / "more.npy", picture()))
    assert [row["fluid_px"] for row in done.table()] == ["24", "40"]
    assert "2 scans, 1 with fluid (at least 25 px); 0 skipped" in done.printed
    assert "with fluid (at least 25 px)" in done.page()


def test_doubtful_scans_are_told_in_table_terminal_and_page(predict, tmp_path):
    dim = save(tmp_path / "dim.npy", picture() // 2)
    sound = save(tmp_path / "sound.npy", picture())
    done = predict(dim, sound)
    doubt = "dim (its bright pixels are below grey 120)"
    assert [row["doubt"] for row in done.table()] == [doubt, ""]
    note = f"1 of 2 scans doubtful: {doubt}: dim"
    assert f"note: {note}\n" in done.printed
    assert note in done.results()["notes"]
    listed = done.page().split('id="doubtful"')[1].split("</section>")[0]
    assert doubt in listed and "sound" not in listed


# ---- volumes ------------------------------------------------------------------------------------
def test_a_scale_that_is_guessed_for_all_makes_no_scan_doubtful(predict, tmp_path):
    scans = save(tmp_path / "in.npy", [phantom.phantom_bscan(seed).image for seed in (1, 2)])
    done = predict(scans, "--weights", of_physical_scale(tmp_path / "um.pth"), networks={})
    assert [row["doubt"] for row in done.table()] == ["", ""]
    line = "scale unknown for 2 of 2 scans: pixels only; give it with --scale, else networks of a"
    assert line in done.printed


def test_to_a_network_of_a_physical_scale_no_scan_is_low(predict, tmp_path):
    scan = save(tmp_path / "in.npy", phantom.phantom_bscan(1).image[:480:2, ::2])
    weights = of_physical_scale(tmp_path / "um.pth")
    done = predict(scan, "--scale", "7.74,22.66", "--weights", weights, networks={})
    assert done.code == 0 and "px high" not in done.printed


def of_physical_scale(path: Path) -> Path:
    """A file with a fresh network that learnt at a physical scale."""
    model = build_model(width=2, head="fcn", aux=False)
    set_classes(model, ("background", "fluid"))
    model.preprocess = model.preprocess | {"size": "um", "um_per_px": [7.74, 22.66]}
    save_model(model, path)
    return path


def test_without_scale_it_says_so(predict, tmp_path):
    done = predict(save(tmp_path / "in.npy", [picture()] * 2))
    assert "scale unknown for 2 of 2 scans: pixels only" in done.printed
    assert {row["fluid_area_mm2"] for row in done.table()} == {""}
    volume = done.volume()
    assert volume["fluid_px"] == "80"
    assert volume["fluid_volume_mm3"] == ""
    assert not done.has("sectors.csv")
    assert done.has("maps/in.png")


def test_a_volume_with_a_broken_scan(predict, tmp_path):
    folder = save_eye(tmp_path / "eye", 9)
    (folder / "bscan_4.png").write_bytes(b"broken")
    done = predict(folder, *SCALE, "--eye", "OS")
    assert done.code == 1
    assert done.errors.count("skipped: ") == 1
    assert "bscan_4.png: not a readable image" in done.errors
    assert done.results()["skipped"][0]["source"].endswith("bscan_4.png")
    assert "not a readable image" in done.page()

    # all nine B-scans are alike, so that the missing one is interpolated exactly
    volume = done.volume()
    assert float(volume["fluid_volume_mm3"]) == pytest.approx(9 * FLUID_MM3)
    assert volume["bscans"] == "8"
    assert volume["missing_bscans"] == "1"
    assert volume["fluid_px"] == "320"

    # columns 20 to 27 lie 2.7 to 2.8 mm left of the centre, which is nasal in a left eye
    sectors = {row["sector"]: float(row["volume_mm3"]) for row in done.table("sectors.csv")}
    assert sectors["outer_nasal"] == pytest.approx(float(volume["fluid_volume_mm3"]))
    assert sum(sectors.values()) == pytest.approx(sectors["outer_nasal"])


def test_a_link_that_leads_nowhere_is_skipped_and_its_bscan_missing(predict, tmp_path):
    folder = tmp_path / "eye"
    for number in (0, 2):
        save(folder / f"bscan_{number:02d}.png", picture())
    (folder / "bscan_01.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "visit2").symlink_to(tmp_path / "nowhere")
    done = predict(folder)
    assert done.code == 1
    assert f"skipped: {folder / 'bscan_01.png'}: link leads nowhere" in done.errors
    assert f"skipped: {folder / 'visit2'}: link leads nowhere" in done.errors
    assert re.search(r"^2 scans, .*; 2 skipped$", done.printed, re.M)
    assert done.volume()["missing_bscans"] == "1"


def test_an_outer_scan_that_is_missing_is_not_made_up(predict, tmp_path):
    whole = save_eye(tmp_path / "whole" / "eye", 4)
    short = save_eye(tmp_path / "short" / "eye", 4)
    (short / "bscan_3.png").write_bytes(b"broken")
    before = predict(whole, *SCALE, out=tmp_path / "a")
    after = predict(short, *SCALE, out=tmp_path / "b")
    note = "1 B-scans missing at the end of volumes: their part of the volume is unknown"
    assert note in after.printed
    assert "interpolated" not in before.printed + after.printed
    volume = after.volume()
    assert volume["last_bscan"] == "3"
    assert volume["first_measured"] == "0"
    assert volume["last_measured"] == "2"

    done = predict("--compare", before.out, after.out, out=tmp_path / "c")
    assert done.code == 2
    assert "of volume eye B-scans 0 to 3 and 0 to 2 could be predicted" in done.errors


def test_a_scan_of_another_size_leaves_the_volume_unmeasured(predict, tmp_path):
    folder = save_eye(tmp_path / "eye", 2, width=60)
    save(folder / "bscan_2.png", picture(width=61))
    done = predict(folder, *SCALE)
    assert done.code == 1
    assert "eye: its B-scans differ in size" in done.errors
    assert len(done.table()) == 3
    assert not done.has("volumes.csv")


def test_a_scale_without_spacing_leaves_that_of_the_source(predict, tmp_path):
    lines = ["name,subject,bscan,axial_um,lateral_um,spacing_um"]
    for i in range(2):
        save(tmp_path / "eye" / f"s{i}.png", picture())
        lines.append(f"s{i},1,{i},3,11,120")
    (tmp_path / "eye" / "index.csv").write_text("\n".join(lines) + "\n")
    volume = predict(tmp_path / "eye", "--scale", "4,10").volume()
    scale = [float(volume[key]) for key in ("axial_um", "lateral_um", "spacing_um")]
    assert scale == [4, 10, 120]
    assert float(volume["fluid_volume_mm3"]) == pytest.approx(2 * FLUID_MM3)


def test_index_gives_eye_and_fovea_of_each_volume(predict, tmp_path):
    lines = ["name,subject,bscan,eye,fovea_column,fovea_bscan"]
    for subject, place in ((1, "OD,290,1"), (2, "os,,"), (3, ",,")):
        for i in range(3):
            name = f"s{subject}_{i}"
            save(tmp_path / "in" / f"{name}.png", picture(width=600))
            # one line says it for the volume
            lines.append(f"{name},{subject},{i},{place if i == 1 else ',,'}")
    (tmp_path / "in" / "index.csv").write_text("\n".join(lines) + "\n")
    done = predict(tmp_path / "in", *SCALE)
    assert done.code == 0
    keys = ("eye", "fovea_column", "fovea_bscan")
    places = [tuple(row[key] for key in keys) for row in done.table("volumes.csv")]
    assert places == [("OD", "290.0", "1.0"), ("OS", "299.5", "1.0"), ("", "299.5", "1.0")]
    names = [row["sector"] for row in done.table("sectors.csv")]
    assert names[2::9] == ["inner_nasal", "inner_temporal", "inner_right"]

    # one eye for all of them: not for that which index.csv contradicts
    done = predict(tmp_path / "in", *SCALE, "--eye", "OD")
    assert done.code == 1
    assert [row["eye"] for row in done.table("volumes.csv")] == ["OD", "", "OD"]
    assert "in_subject02: no eye: index.csv says OS, --eye OD" in done.errors


def test_both_eyes_of_a_subject_are_two_volumes(predict, tmp_path):
    lines = ["name,subject,bscan,eye"]
    for eye in ("OD", "OS"):
        for i in range(2):
            save(tmp_path / "in" / f"{eye}{i}.png", picture())
            lines.append(f"{eye}{i},7,{i},{eye}")
    (tmp_path / "in" / "index.csv").write_text("\n".join(lines) + "\n")
    volumes = predict(tmp_path / "in", *SCALE).table("volumes.csv")
    assert [(row["volume"], row["eye"]) for row in volumes] == [
        ("in_subject07_OD", "OD"),
        ("in_subject07_OS", "OS"),
    ]


def test_eye_and_fovea_without_a_volume_are_said_to_have_no_effect(predict, tmp_path):
    scan = save(tmp_path / "a.png", picture())
    done = predict(scan, "--eye", "OD", "--fovea", "3,1")
    assert "note: no volume: --eye and --fovea have no effect" in done.printed
    assert "no volume: --eye and --fovea have no effect" in done.page()
    done = predict(scan, "--fovea", "3,1", out=tmp_path / "fovea")
    assert "note: no volume: --fovea has no effect" in done.printed
    done = predict(scan, out=tmp_path / "plain")
    assert "no effect" not in done.printed
    stack = save(tmp_path / "v.npy", [picture()] * 3)
    done = predict(stack, "--eye", "OD", "--fovea", "3,1", out=tmp_path / "volume")
    assert "no effect" not in done.printed


def test_a_fovea_of_the_index_goes_before_the_one_that_was_given(predict, tmp_path):
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", picture())
    lines = ["name,subject,bscan,fovea_column,fovea_bscan"]
    lines += [f"{number}.png,1,{number},30,1" for number in range(3)]
    (tmp_path / "in" / "index.csv").write_text("\n".join(lines))
    done = predict(tmp_path / "in", "--fovea", "20,2", "--scale", "4,10,120")
    assert "in_subject01: the fovea of index.csv is taken, not that of --fovea" in done.printed
    done = predict(tmp_path / "in", "--fovea", "30,1", "--scale", "4,10,120")
    assert "not that of --fovea" not in done.printed


def test_eyes_in_names_are_said(predict, tmp_path):
    folders = [save_eye(tmp_path / name, 2) for name in ("P1_OD", "P1_OS")]
    done = predict(*folders, *SCALE)
    assert done.code == 0
    assert [row["eye"] for row in done.table("volumes.csv")] == ["", ""]
    assert "P1_OS: named OS, which is not taken as its eye: give it with --eye" in done.printed
    done = predict(*folders, *SCALE, "--eye", "OD", out=tmp_path / "o2")
    assert done.code == 2
    assert "--eye OD is for all volumes, but" in done.errors
    assert not done.out.exists()


def test_times_in_names_are_no_positions(predict, tmp_path):
    for stamp in ("20230115120000", "20240115120000", "20230301000000"):
        save(tmp_path / "in" / f"oct_bscan_{stamp}.png", picture())
    done = predict(tmp_path / "in", *SCALE)
    assert done.code == 0
    bscans = {row["source"][-18:-4]: row["bscan"] for row in done.table()}
    assert bscans == {"20230115120000": "0", "20230301000000": "1", "20240115120000": "2"}
    assert done.volume()["missing_bscans"] == "0"
    assert "20240115120000 is no B-scan's number: B-scans counted in order" in done.printed


def test_fovea_outside(predict, tmp_path):
    file = save(tmp_path / "v.npy", [picture()] * 3)
    done = predict(file, *SCALE, "--fovea", "60,1")
    assert done.code == 1
    assert "v: no sectors: fovea 60,1 lies outside (60 columns" in done.errors
    assert float(done.volume()["fluid_volume_mm3"]) > 0


def test_phantom(predict, monkeypatch):
    few = list(phantom.phantom_set(1, 3, 64, 96))
    monkeypatch.setattr(phantom, "phantom_set", lambda subjects, scans_per_subject: iter(few))
    done = predict("phantom")
    assert done.code == 0
    assert "SYNTHETIC" in done.printed
    volume = done.volume()
    assert volume["volume"] == "phantom"
    assert volume["bscans"] == "3"
    assert float(volume["spacing_um"]) == 123
    assert len(done.table("sectors.csv")) == 9


# ---- what is refused or skipped -----------------------------------------------------------------
@pytest.mark.parametrize("other", ["index.csv", "c.npy"])
def test_volume_is_for_folders_of_images_alone(predict, tmp_path, other):
    folder = tmp_path / "in"
    save(folder / "a.png", picture())
    if other == "c.npy":
        save(folder / other, picture())
    else:
        (folder / other).touch()
    done = predict(folder, "--volume")
    assert done.code == 2
    message = f"--volume is for a folder of nothing but images, found {other}"
    assert message in done.errors


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04garbage", b"\x93NUMPY\x01\x00\x16\x00{'shape': \xa9(20, 30), }\n"],
    ids=["archive", "header"],
)
def test_a_damaged_array_is_skipped(predict, tmp_path, content):
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "in" / "z.npy").write_bytes(content)
    done = predict(tmp_path / "in")
    assert done.code == 1
    assert len(done.table()) == 1
    assert "z.npy: not a readable .npy array" in done.errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("empty", 2, "error: .*empty: no scans, it holds nothing"),
        ("bad.png", 2, "error: no scan could be predicted, 1 skipped"),
        ("bad.png good.png", 1, "skipped: .*bad.png: not a readable image"),
        ("nowhere good.png", 1, "skipped: .*nowhere: no such file"),
        ("good.png --scale 4", 2, "--scale 4: expected axial,lateral"),
        ("good.png --scale 4,nan", 2, "--scale 4,nan"),
        ("good.png --scale 4,1e400", 2, "--scale 4,1e400: expected axial,lateral"),
        (
            "good.png --scale 0.004,0.01,0.12",
            2,
            "0.12: these look like mm: in um they are 4,10,120",
        ),
        ("good.png --scale 10.5,4", 2, "look swapped: give 4,10.5"),
        ("good.png --fovea nan,3", 2, "--fovea nan,3: expected column,B-scan, finite numbers"),
        ("good.png --threshold 1", 2, "--threshold 1.0"),
        ("good.png --threshold nan", 2, "threshold is nan; expected a finite number"),
        (
            "good.png --backbone mobilenet_v2",
            2,
            "--backbone mobilenet_v2 does not fit .* bright.pth, whose",
        ),
        ("", 2, "give INPUT"),
    ],
)
def test_exit_codes_and_messages(predict, tmp_path, monkeypatch, arguments, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"x")
    save(tmp_path / "good.png", picture())
    monkeypatch.chdir(tmp_path)
    done = predict(*arguments.split())
    assert done.code == code
    lines = [line for line in done.errors.splitlines() if re.search(message, line)]
    assert len(lines) == 1, done.errors
    assert "Traceback" not in done.errors


# ---- the results folder -------------------------------------------------------------------------
def test_odd_file_names(predict, tmp_path):
    folder = tmp_path / "in"
    for name in ("a&b <i>.png", "50% #1?.png", "ä ö.png", "x" * 200 + ".png"):
        save(folder / name, picture())
    os.rename(folder / "ä ö.png", os.fsencode(folder) + b"/latin\xe4.png")
    done = predict(folder)
    rows = done.table()
    assert done.code == 0
    assert len(rows) == 4
    for row in rows:
        assert done.has(row["mask"])
        assert done.has(row["overlay"])
    page = done.page()
    assert "a&amp;b &lt;i&gt;" in page
    assert "<i>" not in page
    assert 'href="#scan=50%25%20%231%3F"' in page
    assert 'src="thumbnails/50%25%20%231%3F.jpg"' in page


# ---- many processes, real scans -----------------------------------------------------------------
@pytest.fixture
def weights(tmp_path):
    """File of a small network with random weights."""
    torch.manual_seed(0)
    model = build_model(head="fcn", width=2, aux=False)
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": "native"}
    save_model(model, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def test_ranks_share_the_scans(predict, tmp_path, weights):
    # a volume, two equal scans, and one that cannot be read
    volume = save(tmp_path / "v.npy", [picture(seed=i) for i in range(5)])
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(seed=9))
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    inputs = [volume, tmp_path / "in", *SCALE, "--weights", weights]
    alone = predict(*inputs, networks={}, out=tmp_path / "one")
    assert alone.code == 1

    start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [EXPERIMENTS / "predict.py", *inputs, "--out", tmp_path / "two"]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*start, "--nproc-per-node", "2", *script],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("skipped: ") == 1, done.stderr

    # the same files, of the same content
    one, two = tmp_path / "one", tmp_path / "two"
    for file in ("measurements.csv", "volumes.csv", "sectors.csv"):
        assert (one / file).read_text() == (two / file).read_text()
    names = sorted(path.name for path in one.rglob("*"))
    assert names == sorted(path.name for path in two.rglob("*"))
    alone.out = two
    assert "bad.png" in alone.results()["skipped"][0]["source"]


def test_real_volume(predict, real_data):
    folder = real_data / "chiu2015" / "subject01_volume"
    done = predict(folder, "--scale", "3.87,11.33,123")
    assert done.code == 0
    rows = done.table()
    assert len(rows) == 61
    assert {row["volume"] for row in rows} == {"subject01_volume"}
    image = np.asarray(Image.open(folder / "bscan_30.png"))
    assert int(rows[30]["fluid_px"]) == (image > 100).sum()
    areas_mm2 = sum(float(row["fluid_area_mm2"]) for row in rows)
    volume_mm3 = float(done.volume()["fluid_volume_mm3"])
    assert volume_mm3 == pytest.approx(areas_mm2 * 0.123)


def test_bfloat16_is_recorded_and_said(predict, tmp_path):
    image = save(tmp_path / "a.png", phantom.phantom_bscan(5, fluid=True).image)
    exact = predict(image, networks={}, out=tmp_path / "exact")
    near = predict(image, "--precision", "bfloat16", networks={}, out=tmp_path / "near")
    assert "), bfloat16, cpu" in near.printed
    areas = []
    for done, precision in ((exact, "float32"), (near, "bfloat16")):
        assert done.results()["settings"]["precision"] == precision
        assert precision in done.page()
        areas.append(int(done.table()[0]["fluid_px"]))
    assert areas[0] > 500
    assert areas[1] == pytest.approx(areas[0], rel=0.02)


def test_a_precision_that_moves_boundaries_or_takes_long_is_refused(
    predict, tmp_path, monkeypatch
):
    image = save(tmp_path / "a.png", picture())
    for task in ("layers", "layers+fluid"):
        done = predict(image, "--task", task, "--precision", "bfloat16")
        assert done.code == 2
        assert "--precision bfloat16 moves boundaries of layers" in done.errors
    monkeypatch.setattr("dme.report.networks.computes_fast", lambda precision, device: False)
    done = predict(image, "--precision", "bfloat16")
    assert done.code == 2
    assert "no instructions for bfloat16" in done.errors
