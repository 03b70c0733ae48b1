"""Prediction: the network's rules, every kind of input, the script's files and numbers, ranks, memory."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.matfiles import write_subject_mat
from helpers.scripts import EXPERIMENTS, ROOT, exit_code, load_script, table
from PIL import Image
from torch import nn

from dme.common.errors import InputError
from dme.data import phantom
from dme.inference.scan import predict
from dme.inference.sizes import SIZES
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import PREPROCESS, build_model, set_classes
from dme.report.batch import Work
from dme.report.columns import SCAN_COLUMNS
from dme.report.compare import compare
from dme.report.inputs import list_items


class Bright(nn.Module):
    """A network that calls fluid what is brighter than 100, more surely the brighter; or to its right."""

    def __init__(self, classes=("background", "fluid"), shift=0):
        super().__init__()
        self.classes, self.shift = list(classes), shift
        self.preprocess = PREPROCESS | {"size": "native"}
        self.weights_name, self.weights_sha256, self.arch = (
            "bright.pth",
            "ab" * 32,
            {"backbone": "unet"},
        )
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        grey = x[:, :1] * PREPROCESS["std"][0] + PREPROCESS["mean"][0]
        fluid = (grey.roll(self.shift, -1) - 100) / 20
        return torch.cat(
            [fluid if name == "fluid" else torch.zeros_like(fluid) for name in self.classes], 1
        )


def picture(height=40, width=60, seed=0) -> np.ndarray:
    """Grey below 90, with a bright block of 5 x 8 px."""
    image = np.random.default_rng(seed).integers(0, 90, (height, width)).astype(np.uint8)
    image[10:15, 20:28] = 160
    return image


# ---- dme.predict ----------------------------------------------------------------------------------------


def test_mask_and_probability():
    image = picture()
    mask, probability = predict(Bright(), image)
    assert (mask.dtype, probability.dtype, mask.shape) == (np.uint8, np.float32, image.shape)
    expected = 1 / (1 + np.exp(-(image.astype(float) - 100) / 20))
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    np.testing.assert_array_equal(mask, image > 100)


def test_fluid_is_found_by_its_name():
    image = picture()
    mask, _ = predict(Bright(["fluid", "background"]), image)
    np.testing.assert_array_equal(mask, image > 100)


def test_threshold_and_mirror():
    image = picture()
    loose, probability = predict(Bright(), image, threshold=0.2)
    np.testing.assert_array_equal(loose, probability > 0.2)
    assert loose.sum() > predict(Bright(), image)[0].sum()
    network = Bright(shift=3)
    straight = predict(network, image)[1]
    mirrored = predict(network, image[:, ::-1])[1][:, ::-1]
    assert np.abs(straight - mirrored).max() > 0.1
    np.testing.assert_allclose(
        predict(network, image, tta=True)[1], (straight + mirrored) / 2, atol=1e-6
    )


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: np.repeat(a[..., None], 3, 2),
        lambda a: np.dstack([a, a, a, np.full_like(a, 7)]),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.int64),
        lambda a: (a.astype(np.uint16) * 257).clip(0, 65535),
    ],
    ids=["colour", "alpha", "float", "int64", "16 bit"],
)
def test_every_form_of_an_image(convert):
    image = picture()
    image[0, 0] = 255
    np.testing.assert_array_equal(predict(Bright(), convert(image))[0], image > 100)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((4, 5), np.nan), "NaN"),
        (np.random.default_rng(0).random((4, 5)), "0..1 times 255"),
        (np.full((4, 5), 300.0), "expected grey values 0..255"),
        (np.zeros((2, 4, 5, 3), np.uint8), "expected .height, width."),
        (np.zeros((0, 5), np.uint8), "shape .0, 5."),
        (np.zeros((4, 5), np.int16) - 1, "expected 8- or 16-bit"),
    ],
)
def test_images_that_are_none(image, message):
    with pytest.raises(InputError, match=f"image: .*{message}"):
        predict(Bright(), image)


def test_networks_that_cannot():
    with pytest.raises(InputError, match="finds background, vessel, expected .* class fluid"):
        predict(Bright(["background", "vessel"]), picture())
    for size in (None, "1024"):
        network = Bright()
        network.preprocess = PREPROCESS | ({"size": size} if size else {})
        with pytest.raises(InputError, match="does not say at which size"):
            predict(network, picture())


@pytest.mark.parametrize("size", SIZES)
def test_one_pixel_and_a_real_network(size, tmp_path):
    torch.manual_seed(0)
    model = build_model(head="psp", width=2)
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": size}
    save_model(model, tmp_path / "m.pth")
    mask, probability = predict(load_model(tmp_path / "m.pth"), np.full((1, 1), 90, np.uint8))
    assert mask.shape == (1, 1) and 0 < probability[0, 0] < 1


# ---- inputs ---------------------------------------------------------------------------------------------


def opened(*inputs, volume=False):
    items, faults = list_items([str(i) for i in inputs], volume)
    taken: set[str] = set()
    return [scan for item in items for scan in item.scans(taken)], faults


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


def places(scans):
    return [(scan.name, scan.volume, scan.position) for scan in scans]


def test_a_folder_is_a_list_of_scans_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "x.bmp", ".hidden.png"):
        save(tmp_path / name, picture())
    save(tmp_path / "fluid" / "2.png", picture())
    (tmp_path / "notes.txt").write_text("")
    items, _ = list_items([str(tmp_path)])
    assert places(items[0].scans(set())) == [
        ("2", None, None),
        ("10", None, None),
        ("x", None, None),
    ]
    assert "1 files of other kinds left out: notes.txt" in items[0].notes[0]
    scans, _ = opened(tmp_path, volume=True)
    label = tmp_path.name
    assert places(scans) == [(f"{label}_bscan{i:03d}", label, i) for i in range(3)]


def test_names_that_tell_volumes(tmp_path):
    for i in (0, 1, 12):
        save(tmp_path / "eye" / f"bscan_{i:02d}.png", picture())
    assert [scan.position for scan in opened(tmp_path / "eye")[0]] == [0, 1, 12]
    assert {scan.volume for scan in opened(tmp_path / "eye")[0]} == {"eye"}
    assert (
        opened(*sorted((tmp_path / "eye").iterdir()))[0][2].volume == "eye"
    )  # a shell's eye/*.png
    for subject in (1, 2):
        for i in (3, 4):
            save(tmp_path / "set" / "images" / f"subject{subject}_{i}.png", picture())
    expected = [("set_subject1", 3), ("set_subject1", 4), ("set_subject2", 3), ("set_subject2", 4)]
    assert [(s.volume, s.position) for s in opened(tmp_path / "set")[0]] == expected
    save(tmp_path / "eye" / "bscan_1.png", picture())
    with pytest.raises(InputError, match="bscan_01.png.* are both B-scan 1 of volume eye"):
        opened(tmp_path / "eye")


def test_index_gives_volumes_and_scale(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / "images" / f"{name}.png", picture())
    lines = [
        "name,subject,bscan,axial_um,lateral_um,spacing_um",
        "b.png,4,7,3.9,11,120",
        "a,4,8,3.9,11,120",
    ]
    (tmp_path / "index.csv").write_text("\n".join(lines))
    items, _ = list_items([str(tmp_path)])
    scans = items[0].scans(set())
    volume = f"{tmp_path.name}_subject04"
    assert places(scans) == [(f"{volume}_bscan008", volume, 8), (f"{volume}_bscan007", volume, 7)]
    assert {scan.scale_um for scan in scans} == {(3.9, 11.0, 120.0)}
    assert "1 images without a line" in items[0].notes[0]


def test_arrays(tmp_path):
    stack = np.stack([picture(seed=i) for i in range(3)])
    grey, colour = picture(seed=5), np.repeat(picture(seed=6)[..., None], 3, 2)
    arrays = {"v": stack, "g": grey, "c": colour, "one": grey[..., None]}
    files = [save(tmp_path / f"{name}.npy", array) for name, array in arrays.items()]
    scans, _ = opened(*files)
    assert places(scans) == [
        ("v_bscan000", "v", 0),
        ("v_bscan001", "v", 1),
        ("v_bscan002", "v", 2),
    ] + [
        ("g", None, None),
        ("c", None, None),
        ("one", None, None),
    ]
    for scan, pixels in zip(scans, [*stack, grey, colour[..., 0], grey], strict=True):
        np.testing.assert_array_equal(scan.read(), pixels)


def test_16_bit_sets_have_one_white(tmp_path):
    dark, bright = np.full((4, 5), 200, np.uint16), np.full((4, 5), 4000, np.uint16)
    for folder in ("one", "two"):
        save(tmp_path / folder / "dark.png", dark)
    save(tmp_path / "two" / "bright.tif", bright)
    save(tmp_path / "v.npy", np.stack([dark, bright]))
    assert opened(tmp_path / "one")[0][0].read()[0, 0] == 200
    scaled = round(200 * 255 / 4095)
    assert {s.name: s.read()[0, 0] for s in opened(tmp_path / "two")[0]}["dark"] == scaled
    assert opened(tmp_path / "v.npy")[0][0].read()[0, 0] == scaled
    # a file that is no image is not what decides
    (tmp_path / "two" / "broken.png").write_bytes(b"no")
    assert {s.name: s for s in opened(tmp_path / "two")[0]}["dark"].read()[0, 0] == scaled


def test_mat_volume(tmp_path):
    images = np.stack([picture(seed=i) for i in range(5)], axis=2)
    write_subject_mat(tmp_path / "Subject_03.mat", images, np.full(images.shape, np.nan))
    items, _ = list_items([str(tmp_path / "Subject_03.mat")])
    scans = items[0].scans(set())
    assert [scan.position for scan in scans] == [0, 1, 2, 3, 4] and scans[0].volume == "Subject_03"
    np.testing.assert_array_equal(scans[3].read(), images[:, :, 3])
    assert scans[0].scale_um is None and "scale unknown" in items[0].notes[0]


def test_same_names_stay_apart(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / folder / "Eye.png", picture())
        save(tmp_path / folder / "eye.bmp", picture())
        save(tmp_path / folder / "v.npy", np.stack([picture()] * 2))
    scans, _ = opened(tmp_path / "a", tmp_path / "b")
    names = [scan.name.lower() for scan in scans]
    assert len(set(names)) == len(names) == 8
    assert {scan.volume for scan in scans} == {None, "v", "v_2"}


def test_inputs_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "scan.dcm").write_text("")
    np.savez(tmp_path / "z.npz", a=picture())
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    save(tmp_path / "good.png", picture())
    inputs = [tmp_path / name for name in ("empty", "nowhere", "scan.dcm", "good.png")]
    scans, faults = opened(*inputs)
    assert len(scans) == 1
    reasons = ["no scans, it holds nothing", "no such file or folder", "unknown kind of file"]
    for (path, text), expected, reason in zip(faults.items(), inputs, reasons, strict=False):
        assert path == str(expected) and reason in text
    with pytest.raises(InputError, match="an archive of arrays, expected numbers"):
        opened(tmp_path / "z.npy")


# ---- the script -----------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, tmp_path):
    """script(*arguments) runs it with the network Bright; returns the exit code and --out."""
    module = load_script("predict")
    monkeypatch.setattr(module, "load_model", lambda name, device: Bright())

    def call(*arguments, out=tmp_path / "out") -> tuple[int, Path]:
        return exit_code(module, "--out", out, *arguments), out

    call.module = module
    return call


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


# ---- two visits -----------------------------------------------------------------------------------------


@pytest.fixture
def visits(script, tmp_path):
    """Two results: 40 px of fluid in each of 3 B-scans, later none in the first and a part in the second."""
    before = np.stack([picture(width=600)] * 3)
    after = before.copy()
    after[0, 10:15, 20:28] = 50
    after[1, 10:15, 20:24] = 50
    for name, stack in (("a", before), ("b", after)):
        script(save(tmp_path / f"{name}.npy", stack), "--scale", "4,10,120", out=tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def test_comparison_by_hand(script, visits, tmp_path, capsys):
    code, out = script("--compare", *visits, out=tmp_path / "c")
    assert code == 0
    rows = {(row["level"], row["place"]): row for row in table(out / "comparison.csv")}
    assert len(rows) == 3 + 9 + 1
    area, volume = 40 * 4 * 10 / 1e6, 40 * 4 * 10 * 120 / 1e9
    for place, a, b in [("0", 1, 0), ("1", 1, 0.5), ("2", 1, 1)]:
        row = rows["bscan", place]
        assert float(row["area_a_mm2"]) == pytest.approx(a * area)
        assert float(row["area_b_mm2"]) == pytest.approx(b * area)
        assert float(row["area_change_mm2"]) == pytest.approx((b - a) * area)
        assert row["volume_a_mm3"] == ""
    total = rows["total", "all"]
    assert float(total["volume_change_mm3"]) == pytest.approx(-1.5 * volume)
    assert float(total["change_percent"]) == pytest.approx(-50)
    assert float(rows["sector", "outer_left"]["volume_change_mm3"]) == pytest.approx(-1.5 * volume)
    center = rows["sector", "center"]
    assert (float(center["volume_change_mm3"]), center["change_percent"]) == (0, "")
    assert "-50.0" in capsys.readouterr().out


def test_comparisons_that_would_mislead(script, visits, tmp_path, capsys):
    a, b = visits
    stack, good = tmp_path / "a.npy", ["--scale", "4,10,120"]
    for name, arguments, text in [
        ("scale", [stack, "--scale", "4,11,120"], "lateral_um is 10.0 in volume a and 11.0 in a"),
        (
            "threshold",
            [stack, *good, "--threshold", "0.3"],
            "threshold is 0.5 .* and 0.3 .*predict both",
        ),
        ("eye", [stack, *good, "--eye", "OD"], "eye is None in volume a and OD"),
        ("flat", [stack], "axial_um is 4.0 in volume a and None"),
        ("single", [save(tmp_path / "s.png", picture())], "holds no volume"),
    ]:
        script(*arguments, out=tmp_path / name)
        capsys.readouterr()
        code, _ = script("--compare", a, tmp_path / name, out=tmp_path / "c")
        stderr = capsys.readouterr().err
        assert code == 2 and re.search(text, stderr), stderr
    flat = tmp_path / "flat"
    assert script("--compare", flat, flat, out=tmp_path / "c")[0] == 2
    assert "no ETDRS sectors: its scale is unknown" in capsys.readouterr().err
    (b / "measurements.json").write_text('{"finished": false}')
    assert script("--compare", a, b, out=tmp_path / "c")[0] == 2
    assert "holds no results" in capsys.readouterr().err
    assert not (tmp_path / "c" / "comparison.csv").exists()


def test_thickness_that_one_visit_was_helped_to_is_not_compared(tmp_path):
    told = {"layers_weights_sha256": "b" * 64, "tta": False}
    for visit, settings in (
        ("a", told | {"weights_sha256": "a" * 64, "threshold": 0.5}),
        ("b", told),
    ):
        (tmp_path / visit).mkdir()
        content = {"finished": True, "settings": settings, "volumes": [], "scans": []}
        (tmp_path / visit / "measurements.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="weights_sha256 is aaa.* and None in .*b; predict both"):
        compare(tmp_path / "a", tmp_path / "b")


# ---- many scans, many processes -------------------------------------------------------------------------


def test_memory_stays_flat(tmp_path):
    """200 more scans of 0.13 MB (in all 25 MB, as much again for each step) leave no more than their rows."""
    image = picture(height=260, width=500)
    np.save(tmp_path / "one.npy", image)

    def peak_mb(count: int) -> float:
        for i in range(count):
            link = tmp_path / f"in{count}" / f"{i}.npy"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(tmp_path / "one.npy")
        items, _ = list_items([str(tmp_path / f"in{count}")])
        work = Work(tmp_path / "out", {"fluid": Bright()}, 0.5, False, None)
        fast = pytest.MonkeyPatch()
        fast.setattr("dme.report.batch.save_picture", lambda path, picture: None)
        found = torch.from_numpy(np.stack([image] * 2) / np.float32(255))
        fast.setattr("dme.report.batch.class_probabilities", lambda *_: found)
        tracemalloc.start()
        work.run(items)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        fast.undo()
        assert len(work.rows) == count
        return peak

    peak_mb(1)
    few, many = peak_mb(5), peak_mb(205)
    assert many - few < 1


def test_ranks_share_the_scans(script, tmp_path, monkeypatch):
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
    monkeypatch.setattr(script.module, "load_model", load_model)
    assert script(*inputs, out=tmp_path / "one")[0] == 1
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


def test_the_duke_set_brings_its_scale(real_data):
    items, _ = list_items([str(real_data / "chiu2015")])
    scans = items[0].scans(set())
    assert len(scans) == 110 and len({scan.volume for scan in scans}) == 10
    assert {scan.scale_um for scan in scans} == {(3.87, 11.33, 123.0)}
    assert any("3.87/11.33/123" in note for note in items[0].notes)
