"""The benchmarks: ways that do the same work, ratios of what took turns, and what they write."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers.scripts import EXPERIMENTS, call_main, exit_code, load_script
from helpers.tiny_training import discs, fit, networks
from torch import nn

import dme
from dme.common.errors import InputError
from dme.data.phantom import phantom_bscan
from dme.inference.scan import probabilities
from dme.inference.windows import sliding_window
from dme.nets.segmenter import build_model
from dme.training.recipe import amp_dtype
from dme.training.settings import Augment, Recipe


@pytest.fixture(scope="module")
def bench():
    return load_script("bench")


@pytest.fixture
def turns():
    return load_script("turns")


@pytest.fixture
def work():
    return load_script("work")


@pytest.fixture
def peers(work):
    return work.peers


@pytest.fixture
def parts(monkeypatch):
    """What bench.py imports when it runs, with its `work` and `peers`; turns are short."""
    monkeypatch.syspath_prepend(EXPERIMENTS / "benchmarks")
    for name in ("bench_parts", "work", "peers", "turns"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("bench_parts")
    monkeypatch.setattr(module.in_turns, "__defaults__", (0.001,))
    return module


@pytest.fixture
def steps(monkeypatch, turns):
    """A clock that only moves when a way says so."""
    now = [0.0]
    monkeypatch.setattr(turns, "clock", lambda: (lambda: now[0], "invented seconds"))

    def way(*seconds: float, result=None):
        left = list(seconds)

        def run():
            now[0] += left.pop(0)
            return result

        return run

    return way


def test_ratios_are_of_the_same_round(turns, steps):
    # first call and measuring call, then the rounds; the machine is ten times slower in the second
    ours = steps(9, 1, 1, 10, 2)
    theirs = steps(9, 1, 3, 50, 2)
    rows = turns.in_turns({"ours": ours, "theirs": theirs}, repeats=3, turn_s=0.5)
    assert rows["ours"]["ratio"] == rows["ours"]["ratio_min"] == rows["ours"]["ratio_max"] == 1
    row = rows["theirs"]  # 3, 5 and 1 times as long
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (3, 1, 5)
    assert (row["median_s"], row["min_s"], row["max_s"]) == (3, 2, 50)


def test_a_short_way_is_called_until_its_turn_is_over(turns, steps):
    short, long = steps(1, 0.25, *[0.25, 0.75] * 4), steps(1, 4, 4, 4)
    rows = turns.in_turns({"short": short, "long": long}, repeats=2, turn_s=1)
    assert (rows["short"]["calls_per_turn"], rows["long"]["calls_per_turn"]) == (4, 1)
    assert rows["short"]["median_s"] == 0.5  # the mean of a turn's calls
    assert rows["long"]["ratio"] == 8


def test_phases_are_medians_over_the_calls(turns, steps):
    seen = iter([9, 9, 1, 2, 6])
    inner = steps(1, 1, 1, 1, 1)

    def way():
        inner()
        laps = turns.stopwatch()
        laps.marks = [("", 0.0), ("forward", next(seen))]
        return laps

    rows = turns.in_turns({"way": way}, repeats=3, turn_s=1)
    assert rows["way"]["phases_s"] == {"forward": 2}


def test_laps(turns, monkeypatch):
    times = iter([10.0, 11.0, 14.0])
    monkeypatch.setattr(turns, "clock", lambda: (lambda: next(times), "invented seconds"))
    laps = turns.stopwatch()
    laps.lap("batch")
    laps.lap("forward")
    assert laps.seconds() == {"batch": 1.0, "forward": 3.0}


def test_share_of_the_limit(turns, capsys):
    rows = {"dme, float32": {"median_s": 2.0}, "dme, bfloat16": {"median_s": 1.0}}
    turns.report_limits(
        80, rows, {"copy_bytes": 5e9, "float32_flop": 160.0, "bfloat16_flop": 320.0}
    )
    assert [row["of_limit"] for row in rows.values()] == [0.25, 0.25]
    assert " 25 % dme, bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [2, 9])
def test_ways_to_count_agree(work, classes):
    ways = work.confusion_ways(classes, (2, 30, 40), torchmetrics=False)
    ours, plain = (way() for way in ways.values())
    assert torch.equal(ours, plain)
    assert 2000 < ours.sum() < 2400  # some of the 2400 pixels are ignored


@pytest.mark.parametrize("classes", [2, 9])
def test_torchmetrics_counts_the_same(work, classes):
    pytest.importorskip(
        "torchmetrics", reason="torchmetrics is not installed: pip install -e '.[bench]'"
    )
    ways = work.confusion_ways(classes, (2, 30, 40), torchmetrics=True)
    first, *others = [way() for way in ways.values()]
    assert len(others) == 2 and all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("head", ["psp", "fcn", "deeplabv3"])
@pytest.mark.parametrize("training", [True, False])
def test_plain_networks_are_the_same_functions(peers, head, training):
    torch.manual_seed(0)
    model = (
        build_model(head=head, width=4)
        .double()
        .train(training)
        .to(memory_format=torch.channels_last)
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    plain = peers.plain(model)
    assert (
        type(plain.backbone) is peers.PlainUNet and type(model.backbone) is dme.nets.segmenter.UNet
    )
    assert plain.backbone.encoder[1][0].conv.weight.is_contiguous()
    x = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    for ours, theirs in zip(model.forward_with_aux(x), plain.forward_with_aux(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_step_is_one_of_training(work, tmp_path, amp):
    model, data, augment = networks("fcn")["fcn"], discs(), Augment(crop=32, flip=True)
    dtype = amp_dtype(amp, work.DEVICE)
    lesson = work.Lesson(data, augment, Recipe(iters=2, l2=0.0))
    step = work.Step(model, lesson, torch.channels_last, dtype)
    before = model.head.classifier.weight.clone()
    phases = [step() for _ in range(2)]
    trained = fit(tmp_path, {"fcn": model}, data, augment, iters=2, schedule="constant", amp=amp)[
        "fcn"
    ]
    assert not torch.allclose(trained.head.classifier.weight, before, atol=1e-4)
    for name, value in step.model.state_dict().items():
        torch.testing.assert_close(
            value, trained.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name
        )
    assert list(phases[0].seconds()) == [
        "batch",
        "forward",
        "loss",
        "counts",
        "backward",
        "optimiser",
    ]


def test_monai_slides_over_the_same_windows(peers):
    pytest.importorskip("monai", reason="monai is not installed: pip install -e '.[bench]'")
    torch.manual_seed(0)
    model = build_model(width=2).eval()
    nn.init.normal_(model.head.classifier.weight)
    x = torch.randn(1, 3, 512, 512)
    with torch.inference_mode():
        ours, theirs = sliding_window(model, x), peers.monai_window(model, x)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_onnxruntime_gives_the_same_probabilities(peers, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"{package} is not installed: pip install -e '.[bench]'"
        )
    model = dme.load_model("hrf-fcn").eval()
    model.preprocess = model.preprocess | {"size": "half"}
    image = torch.from_numpy(phantom_bscan(0).image)
    found = peers.onnx_probabilities(model, tmp_path)(image)
    torch.testing.assert_close(found, probabilities(model, image), rtol=0, atol=1e-4)


def arguments(bench, monkeypatch, *words: str):
    monkeypatch.setattr("sys.argv", ["bench.py", *words])
    return bench.parse_args()


def test_which_benches(bench, monkeypatch, capsys):
    assert arguments(bench, monkeypatch).names == ["cache", "ops", "train", "infer"]
    assert arguments(bench, monkeypatch, "all").names == ["cache", "ops", "train", "infer"]
    assert arguments(bench, monkeypatch, "ops", "cache").names == ["ops", "cache"]
    assert arguments(bench, monkeypatch, "predict").names == ["predict"]  # never unasked
    with pytest.raises(SystemExit) as left:
        arguments(bench, monkeypatch, "opps")
    assert (
        left.value.code == 2
        and "unknown bench opps; choose of cache, ops" in capsys.readouterr().err
    )
    with pytest.raises(InputError, match="--repeats 0: expected 1 or more"):
        arguments(bench, monkeypatch, "--repeats", "0")


def test_what_no_step_can_be_made_with_is_refused(bench, monkeypatch, capsys):
    for option, value, least in (("--batch", "1", 2), ("--width", "-1", 1), ("--crop", "0", 1)):
        with pytest.raises(InputError, match=f"{option} {value}: expected {least} or more"):
            arguments(bench, monkeypatch, "train", option, value)
    costs = load_script("costs")
    for name in ("nonsense", "unet-psp-wide", "unet-psp-0", "unet-nonsense"):
        assert exit_code(costs, name) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_missing_peer_is_said_and_its_rows_left_out(bench, parts, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(parts.peers, "find_spec", lambda name: None)
    ways, losses = parts.work.confusion_ways, parts.work.loss_ways
    monkeypatch.setattr(
        parts.work, "confusion_ways", lambda c, shape, peer: ways(c, (1, 16, 16), peer)
    )
    monkeypatch.setattr(
        parts.work, "loss_ways", lambda shape, peer: losses((2, shape[1], 16, 16), peer)
    )
    call_main(bench, "ops", "--repeats", 2, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "without torchmetrics, whose rows are left out; install with: " in said
    written = json.loads((tmp_path / "ops.json").read_text())
    assert list(written["2 classes"]) == ["dme.confusion_matrix", "argmax and bincount"]
    assert list(written["CE + Dice, 9 classes"]) == ["dme.losses.ce_dice", "PyTorch operations"]
    assert list(written["focal loss, 2 classes"]) == ["dme.losses.focal", "PyTorch operations"]
    # told of 6 x 240 x 240 pixels, found in 2 x 16 x 16: 675 times what rounding does
    assert float(re.search(r"logits \(6, 9.* within (.+)", said)[1]) < 1e-3
    row = written["9 classes"]["argmax and bincount"]
    assert row["ratio_min"] <= row["ratio"] <= row["ratio_max"] and row["calls_per_turn"] >= 1
    assert {"command", "commit", "versions", "device", "cpu_count", "clock"} <= written.keys()
    assert f"{row['ratio']:8.2f}" in said  # the ratio is the first column


def test_other_programs_results_are_left_alone(bench, parts, capsys, tmp_path):
    (tmp_path / "cache.json").write_text("mine")
    assert exit_code(bench, "ops", "cache", "--out", tmp_path) == 2
    assert "holds cache.json, which no run of dme left there" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("mine")
    assert exit_code(load_script("costs"), "unet-fcn", "--out", tmp_path) == 2
    assert "holds results.json, which no run of dme left there" in capsys.readouterr().err
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cache.json", "results.json"]


def test_networks_that_differ_are_found_out(work):
    ways = {
        "ours": lambda: torch.zeros(3),
        "same": lambda: torch.zeros(3),
        "other": lambda: torch.tensor([0, 0, -0.5]),
    }
    assert work.largest_difference(ways) == 0.5


def test_cache_bench_reads_the_same_scans(bench, parts, tmp_path):
    call_main(bench, "cache", "--repeats", 1, "--data", scans(tmp_path), "--out", tmp_path)
    written = json.loads((tmp_path / "cache.json").read_text())
    assert written["scans"] == 2 and written["png_files"] == "the source's own"
    assert list(written["rows"]) == ["dme, from the cache", "Pillow, from PNG files"]


def scans(folder: Path) -> Path:
    """Two B-scans with masks as PNG files."""
    from PIL import Image

    for seed in range(2):
        scan = phantom_bscan(seed, 64, 96, fluid=True)
        for name, pixels in (("images", scan.image), ("fluid", scan.fluid * 255)):
            (folder / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "data" / name / f"{seed}.png")
    return folder / "data"


def test_what_a_gpu_is_measured_by_runs_on_a_cpu_too(parts, monkeypatch, capsys):
    """Small, once: every part of gpu.py gives its rows."""
    gpu = importlib.import_module("gpu_parts")
    monkeypatch.setattr(gpu, "CONFUSION_SHAPES", {2: (1, 16, 16)})
    monkeypatch.setattr(gpu, "LOSS_SHAPES", ((2, 2, 16, 16),))
    monkeypatch.setattr(gpu, "BATCHES", (2,))
    monkeypatch.setattr(gpu, "CROP", 32)
    monkeypatch.setattr(gpu, "CROPS", 1)
    monkeypatch.setattr(gpu, "SCANS", 1)
    monkeypatch.setattr(parts.peers, "find_spec", lambda name: None)
    counts = gpu.confusion(1)["2 classes"]
    assert list(counts) == ["dme.confusion_matrix", "argmax and bincount", gpu.SMALL_LABELS]
    assert counts[gpu.SMALL_LABELS]["of_one_read"] > 0
    assert set(gpu.losses(1)) == {f"{loss} (2, 2, 16, 16)" for loss in ("CE + Dice", "focal loss")}
    assert list(gpu.crops(1)) == ["dme.sample_crops", "PyTorch operations"]
    step = gpu.training(2, 1, compiled=False)["batch 2"]
    assert len(step["rows"]) == 4 and step["flop"] > 0
    assert all(row["of_limit"] > 0 and row["phases_s"] for row in step["rows"].values())
    rows = gpu.prediction(1)["rows"]
    assert rows["dme, folded, float32"]["furthest"] < 1e-4
    assert rows["dme, folded, bfloat16"]["furthest"] < 0.25


def test_without_a_gpu_its_benchmarks_end_in_one_line(capsys):
    if torch.cuda.is_available():
        pytest.skip("here is one")
    assert exit_code(load_script("gpu")) == 2
    assert capsys.readouterr().err.startswith("error: no CUDA device here")
