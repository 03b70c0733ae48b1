"""Interrupted and repeated runs."""

import shutil
from dataclasses import replace

import pytest
import torch
from helpers.finetuning import RUN, make_checkpoint

from dme.common.folders import owned
from dme.nets.loading import load_model
from dme.training import fine_tuning

SCORED = ("pooled", "per_scan", "history", "scans", "counts_per_scan")
SCORED += ("split", "start", "settings")


def scored(results: dict) -> dict:
    return {key: results[key] for key in SCORED}


def test_an_interrupted_run_ends_as_if_it_had_not_been(finetune, monkeypatch, tmp_path):
    train = fine_tuning.train

    def saving_often(models, data, augment, recipe, *rest):
        return train(models, data, augment, replace(recipe, save_every=2), *rest)

    monkeypatch.setattr(fine_tuning, "train", saving_often)
    arguments = ("--iters", 4, "--flip", "--ema", 0.5)
    whole = finetune(*arguments)
    weights = load_model(tmp_path / "out" / "model.pt").state_dict()
    shutil.rmtree(tmp_path / "out")

    def interrupt(validate, models):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Validation, "__call__", interrupt)
        finetune(*arguments, code=130)
    assert torch.load(tmp_path / "out" / "last.pt", weights_only=True)["step"] == 2
    assert not (tmp_path / "out" / "results.json").exists()
    assert scored(finetune(*arguments, "--resume")) == scored(whole)
    again = load_model(tmp_path / "out" / "model.pt").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.items())


def test_resuming_a_complete_run_reports_it_again(done, finetune, tmp_path):
    out, results, _ = done
    shutil.copytree(out, tmp_path / "out")
    for name in ("results.json", "model.pt", "figure6.png"):
        (tmp_path / "out" / name).unlink()
    again = finetune("--split", "random", "--lr", 1e-5, *RUN, "--size", "512", "--resume")
    assert scored(again) == scored(results)
    assert again["seconds_per_iteration"] == results["seconds_per_iteration"]
    assert (tmp_path / "out" / "figure6.png").read_bytes() == (out / "figure6.png").read_bytes()
    first = load_model(out / "model.pt").state_dict()
    second = load_model(tmp_path / "out" / "model.pt").state_dict()
    assert all(torch.equal(value, first[name]) for name, value in second.items())


@pytest.mark.parametrize(
    "other", [("--seed", 1), ("--size", "native"), ("--l2", 0.1), ("--crop", 80)]
)
def test_a_run_is_not_continued_with_other_settings(
    done, call, folder, tiny, tmp_path, capsys, other
):
    out, _, _ = done
    shutil.copytree(out, tmp_path / "out")
    arguments = ("--data", folder, "--weights", tiny, "--split", "random", "--lr", 1e-5, *RUN)
    assert call(*arguments, "--out", tmp_path / "out", *other, "--resume") == 2
    assert "was made with other settings" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out" / "results.json").read_bytes() == (out / "results.json").read_bytes()


def test_a_run_is_not_continued_with_another_start(done, call, folder, tmp_path, capsys):
    """Else its scores would be reported as those of weights it never saw."""
    out, _, _ = done
    shutil.copytree(out, tmp_path / "out")
    other = make_checkpoint(tmp_path / "other.pth", seed=3)
    arguments = ("--data", folder, "--weights", other, "--split", "random", "--lr", 1e-5, *RUN)
    assert call(*arguments, "--out", tmp_path / "out", "--resume") == 2
    assert "other settings" in capsys.readouterr().err.splitlines()[-1]


# ---- the folder, and what lies in it ------------------------------------------------------------
def test_a_run_from_its_own_folders_network_never_loses_it(
    finetune, monkeypatch, tmp_path, capsys
):
    finetune()
    network = tmp_path / "out" / "model.pt"
    first = network.read_bytes()
    own = ("--weights", network)

    # it fails: the network is where it was
    finetune(*own, "--lr", 1e30, "--iters", 12, code=2)
    assert "loss is nan at step" in capsys.readouterr().err
    assert network.read_bytes() == first
    whole = finetune(*own)
    assert network.read_bytes() != first
    kept = sorted((tmp_path / "out").glob("older-*/model.pt"))
    assert first in [path.read_bytes() for path in kept]

    # stopped and resumed, it ends as if it had not been
    shutil.rmtree(tmp_path / "out")
    finetune()

    def interrupt(validate, models):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning.Validation, "__call__", interrupt)
        patch.setattr("dme.training.loop.SAVE_SECONDS", 0)
        finetune(*own, code=130)
    for _ in range(2):  # the second time it is complete, and has replaced what it started from
        again = finetune(*own, "--resume")
        for key in set(SCORED) - {"start"}:  # which names the first network's sha256
            assert again[key] == whole[key]


def test_two_runs_never_write_into_one_folder(tmp_path, call, folder, tiny, capsys):
    out = tmp_path / "busy"
    with owned(out):
        arguments = ("--data", folder, "--weights", tiny, "--crop", 64, "--iters", 2)
        assert call(*arguments, "--out", out) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: another run writes into {out}: wait for it, or choose another --out"
    assert not out.exists()


def test_other_peoples_files_are_neither_replaced_nor_removed(finetune, tmp_path, capsys):
    names = ("model.pt", "results.json", "best-2023.pt", "last.pt", "loss.png", "config.json")
    (tmp_path / "out").mkdir()
    for name in (*names, ".bigdownload.part"):
        (tmp_path / "out" / name).write_text("mine, of another project")
    finetune("--lr", 1e30, code=2)
    assert "which no run of dme left there" in capsys.readouterr().err
    assert len(list((tmp_path / "out").iterdir())) == 7
    for path in (tmp_path / "out").iterdir():
        assert path.read_text() == "mine, of another project"


@pytest.mark.parametrize(
    "content",
    [b'\xff\xfe{"step": 1}\n', b"[1]\n", b'{"step": 2}\n', b'{"step": 2, "seconds/data": "x"}\n'],
)
def test_a_damaged_log_does_not_keep_a_run_from_its_report(finetune, tmp_path, content):
    whole = finetune()
    (tmp_path / "out" / "metrics.jsonl").write_bytes(content)
    again = finetune("--resume")
    assert again["pooled"] == whole["pooled"]
    assert again["seconds_per_iteration"] is None
