"""`bench precision`: ways to run a network, what of the fluid changes, and its tables."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from helpers.scripts import EXPERIMENTS, call_main, exit_code, load_script
from torch import nn

from dme.data.phantom import phantom_bscan
from dme.nets.segmenter import build_model, normalise, set_classes


@pytest.fixture
def script():
    return load_script("precision")


@pytest.fixture
def parts(script, monkeypatch):
    """What precision.py imports when it runs; of others' runtimes none is installed."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "benchmarks")
    for name in ("precision", "precision_parts", "ways", "peers", "turns"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("precision_parts")
    monkeypatch.setattr(sys.modules["peers"], "find_spec", lambda name: None)
    monkeypatch.setattr(sys.modules["ways"], "compiled", lambda network: network)
    return module


@pytest.fixture
def model():
    """Small; half of what it calls fluid is."""
    torch.manual_seed(0)
    network = build_model(width=2).eval()
    set_classes(network, ["background", "fluid"])
    nn.init.normal_(network.head.classifier.weight)
    network.preprocess = network.preprocess | {"size": "half"}
    scan = torch.tensor(phantom_bscan(0, 64, 96, fluid=True).image)[None]
    with torch.no_grad():
        logits = network(normalise(scan, network.preprocess))[0]
        network.head.classifier.bias[1] -= (logits[1] - logits[0]).median()
    network.weights_name = "tiny.pt"
    network.weights_sha256 = "ab" * 32
    return network


def test_every_way_runs_the_same_network(parts, model):
    ways = sys.modules["ways"]
    x = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        everything = ways.ways_of(model, [x])
        expected = model(x)
        for name, way in everything.items():
            logits = way.run(x.expand(way.batch, -1, -1, -1))
            tolerance = 0.1 if "bfloat16" in name else 1e-4
            assert logits.dtype == torch.float32, name
            torch.testing.assert_close(logits[:1], expected, rtol=0, atol=tolerance, msg=name)
        assert next(iter(everything)) == ways.REFERENCE
        assert {way.batch for way in everything.values()} == {1, ways.BATCH}
        # a word chooses, the reference stays
        assert list(ways.ways_of(model, [x], "nothing folded")) == [
            ways.REFERENCE,
            "dme as loaded, nothing folded",
            "dme, float32, 4 scans at once",
        ]


def test_a_library_that_cannot_run_the_network_is_left_out(parts, model, monkeypatch, capsys):
    ways = sys.modules["ways"]

    def failing(network):
        raise RuntimeError("no kernel for it")

    monkeypatch.setattr(ways, "compiled", failing)
    with torch.inference_mode():
        names = list(ways.ways_of(model, [torch.randn(1, 3, 32, 48)], "torch.compile"))
    assert names == [ways.REFERENCE, "dme, float32, 4 scans at once"]
    printed = capsys.readouterr().out
    assert "torch.compile, float32 cannot run this network and is left out: no kernel" in printed


def test_changes_by_hand(parts):
    # rows truth, columns found; three scans of 100 px, the second without fluid
    reference = np.array([[[80, 5], [5, 10]], [[100, 0], [0, 0]], [[60, 10], [0, 30]]])
    found = reference.copy()
    found[1] = [[96, 4], [0, 0]]
    found[2] = [[61, 9], [0, 30]]
    changed = parts.changes(found, reference)
    assert changed["dice"] == pytest.approx(80 / (45 + 15 + 4 + 39))
    assert changed["dice_change"] == pytest.approx(80 / 103 - 80 / 100)
    assert (changed["largest_area_change_px"], changed["presence_changes"]) == (4, 1)
    assert 0.9 < changed["icc"] < 0.999
    same = parts.changes(reference, reference)
    assert (same["dice_change"], same["icc"]) == (0, 1)


def data(folder, shapes):
    """B-scans with fluid masks, as PNG files."""
    from PIL import Image

    for seed, shape in enumerate(shapes):
        scan = phantom_bscan(seed, *shape, fluid=True)
        for name, pixels in (("images", scan.image), ("fluid", scan.fluid * 255)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{seed}.png")
    return folder


def test_what_it_writes_and_prints(script, parts, model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(parts, "load_model", lambda name: model)
    folder = data(tmp_path / "scans", [(64, 96)] * 2)
    words = ("--data", folder, "--ways", "dme", "--repeats", 1, "--out", tmp_path / "out")
    call_main(script, *words)
    record = json.loads((tmp_path / "out/precision.json").read_text())
    assert {"command", "commit", "data_sha256", "weights_sha256", "threads"} <= record.keys()
    assert record["scans"] == record["volume_scans"] == 2
    row = record["ways"]["dme, bfloat16"]
    assert set(row["phases_s"]) == {"entry", "network", "mask"}
    assert 0.99 < row["icc"] < 1
    assert record["ways"]["dme, float32"]["dice_change"] == 0
    assert record["ways"]["dme, bfloat16, 4 scans at once"]["icc"] == row["icc"]

    # the same table again
    table = capsys.readouterr().out.split("| way |")[1]
    call_main(script, "--print", "--out", tmp_path / "out")
    assert capsys.readouterr().out.split("| way |")[1] == table


def test_a_way_that_changes_fluid_does_not_pass(script, tmp_path):
    row = {
        "ratio": 0.5,
        "phases_s": {"entry": 0.25, "network": 3.05, "mask": 0.5},
        "warm_up_s": 0.1,
        "dice_change": -0.002,
        "icc": 0.9991,
    }
    ways = {
        "good": row,
        "other fluid": row | {"dice_change": 0.0021, "ratio": 0.4},
        "other areas": row | {"icc": 0.9989, "ratio": 0.3},
        "no fluid": row | {"icc": None, "ratio": 0.6},
    }
    layers = {"data": "eyes", "scans": 3, "mean_px": 0.01, "p95_px": 0.02, "largest_px": 0.06}
    content = {"ways": ways, "volume_scans": 61, "layers": {"sets": [layers]}}
    (tmp_path / "precision.json").write_text(json.dumps(content))
    lines = script.markdown(tmp_path).splitlines()
    assert lines[2].startswith("| other areas |") and lines[2].endswith("| no |")
    assert lines[3].startswith("| other fluid |") and lines[3].endswith("| no |")
    assert lines[4] == "| good | 50.0 | 0.50 | 3.0 | 3.8 | 0.1 | -0.00200 | 0.999100 | yes |"
    assert lines[5].endswith("| -0.00200 | - | no |")
    assert lines[-1] == "| eyes | 3 | 0.010 | 0.020 | 0.060 | no |"


def test_what_cannot_be_compared_is_refused(script, parts, model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(parts, "load_model", lambda name: model)
    folder = data(tmp_path / "scans", [(64, 96), (64, 80)])
    assert exit_code(script, "--data", folder, "--out", tmp_path / "out") == 2
    assert "expected one size" in capsys.readouterr().err
    assert exit_code(script, "--print", "--out", tmp_path / "none") == 2
    assert "run ./run.sh bench precision first" in capsys.readouterr().err
