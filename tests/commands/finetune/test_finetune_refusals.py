"""What a user can get wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.finetuning import make_folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--crop", 800, "--size", "512"),
            "crop 800 is larger than every scan, of at most 512 x 512 pixels: choose",
        ),
        (("--crop", 129), "crop 129 is larger than every scan, of at most 96 x 128 pixels"),
        (("--crop", -64), "crop is -64"),
        (("--weights", "hrf-pspp"), "unknown weights 'hrf-pspp'; give a file (.pth) or one of"),
        (("--weights", "nowhere.pth"), "nowhere.pth is not there; give a checkpoint file"),
        (("--weights", "none", "--width", 0), "width is 0; it must be at least 1"),
        (("--lr", 0), "lr is 0.0; expected a finite number above 0"),
        (("--lr", -1), "lr is -1.0; expected a finite number above 0"),
        (("--lr", "nan"), "lr is nan; expected a finite number above 0"),
        (("--l2", -1), "l2 is -1.0; expected a finite number at least 0"),
        (("--split", "paper"), "split paper: 0 of"),
        (("--split", "nonsense"), "unknown split 'nonsense': expected paper, random"),
        (
            ("--split", "subject:1/2"),
            "split subject:1/2: 2 folds need 2 subjects, found 1; "
            "use fewer folds or --split random",
        ),
        (("--head", "fcn"), "--head fcn does not fit the weights"),
        (("--width", 4), "--width 4 does not fit the weights"),
        (("--batch", 1), "batch 1 gives a rank one image, which the psp head pools"),
        (("--batch", 0), "batch is 0; expected a finite number at least 1"),
        (("--iters", 0), "iters is 0; expected a finite number at least 1"),
        (
            ("--data", "nowhere"),
            "no such file or folder: nowhere; give a .mat file or a folder (--data or DME_DATA)",
        ),
        (("--grader", 2), "no grader 2 in"),
        (
            ("--scale", "11.33,3.87"),
            "--scale 11.33,3.87: axial 11.33 and lateral 3.87 look swapped",
        ),
        (
            ("--scale", "0.00387,0.01133"),
            "--scale 0.00387,0.01133: these look like mm: in um they",
        ),
        (("--loss", "nonsense"), "loss 'nonsense': expected ce, dice, focal, iou, ce+dice or"),
        (("--loss", "ce+dice:1"), "loss 'ce+dice:1': expected"),
        (("--aux-weight", "nan"), "aux_weight is nan; expected a finite number at least 0"),
        (("--noise", -1), "noise is -1.0; expected a number from 0 to 10"),
        (("--shift", "nan"), "shift is nan"),
        (("--optimizer", "lion"), "optimizer is lion; expected one of sgd, adam, adamw"),
        (("--schedule", "step"), "schedule is step; expected one of poly, cosine, constant"),
        (("--ema", 1), "ema is 1.0; expected a number from 0 to 1"),
        (("--amp", "fp8"), "amp is fp8; expected one of auto, fast, off, bf16, fp16"),
        (("--seed", -1), "seed is -1; expected a number from 0 to"),
        (
            ("--unlabelled", "nowhere"),
            "--unlabelled nowhere: no such file or folder; give B-scans",
        ),
        (("--unlabelled-weight", 0), "unlabelled_weight is 0.0; expected a finite number above 0"),
        (
            ("--unlabelled-weight", 2),
            "--unlabelled-weight is 2.0, and there are no such scans: gi",
        ),
        (("--eval-every", -1), "eval_every is -1; expected a finite number at least 0"),
    ],
)
def test_wrong_arguments(fails, monkeypatch, tmp_path, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert fails(*arguments).startswith(told)


def _folder_of(*wet: int) -> Callable[[Path], Path]:
    """Makes scans of which these hold fluid."""
    return lambda root: make_folder(root, wet=wet)


def _no_masks(root: Path) -> Path:
    shutil.rmtree(make_folder(root) / "fluid")
    return root


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_no_masks, "have no fluid masks; training needs the truth"),
        (_folder_of(1), "split random leaves no validation scans out of 1"),
        (_folder_of(0, 0, 0, 0, 0, 0), "none of the 5 training scans of split random holds"),
        # of five scans, seed 0 draws scan02 for validation
        (_folder_of(0, 0, 1, 0, 0), "none of the 4 training scans of split random"),
        (_folder_of(1, 0, 0, 0, 0), "none of the 1 validation scans of split rand"),
        (lambda root: root, "no such file or folder"),
    ],
)
def test_data_that_teaches_or_tests_nothing(fails, tmp_path, make, told):
    assert told in fails("--data", make(tmp_path / "own"))


def test_unlabelled_scans_need_a_teacher_and_must_be_others(fails, folder, tmp_path):
    told = fails("--unlabelled", folder, "--ema", 0.9)
    assert told.startswith("every scan of 10 B-scans from") and "give --unlabelled scans" in told
    other = make_folder(tmp_path / "other", wet=(1,), sides=((64, 64),))
    assert "there is none: give --ema, 0.99 say" in fails("--unlabelled", other)
    (tmp_path / "empty").mkdir()
    assert "no images in" in fails("--unlabelled", tmp_path / "empty", "--ema", 0.9)


@pytest.mark.parametrize(
    "spoil", [lambda content: content[:3000], lambda content: b"no checkpoint"]
)
def test_damaged_checkpoints(fails, tiny, tmp_path, spoil):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(spoil(tiny.read_bytes()))
    told = fails("--weights", damaged)
    assert told.startswith(f"{damaged} is no torch checkpoint, or damaged or cut short")


def test_what_is_refused_leaves_an_older_run_alone(done, call, folder, tiny, tmp_path):
    out, _, _ = done
    shutil.copytree(out, tmp_path / "out")
    arguments = ("--data", folder, "--weights", tiny, "--iters", 2, "--out", tmp_path / "out")
    assert call(*arguments, "--crop", 800) == 2
    for file in out.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_a_backbone_without_shipped_weights_is_said(call, folder, tmp_path, capsys):
    out = ("--data", folder, "--out", tmp_path / "out")
    assert call(*out, "--recipe", "best", "--backbone", "mobilenet_v2") == 2
    told = capsys.readouterr().err
    assert "no weights for a mobilenet_v2 ship with dme; give --weights FILE, from" in told
    assert "./run.sh pretrain, or" in told
