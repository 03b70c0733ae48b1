"""Backbones compared: the runs asked for, sizes counted by hand, the table of made-up runs."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import EXPERIMENTS, exit_code, load_script, written_table

import dme.training.series
from dme.common.errors import InputError

UNET, SMALL = "unet-psp", "mobilenet_v3_small-lraspp"


@pytest.fixture
def script():
    return load_script("backbones")


@pytest.fixture
def call(script, tmp_path):
    return lambda *words: written_table(script, tmp_path, *words)


@pytest.fixture
def write(script, tmp_path):
    """write(network, start, split, seed, dice): a finished run, and what networks cost."""

    def write(network, start, split, seed, dice, data="a" * 64):
        backbone, head, _ = script.NETWORKS[network]
        weights = (
            tmp_path / f"pretrain-{network}" / f"best-{head}.pt" if start == "hrf" else "none"
        )
        how = f"--recipe best --iters 300 --backbone {backbone} --head {head} --weights {weights}"
        content = {
            "arguments": f"{how} --split {split} --amp auto --seed {seed}".split(),
            "data_kind": "mat",
            "data_sha256": data,
            "pooled": {"dice": [0.99, 0.1]},
            "pooled_native": {"dice": [0.98, dice]},
            "pooled_central": {"dice": [0.97, dice + 0.01]},
        }
        put(script.run_name(network, start, split, seed), content)
        row = {
            "parameters": 1_843_668,
            "multiply_adds": 4_684_387_328,
            "device": "cpu (2 threads)",
        }
        rows = {name: row | {"seconds": 0.0963 + i} for i, name in enumerate(script.NETWORKS)}
        put("costs", {"arguments": list(script.NETWORKS), "rows": rows})

    def put(name, content):
        (tmp_path / "runs").mkdir(exist_ok=True)
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps(content))

    def pretraining(network, minutes, data="c" * 64):
        backbone, head, steps = script.NETWORKS[network]
        how = f"--backbone {backbone} --heads {head} --steps {steps} --amp auto --seed 0"
        content = {"arguments": how.split(), "data_sha256": data, "training_minutes": minutes}
        put(f"pretrain-{network}", content)

    write.pretraining = pretraining
    return write


# ---- the series


def test_every_run_is_asked_for(script, call, monkeypatch, tmp_path):
    asked = {}

    def run_missing(name, runs, out, results):
        asked[name] = runs
        return {}

    monkeypatch.setattr(script.series, "run_missing", run_missing)
    with pytest.raises(InputError, match="no finished runs"):
        call("--amp", "bf16")
    networks = [
        ("unet", "psp"),
        *(("mobilenet_v2", head) for head in ("fcn", "psp", "deeplabv3")),
        *((f"mobilenet_v3_{size}", "lraspp") for size in ("large", "small")),
    ]
    steps = r"--backbone (\w+) --heads (\w+) --steps \d+ --amp bf16 --seed 0"
    texts = [" ".join(words) for words in asked["pretrain_hrf.py"].values()]
    assert [re.fullmatch(steps, text).groups() for text in texts] == networks
    assert list(asked) == ["pretrain_hrf.py", "finetune.py"]
    wanted = [
        f"--recipe best --iters 300 --backbone {backbone} --head {head} --weights {weights} "
        f"--split {split} --amp bf16 --seed {seed}"
        for seed in (0, 1)
        for split in ("paper", "subject:4/5")
        for backbone, head in networks
        for weights in ("none", tmp_path / f"pretrain-{backbone}-{head}" / f"best-{head}.pt")
    ]
    assert [" ".join(words) for words in asked["finetune.py"].values()] == wanted
    with pytest.raises(InputError, match="no finished runs"):
        call("--networks", SMALL, "--starts", "none", "--splits", "paper", "--seeds", "3")
    assert not asked["pretrain_hrf.py"] and list(asked["finetune.py"]) == [
        f"{SMALL}-none-paper-seed3"
    ]


def test_what_is_finished_is_not_run_again(script, call, monkeypatch, tmp_path):
    started = []

    def start(command) -> SimpleNamespace:
        """In place of the scripts."""
        out = Path(command[command.index("--out") + 1])
        started.append(out.name)
        out.mkdir(exist_ok=True)
        result = {
            "data_kind": "phantom",
            "data_sha256": Path(command[1]).name,
            "training_minutes": 15.0,
        }
        dice = {"dice": [0.9, len(out.name) / 100]}
        result |= {"pooled_native": dice, "pooled_central": dice}
        row = {"parameters": 1e6, "multiply_adds": 1e9, "seconds": 0.1, "device": "cpu"}
        result |= {"rows": dict.fromkeys(script.NETWORKS, row)}
        (out / "results.json").write_text(json.dumps(result))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(dme.training.series, "subprocess", SimpleNamespace(run=start))
    words = ("--networks", UNET, SMALL, "--splits", "paper", "--seeds", "0")
    first = call(*words)
    runs = [f"{name}-{start}-paper-seed0" for name in (UNET, SMALL) for start in ("none", "hrf")]
    assert started == [f"pretrain-{UNET}", f"pretrain-{SMALL}", *runs, "costs"]
    assert (
        "SYNTHETIC" in first
        and "| mobilenet_v3_small, lraspp | 1.00 | 1.00 | 100 | 15.0 | 0.4200 | 0.4100 |" in first
    )

    (tmp_path / "runs" / f"{runs[1]}.json").unlink()
    assert call(*words) == first == call(*words, "--print")
    assert started[7:] == [runs[1]]
    costs = json.loads((tmp_path / "runs" / "costs.json").read_text())
    assert costs["arguments"] == list(script.NETWORKS)


# ---- the table


def test_table(call, write):
    for seed in (0, 1):
        write(UNET, "none", "paper", seed, 0.5 + 0.1 * seed)
        write(UNET, "hrf", "paper", seed, 0.7)
    write(UNET, "hrf", "subject:4/5", 1, 0.4)
    write(SMALL, "none", "subject:4/5", 0, 0.3)
    write.pretraining(UNET, 14.96)
    lines = call("--print").splitlines()
    note, _, titles, _, unet, small = lines[:6]
    assert "over all columns" in note and "at half size on cpu (2 threads)." in note
    assert titles == (
        "| network | million parameters | GMAC | ms | min on HRF | paper, from nothing | "
        "paper, from vessels (HRF) | subject:4/5, from nothing | subject:4/5, from vessels (HRF) "
        "| seeds |"
    )
    sd = f"{np.std([0.5, 0.6], ddof=1):.4f}"
    dice = f"0.5500 ± {sd} | 0.7000 ± 0.0000 |  | 0.4000 | 0-2 |"
    assert unet == f"| unet, psp | 1.84 | 4.68 | 96 | 15.0 | {dice}"
    assert (
        small == "| mobilenet_v3_small, lraspp | 1.84 | 4.68 | 5096 |  |  |  | 0.3000 |  | 0-1 |"
    )
    # then the central columns, without the costs
    assert lines[7].startswith("The same within the central columns. Central columns: ")
    dice = f"0.5600 ± {sd} | 0.7100 ± 0.0000 |  | 0.4100 | 0-2 |"
    assert lines[-2:] == [
        f"| unet, psp | {dice}",
        "| mobilenet_v3_small, lraspp |  |  | 0.3100 |  | 0-1 |",
    ]
    assert "0.2000" not in call("--print", "--starts", "none", "--networks", UNET)


@pytest.mark.parametrize("what", ["scans", "photographs"])
def test_runs_on_other_data_are_refused(call, write, what):
    write(UNET, "none", "paper", 0, 0.1)
    write(UNET, "none", "paper", 1, 0.1, data=("b" if what == "scans" else "a") * 64)
    write.pretraining(UNET, 15)
    write.pretraining(SMALL, 15, data=("d" if what == "photographs" else "c") * 64)
    with pytest.raises(InputError, match="different data"):
        call("--print")


def test_nothing_to_print(script, tmp_path, capsys):
    assert exit_code(script, "--print", "--out", tmp_path) == 2
    assert "no finished runs" in capsys.readouterr().err


# ---- sizes


def unet_fcn_multiply_adds(width: int, pixels: int) -> int:
    """By hand: 3x3 convolutions in pairs at five depths and back, 1x1 to enlarge, head of 64."""
    w = [width * 2**i for i in range(5)]
    total = 9 * (3 * w[0] + w[0] * w[0]) * pixels
    for i in range(1, 5):
        total += 9 * (w[i - 1] * w[i] + w[i] * w[i]) * pixels // 4**i
    for i in range(4):
        total += w[i + 1] * w[i] * pixels // 4 ** (i + 1)
        total += 9 * (2 * w[i] * w[i] + w[i] * w[i]) * pixels // 4**i
    return total + 9 * w[0] * 64 * pixels + 64 * 2 * pixels


def test_sizes_against_counting_by_hand(monkeypatch):
    costs = load_script("costs")
    monkeypatch.syspath_prepend(EXPERIMENTS / "benchmarks")  # as of a script's own folder
    models = {}
    for name in ("unet-psp", "unet-fcn", SMALL):
        models[name] = costs.fluid_network(*name.split("-"))
    rows = costs.measure(models, repeats=1, turn_s=1e-9)
    assert rows["unet-psp"]["parameters"] == 1_843_668  # OpenMMLab's, at this width
    assert rows["unet-fcn"]["parameters"] == 1_840_404
    # 496 x 768 at half size, padded to multiples of 16
    assert rows["unet-fcn"]["multiply_adds"] == unet_fcn_multiply_adds(16, 256 * 384)
    assert all(row["seconds"] > 0 for row in rows.values())

    counted = []  # for every convolution: outputs times the inputs of each
    for module in models[SMALL].modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda m, _, y: counted.append(y.numel() * m.weight[0].numel())
            )
    with torch.inference_mode():
        models[SMALL](torch.zeros(1, 3, 256, 384))
    # first, 11 blocks of which one does not expand, 9 attentions, last; the head has eight, of
    # which two see what comes from below before it is enlarged, beside the skips of 64 and 32
    assert len(counted) == 1 + (3 * 11 - 1) + 2 * 9 + 1 + 8 - 2
    joins = 128 * (128 * 32 * 48 + 64 * 64 * 96) + 128 * (128 * 64 * 96 + 32 * 128 * 192)
    assert sum(counted) + joins == rows[SMALL]["multiply_adds"]
