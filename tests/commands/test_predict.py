"""`predict`: its files and numbers, what it says and refuses, ranks."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.scan_files import picture, save
from helpers.scripts import EXPERIMENTS, ROOT, table
from PIL import Image

from dme.data import phantom
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import build_model, set_classes
from dme.report.columns import SCAN_COLUMNS


def test_single_scans(script, tmp_path, capsys):
    save(tmp_path / "in" / "wet.png", picture())
    save(tmp_path / "in" / "dry.png", picture()[20:, :])
    code, out = script(tmp_path / "in", "--scale", "4,10", "--backbone", "unet")
    assert code == 0
    dry, wet = table(out / "measurements.csv")
    assert list(wet) == list(SCAN_COLUMNS["fluid"])
    assert (wet["scan"], wet["height_px"], wet["width_px"], wet["fluid_px"]) == (
        "wet",
        "40",
        "60",
        "40",
    )
    assert float(wet["fluid_area_mm2"]) == pytest.approx(40 * 4 * 10 / 1e6)
    assert (wet["regions"], wet["spacing_um"], wet["volume"]) == ("1", "", "")
    assert float(wet["mean_fluid_probability"]) == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-4)
    assert (dry["fluid_px"], dry["mean_fluid_probability"]) == ("0", "")
    mask = np.asarray(Image.open(out / wet["mask"]))
    np.testing.assert_array_equal(mask, np.where(picture() > 100, 255, 0))
    assert Image.open(out / wet["overlay"]).width >= 320
    found = json.loads((out / "measurements.json").read_text())
    assert found["finished"] and found["settings"]["weights_sha256"] == "ab" * 32
    assert found["scans"][1]["fluid_px"] == 40 and found["volumes"] == found["skipped"] == []
    assert "2 scans, 1 with fluid; 0 skipped" in capsys.readouterr().out
    assert not (out / "volumes.csv").exists()


def test_low_scans_are_named(script, tmp_path, capsys):
    low, high = save(tmp_path / "low.npy", picture(247)), save(tmp_path / "high.npy", picture(248))
    _, out = script(low, high)
    note = "1 of 2 scans less than 248 px high (low): the networks learnt from larger ones"
    assert note in capsys.readouterr().out
    assert any(
        note in kept for kept in json.loads((out / "measurements.json").read_text())["notes"]
    )


def test_without_scale_it_says_so(script, tmp_path, capsys):
    _, out = script(save(tmp_path / "in.npy", np.stack([picture()] * 2)))
    assert "scale unknown for 2 of 2 scans: pixels only" in capsys.readouterr().out
    assert {row["fluid_area_mm2"] for row in table(out / "measurements.csv")} == {""}
    (volume,) = table(out / "volumes.csv")
    assert (volume["fluid_px"], volume["fluid_volume_mm3"]) == ("80", "")
    assert not (out / "sectors.csv").exists() and (out / "maps" / "in.png").exists()


def test_a_volume_with_a_broken_scan(script, tmp_path, capsys):
    for i in range(9):
        save(tmp_path / "eye" / f"bscan_{i}.png", picture(width=600))
    (tmp_path / "eye" / "bscan_4.png").write_bytes(b"broken")
    code, out = script(tmp_path / "eye", "--scale", "4,10,120", "--eye", "OS")
    assert code == 1
    captured = capsys.readouterr()
    assert (
        captured.err.count("skipped: ") == 1
        and "bscan_4.png: not a readable image" in captured.err
    )
    (volume,) = table(out / "volumes.csv")
    # all nine B-scans are alike, so that the missing one is interpolated exactly
    assert float(volume["fluid_volume_mm3"]) == pytest.approx(9 * 40 * 4 * 10 * 120 / 1e9)
    assert (volume["bscans"], volume["missing_bscans"], volume["fluid_px"]) == ("8", "1", "320")
    sectors = {row["sector"]: float(row["volume_mm3"]) for row in table(out / "sectors.csv")}
    # columns 20 to 27 lie 2.7 to 2.8 mm left of the centre, which is nasal in a left eye
    assert sectors["outer_nasal"] == pytest.approx(float(volume["fluid_volume_mm3"]))
    assert sum(sectors.values()) == pytest.approx(sectors["outer_nasal"])
    found = json.loads((out / "measurements.json").read_text())
    assert found["skipped"][0]["source"].endswith("bscan_4.png")
    assert "not a readable image" in (out / "report.html").read_text()


def test_an_outer_scan_that_is_missing_is_not_made_up(script, tmp_path, capsys):
    for visit in ("a", "b"):
        for i in range(4):
            save(tmp_path / visit / "eye" / f"bscan_{i}.png", picture(width=600))
    (tmp_path / "b" / "eye" / "bscan_3.png").write_bytes(b"broken")
    outs = [
        script(tmp_path / v / "eye", "--scale", "4,10,120", out=tmp_path / f"{v}o")[1]
        for v in "ab"
    ]
    told = capsys.readouterr().out
    assert "1 B-scans missing at the end of volumes: their part of the volume is unknown" in told
    assert "interpolated" not in told
    (volume,) = table(outs[1] / "volumes.csv")
    assert [volume[key] for key in ("last_bscan", "first_measured", "last_measured")] == [
        "3",
        "0",
        "2",
    ]
    assert script("--compare", *outs, out=tmp_path / "c")[0] == 2
    assert "of volume eye B-scans 0 to 3 and 0 to 2 could be predicted" in capsys.readouterr().err


def test_a_scan_of_another_size_leaves_the_volume_unmeasured(script, tmp_path, capsys):
    for i in range(3):
        save(tmp_path / "eye" / f"bscan_{i}.png", picture(width=60 + (i == 2)))
    code, out = script(tmp_path / "eye", "--scale", "4,10,120")
    assert code == 1 and "eye: its B-scans differ in size" in capsys.readouterr().err
    assert len(table(out / "measurements.csv")) == 3 and not (out / "volumes.csv").exists()


def test_a_scale_without_spacing_leaves_that_of_the_source(script, tmp_path):
    for i in range(2):
        save(tmp_path / "eye" / f"s{i}.png", picture())
    lines = "".join(f"s{i},1,{i},3,11,120\n" for i in range(2))
    (tmp_path / "eye" / "index.csv").write_text(
        "name,subject,bscan,axial_um,lateral_um,spacing_um\n" + lines
    )
    _, out = script(tmp_path / "eye", "--scale", "4,10")
    (volume,) = table(out / "volumes.csv")
    assert [float(volume[key]) for key in ("axial_um", "lateral_um", "spacing_um")] == [4, 10, 120]
    assert float(volume["fluid_volume_mm3"]) == pytest.approx(2 * 40 * 4 * 10 * 120 / 1e9)


@pytest.mark.parametrize("other", ["index.csv", "c.npy"])
def test_volume_is_for_folders_of_images_alone(script, tmp_path, capsys, other):
    save(tmp_path / "in" / "a.png", picture())
    save(tmp_path / "in" / "c.npy", picture()) if other == "c.npy" else (
        tmp_path / "in" / other
    ).touch()
    assert script(tmp_path / "in", "--volume")[0] == 2
    assert (
        f"--volume is for a folder of nothing but images, found {other}" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04garbage", b"\x93NUMPY\x01\x00\x16\x00{'shape': \xa9(20, 30), }\n"],
    ids=["archive", "header"],
)
def test_a_damaged_array_is_skipped(script, tmp_path, capsys, content):
    save(tmp_path / "in" / "a.png", picture())
    (tmp_path / "in" / "z.npy").write_bytes(content)
    code, out = script(tmp_path / "in")
    assert code == 1 and len(table(out / "measurements.csv")) == 1
    assert "z.npy: not a readable .npy array" in capsys.readouterr().err


def test_fovea_outside(script, tmp_path, capsys):
    file = save(tmp_path / "v.npy", np.stack([picture()] * 3))
    code, out = script(file, "--scale", "4,10,120", "--fovea", "60,1")
    assert (
        code == 1
        and "v: no sectors: fovea 60,1 lies outside (60 columns" in capsys.readouterr().err
    )
    assert float(table(out / "volumes.csv")[0]["fluid_volume_mm3"]) > 0


def test_exit_codes_and_messages(script, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"x")
    good = save(tmp_path / "good.png", picture())
    for arguments, expected, text in [
        ([tmp_path / "empty"], 2, "error: .*empty: no scans, it holds nothing"),
        ([tmp_path / "bad.png"], 2, "error: no scan could be predicted, 1 skipped"),
        ([tmp_path / "bad.png", good], 1, "skipped: .*bad.png: not a readable image"),
        ([tmp_path / "nowhere", good], 1, "skipped: .*nowhere: no such file"),
        ([good, "--scale", "4"], 2, "--scale 4: expected axial,lateral"),
        ([good, "--scale", "4,nan"], 2, "--scale 4,nan"),
        ([good, "--threshold", "1"], 2, "--threshold 1.0"),
        (
            [good, "--backbone", "mobilenet_v2"],
            2,
            "--backbone mobilenet_v2 does not fit .* bright.pth, whose",
        ),
        ([], 2, "give INPUT"),
    ]:
        code, _ = script(*arguments)
        stderr = capsys.readouterr().err
        assert code == expected
        assert len([line for line in stderr.splitlines() if re.search(text, line)]) == 1, stderr
        assert "Traceback" not in stderr


def test_other_peoples_files_are_never_replaced(script, tmp_path, capsys):
    graded = save(tmp_path / "set" / "masks" / "a.png", picture())
    save(tmp_path / "set" / "a.png", picture())
    before = graded.read_bytes()
    code, _ = script(tmp_path / "set", out=tmp_path / "set")
    assert code == 2 and "lies in" in capsys.readouterr().err
    code, _ = script(tmp_path / "set" / "a.png", out=tmp_path)
    assert code == 2
    save(tmp_path / "b.png", picture())
    code, _ = script(tmp_path / "b.png", out=tmp_path / "set")
    assert code == 2 and "holds other files" in capsys.readouterr().err
    assert graded.read_bytes() == before


def test_a_second_run_replaces_the_first(script, tmp_path):
    _, out = script(save(tmp_path / "v.npy", np.stack([picture()] * 2)))
    (out / "comparison.csv").write_text("mine")
    code, _ = script(save(tmp_path / "b.png", picture()))
    assert code == 0 and [f.name for f in (out / "masks").iterdir()] == ["b.png"]
    assert not (out / "maps").exists() and not (out / "volumes.csv").exists()
    assert (out / "comparison.csv").read_text() == "mine"
    assert not list(out.rglob("*.part"))


def test_odd_file_names(script, tmp_path):
    names = ["a&b <i>.png", "50% #1?.png", "ä ö.png", "x" * 200 + ".png"]
    for name in names:
        save(tmp_path / "in" / name, picture())
    os.rename(tmp_path / "in" / "ä ö.png", os.fsencode(tmp_path / "in") + b"/latin\xe4.png")
    code, out = script(tmp_path / "in")
    rows = table(out / "measurements.csv")
    assert code == 0 and len(rows) == 4
    for row in rows:
        assert (out / row["mask"]).exists() and (out / row["overlay"]).exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "a&amp;b &lt;i&gt;" in page and "<i>" not in page
    assert 'href="overlays/50%25%20%231%3F.png"' in page


def test_phantom(script, monkeypatch, capsys):
    few = list(phantom.phantom_set(1, 3, 64, 96))
    monkeypatch.setattr(phantom, "phantom_set", lambda subjects, scans_per_subject: iter(few))
    code, out = script("phantom")
    assert code == 0 and "SYNTHETIC" in capsys.readouterr().out
    (volume,) = table(out / "volumes.csv")
    assert (volume["volume"], volume["bscans"], float(volume["spacing_um"])) == (
        "phantom",
        "3",
        123,
    )
    assert len(table(out / "sectors.csv")) == 9


def test_ranks_share_the_scans(script, tmp_path):
    torch.manual_seed(0)
    model = build_model(head="fcn", width=2, aux=False)
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": "native"}
    save_model(model, tmp_path / "m.pth")
    save(tmp_path / "v.npy", np.stack([picture(seed=i) for i in range(5)]))
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(seed=9))
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    inputs = [
        tmp_path / "v.npy",
        tmp_path / "in",
        "--scale",
        "4,10,120",
        "--weights",
        tmp_path / "m.pth",
    ]
    assert script(*inputs, networks={}, out=tmp_path / "one")[0] == 1
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*start, EXPERIMENTS / "predict.py", *inputs, "--out", tmp_path / "two"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and done.stderr.count("skipped: ") == 1, done.stderr
    for file in ("measurements.csv", "volumes.csv", "sectors.csv"):
        assert (tmp_path / "one" / file).read_text() == (tmp_path / "two" / file).read_text()
    one, two = (sorted(p.name for p in (tmp_path / n).rglob("*")) for n in ("one", "two"))
    assert (
        one == two
        and "bad.png"
        in json.loads((tmp_path / "two/measurements.json").read_text())["skipped"][0]["source"]
    )


def test_real_volume(script, real_data):
    code, out = script(real_data / "chiu2015" / "subject01_volume", "--scale", "3.87,11.33,123")
    assert code == 0
    rows = table(out / "measurements.csv")
    assert len(rows) == 61 and {row["volume"] for row in rows} == {"subject01_volume"}
    image = np.asarray(Image.open(real_data / "chiu2015" / "subject01_volume" / "bscan_30.png"))
    assert int(rows[30]["fluid_px"]) == (image > 100).sum()
    (volume,) = table(out / "volumes.csv")
    areas_mm2 = sum(float(row["fluid_area_mm2"]) for row in rows)
    assert float(volume["fluid_volume_mm3"]) == pytest.approx(areas_mm2 * 0.123)
