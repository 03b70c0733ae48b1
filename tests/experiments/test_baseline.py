"""Table 1 end to end, and what a user can get wrong on the way."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.matfiles import duke_volume, write_subject_mat
from helpers.scripts import EXPERIMENTS
from PIL import Image

from dme.data.phantom import phantom_set
from dme.inference.protocols import run_protocol
from dme.metrics import scores, table1_measure
from dme.nets.checkpoint import save_model
from dme.nets.loading import load_model
from dme.nets.segmenter import build_model


def baseline(monkeypatch, *arguments) -> int:
    """Exit code of `python experiments/baseline.py --protocol light ARGUMENTS`."""
    monkeypatch.syspath_prepend(EXPERIMENTS)  # as Python does for a script's own folder
    monkeypatch.setattr(sys, "argv", ["baseline.py", "--protocol", "light", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXPERIMENTS / "baseline.py"), run_name="__main__")
    return end.value.code or 0


@pytest.fixture
def scans():
    return list(phantom_set(subjects=2, scans_per_subject=2, height=64, width=96, seed=3))


@pytest.fixture
def folder(tmp_path, scans) -> Path:
    """Two eyes of two scans as images/, fluid/ and index.csv."""
    root = tmp_path / "png"
    for name in ("images", "fluid"):
        (root / name).mkdir(parents=True)
    lines = ["name,subject,bscan"]
    for scan in scans:
        Image.fromarray(scan.image).save(root / "images" / f"{scan.name}.png")
        Image.fromarray(scan.fluid).save(root / "fluid" / f"{scan.name}.png")
        lines.append(f"{scan.name},{scan.subject},{scan.position}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    save_model(build_model(head="psp", width=2), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def test_table_picture_and_results_agree_with_each_other(
    monkeypatch, folder, checkpoint, tmp_path, capsys
):
    out = tmp_path / "out"
    assert baseline(monkeypatch, "--data", folder, "--weights", checkpoint, "--out", out) == 0
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    row = results["rows"][0]
    counts = np.array(row["counts_per_scan"])
    assert counts.shape == (4, 2, 2) and (counts.sum((1, 2)) == 256 * 256).all()
    assert row["table1_measure"] == pytest.approx(table1_measure(counts), abs=1e-12)
    assert row["pooled"]["dice"] == pytest.approx(
        scores(counts.sum(0))["dice"].tolist(), abs=1e-12
    )
    assert f"{row['table1_measure']:.4f}" in printed and "0.0022" in printed
    assert "protocol: light" in printed and str(folder) in printed
    picture = np.asarray(Image.open(out / "panel.png"))
    assert picture.std() > 10  # not blank


def test_mat_files_and_images_of_the_same_pixels_score_the_same(
    monkeypatch, folder, scans, checkpoint, tmp_path
):
    (tmp_path / "mat").mkdir()
    for subject in (1, 2):
        mine = [scan for scan in scans if scan.subject == subject]
        images = np.zeros((64, 96, 61), np.float64)
        fluid = np.full((64, 96, 61), np.nan)
        for scan in mine:
            images[:, :, scan.position] = scan.image
            fluid[:, :, scan.position] = scan.fluid * 7.0  # instance ids
        write_subject_mat(tmp_path / "mat" / f"Subject_{subject:02d}.mat", images, fluid)
    counts = []
    for data in (folder, tmp_path / "mat"):
        out = tmp_path / f"out-{data.name}"
        assert baseline(monkeypatch, "--data", data, "--weights", checkpoint, "--out", out) == 0
        counts.append(json.loads((out / "results.json").read_text())["rows"][0]["counts_per_scan"])
    assert counts[0] == counts[1]
    assert np.array(counts[0])[:, 1].sum() > 0  # there is fluid to score


def test_a_network_that_makes_nan_is_not_scored(monkeypatch, folder, checkpoint, tmp_path, capsys):
    model = load_model(checkpoint)
    with torch.no_grad():
        model.backbone.encoder[0][0].conv.weight.mul_(1e30)
        model.backbone.encoder[0][1].conv.weight.mul_(1e30)
    save_model(model, checkpoint)
    out = tmp_path / "out"
    assert baseline(monkeypatch, "--data", folder, "--weights", checkpoint, "--out", out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "tiny.pth makes NaN or infinity of scan" in error


@pytest.fixture
def street(tmp_path) -> Path:
    """A network of 19 classes, 1/8 of the resolution, whose classifier finds several of them."""
    torch.manual_seed(0)
    model = build_model(
        "mobilenet_v2", "psp", num_classes=19, width=0.25, head_channels=8, aux=False
    )
    torch.nn.init.normal_(model.head.classifier.weight)
    model.classes = ["road", "sidewalk", *(f"thing{i}" for i in range(17))]
    save_model(model, tmp_path / "street.pth")
    return tmp_path / "street.pth"


@pytest.mark.parametrize("named", [False, True])
def test_of_many_classes_the_one_called_fluid_or_else_class_1_is_scored(
    monkeypatch, folder, scans, street, tmp_path, capsys, named
):
    model = load_model(street)
    number = 1
    if named:
        number, model.classes[7] = 7, "fluid"
        save_model(model, street)
    out = tmp_path / "out"
    assert baseline(monkeypatch, "--data", folder, "--weights", street, "--out", out) == 0
    printed = capsys.readouterr().out
    name = "fluid" if named else "sidewalk"
    assert f"class {number} of 19 ({name}) is read as fluid" in printed and "      - " in printed
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    assert (row["published"], row["fluid_class"]) == (None, name)
    for scan, counts in zip(scans, row["counts_per_scan"], strict=True):
        image, truth = at_256(scan.image), at_256(scan.fluid)
        classes = run_protocol(model, image[None], "light")[0].argmax(0)
        assert len(classes.unique()) > 2
        for t in (0, 1):
            for p in (0, 1):
                assert counts[t][p] == ((truth == t) & ((classes == number) == p)).sum()


def at_256(pixels: np.ndarray) -> torch.Tensor:
    resized = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))


def test_backbone_chooses_the_weights_and_is_checked(
    monkeypatch, folder, street, tmp_path, capsys
):
    base = ("--data", folder, "--out", tmp_path / "out")
    for arguments, told in (
        (
            ("--backbone", "mobilenet_v2"),
            "no weights of a mobilenet_v2 are here; ./run.sh weights fetches ",
        ),
        (
            ("--backbone", "unet", "--weights", street),
            "--backbone unet does not fit the weights street.pth, whose backbone is mobilenet_v2; "
            "leave",
        ),
    ):
        assert baseline(monkeypatch, *base, *arguments) == 2
        assert told in capsys.readouterr().err


def test_without_data_the_first_line_says_synthetic(
    monkeypatch, checkpoint, tmp_path, capsys, scans
):
    monkeypatch.setattr("dme.data.phantom.phantom_set", lambda: iter(scans))
    out = tmp_path / "out"
    assert baseline(monkeypatch, "--weights", checkpoint, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed.splitlines()[0]
    assert "measured on SYNTHETIC scans" in printed


def _text_as_mat(folder, checkpoint):
    (folder / "Subject_01.mat").write_text("not a matlab file")
    return folder / "Subject_01.mat", checkpoint


def _mask_of_another_size(folder, checkpoint):
    mask = next((folder / "fluid").iterdir())
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(mask)
    return folder, checkpoint


def _mask_out_of_range(folder, checkpoint):
    mask = next((folder / "fluid").iterdir())
    Image.fromarray(np.full((64, 96), 300, np.uint16)).save(mask)
    return folder, checkpoint


def _empty_folder(folder, checkpoint):
    (folder / "nothing").mkdir()
    return folder / "nothing", checkpoint


def _truncated_checkpoint(folder, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    return folder, checkpoint


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("payload-ran"),))


def _pickle_with_code(folder, checkpoint):
    torch.save({"state_dict": Payload()}, checkpoint)
    return folder, checkpoint


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda folder, checkpoint: (folder / "no-such", checkpoint), "no-such"),
        (_empty_folder, "nothing"),
        (_text_as_mat, "Subject_01.mat"),
        (_mask_of_another_size, "(10, 10)"),
        (_mask_out_of_range, "300"),
        (_truncated_checkpoint, "cut short"),
        (_pickle_with_code, "contains code"),
        (lambda folder, checkpoint: (folder, "hrf-pspp"), "unknown weights 'hrf-pspp'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    monkeypatch, folder, checkpoint, tmp_path, capsys, spoil, told
):
    monkeypatch.chdir(tmp_path)
    data, weights = spoil(folder, checkpoint)
    out = tmp_path / "out"
    assert baseline(monkeypatch, "--data", data, "--weights", weights, "--out", out) == 2
    complaint = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")
    ]
    assert len(complaint) == 1 and told in complaint[0]
    assert (
        not out.exists()
        and not list(tmp_path.rglob("*.part"))
        and not (tmp_path / "payload-ran").exists()
    )


@pytest.mark.slow
def test_real_scans_as_images_and_as_mat_files_score_the_same(
    monkeypatch, real_data, checkpoint, tmp_path
):
    (tmp_path / "mat").mkdir()
    for subject in range(1, 11):
        path = tmp_path / "mat" / f"Subject_{subject:02d}.mat"
        write_subject_mat(path, *duke_volume(real_data / "chiu2015", subject))
    counts = []
    for data in (real_data / "chiu2015", tmp_path / "mat"):
        out = tmp_path / data.name
        assert baseline(monkeypatch, "--data", data, "--weights", checkpoint, "--out", out) == 0
        counts.append(json.loads((out / "results.json").read_text())["rows"][0]["counts_per_scan"])
    assert counts[0] == counts[1] and len(counts[0]) == 110
