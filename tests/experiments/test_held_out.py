"""Networks of two folds on the eyes left out: what is counted, and the tables from it."""

import json

import numpy as np
import pytest
import torch
from helpers.matfiles import write_subject_mat
from helpers.scripts import exit_code, load_script, written_table

from dme.common.errors import InputError
from dme.data.opening import open_source
from dme.inference.scan import predict
from dme.nets.checkpoint import save_model
from dme.nets.segmenter import build_model, set_classes
from dme.retina.outlines import lesion_counts, outline_counts

EYES = (1, 2)
SHAPE = (48, 64)


@pytest.fixture(scope="module")
def script():
    return load_script("held_out")


def network(seed: int):
    """A tiny network that finds some fluid in noise."""
    torch.manual_seed(seed)
    model = build_model(head="fcn", width=2)
    set_classes(model, ["background", "fluid"])
    model.preprocess = model.preprocess | {"size": "native"}
    with torch.no_grad():
        model.head.classifier.weight.mul_(40)
        model.head.classifier.bias.zero_()
    return model


@pytest.fixture
def runs(tmp_path):
    """Two eyes as .mat files with touching lesions, and a network for each that left it out."""
    generator = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for eye in EYES:
        images = generator.integers(0, 200, (*SHAPE, 3), dtype=np.uint8)
        fluid = np.full((*SHAPE, 3), np.nan)
        fluid[:, :, :2] = 0
        fluid[10:20, 10:20, 1] = 1
        fluid[10:20, 20 : 25 + eye, 1] = 2
        write_subject_mat(tmp_path / "set" / f"Subject_{eye:02}.mat", images, fluid)
    sha256 = open_source(tmp_path / "set").sha256
    for eye in EYES:
        out = tmp_path / "runs" / f"subject{eye}of2-seed0"
        out.mkdir(parents=True)
        save_model(network(eye), out / "model.pt")
        content = {
            "data_sha256": sha256,
            "scans": [f"subject{eye:02}_bscan{i:02}" for i in (0, 1)],
            "subjects": [eye, eye],
            "settings": {"tta": False},
            "command": "python experiments/finetune.py",
            "commit": "0" * 12,
        }
        (out / "results.json").write_text(json.dumps(content))
    return tmp_path / "runs"


def test_counts_are_those_of_the_networks(script, runs, tmp_path):
    words = ("--runs", runs, "--data", tmp_path / "set", "--tolerance-um", 3)
    text = written_table(script, tmp_path / "out", *words)
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [fold["subjects"] for fold in result["folds"]] == [[1, 1], [2, 2]]
    scans = {scan.name: scan for scan in open_source(tmp_path / "set").scans()}
    found_px = 0
    for fold, eye in zip(result["folds"], EYES, strict=True):
        assert fold["trained_scans"] == 2  # those of the other eye
        for i, name in enumerate(fold["scans"]):
            scan = scans[name]
            mask, probability = predict(runs / f"subject{eye}of2-seed0" / "model.pt", scan.image)
            plain = {key: np.array(values[i]) for key, values in fold["plain"].items()}
            assert plain["counts"][:, 1].sum() == mask.sum()
            assert plain["counts"][1, 1] == (mask & scan.fluid).sum()
            expected = outline_counts(scan.fluid == 1, mask, 3)
            assert plain["outlines"].tolist() == expected.tolist()
            assert plain["lesions"].tolist() == lesion_counts(scan.regions, mask).tolist()
            assert plain["lesions"][0] == (0 if i == 0 else 2)  # they touch, and are two
            assert plain["reliability"].sum(0)[:2].tolist() == [mask.size, scan.fluid.sum()]
            total = probability.sum(dtype=np.float64)
            assert plain["reliability"].sum(0)[2] == pytest.approx(total, rel=1e-4)
            found_px += int(mask.sum())
    assert found_px > 0  # else a wrong order of anything might not show

    assert "4 real scans of 2 eyes" in text and "tolerance of outlines 3 px" in text
    assert "| normalised surface distance | " in text and "| lesion F1 | " in text
    assert text.count("| 0.9 to 1.0 |") == 1
    assert (tmp_path / "out" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert written_table(script, tmp_path / "out", "--print") == text


def test_the_rule_comes_from_training_eyes_alone(script, runs, tmp_path):
    words = ("--runs", runs, "--data", tmp_path / "set")
    before = written_table(script, tmp_path / "out", *words)
    rules = [fold["rule"] for fold in json.loads(read(tmp_path))["folds"]]
    assert rules[0] != {"temperature": 1.0, "threshold": 0.5, "smallest_px": 0}

    # another truth of eye 1 changes the rule of the network trained on it, not its own
    path = tmp_path / "set" / "Subject_01.mat"
    images = np.random.default_rng(0).integers(0, 200, (*SHAPE, 3), dtype=np.uint8)
    fluid = np.full((*SHAPE, 3), np.nan)
    fluid[:, :, :2] = 0
    fluid[30:46, 5:60, 1] = 1
    write_subject_mat(path, images, fluid)
    for made in runs.glob("*/results.json"):
        content = json.loads(made.read_text())
        content["data_sha256"] = open_source(tmp_path / "set").sha256
        made.write_text(json.dumps(content))
    assert written_table(script, tmp_path / "out", *words) != before
    again = [fold["rule"] for fold in json.loads(read(tmp_path))["folds"]]
    assert again[0] == rules[0] and again[1] != rules[1]


def read(tmp_path) -> str:
    return (tmp_path / "out" / "results.json").read_text()


def test_what_cannot_be_measured_is_refused(script, runs, tmp_path, capsys):
    words = ("--data", tmp_path / "set", "--out", tmp_path / "out")
    assert exit_code(script, "--runs", tmp_path, *words) == 2
    assert "no subject*of*-seed0/model.pt" in capsys.readouterr().err
    assert exit_code(script, "--print", "--out", tmp_path / "out") == 2
    assert "run without --print first" in capsys.readouterr().err
    path = runs / "subject2of2-seed0" / "results.json"
    path.write_text(path.read_text().replace("subject02", "subject01"))
    with pytest.raises(InputError, match="held out by more than one run"):
        written_table(script, tmp_path / "out", "--runs", runs, *words[:2])
