"""Unlabelled scans: the mean teacher, what a step makes of it, across interruptions."""

import copy

import numpy as np
import pytest
import torch
from helpers.finetuning import make_folder
from helpers.tiny_training import (
    FULL,
    MOVING,
    discs,
    fit,
    labelled_and_not,
    networks,
    score,
    state,
    without_labels,
)
from torch.nn import functional as F

from dme.common.errors import InputError
from dme.common.tasks import TASKS
from dme.data.cache import open_cache
from dme.data.opening import open_source
from dme.inference.entry import MATCHED
from dme.nets.segmenter import normalise
from dme.training import loop
from dme.training.augment import TrainingSet, batch_indices, sample_batch
from dme.training.labelled import training_set
from dme.training.settings import Augment, Recipe
from dme.training.unlabelled import consistency, ramp, unlabelled_scans

CPU = torch.device("cpu")


def at_scans(logits: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(logits, (side, side), mode="bilinear")


def test_a_step_by_hand(tmp_path, monkeypatch):
    """The teacher of the first step is the network that training starts from, in eval mode."""
    data = discs(2)
    data.unlabelled = without_labels(2)
    teacher = networks(dropout=False)["fcn"].eval()
    x = normalise(torch.stack(data.unlabelled.images), teacher.preprocess)
    with torch.no_grad():
        believed = at_scans(teacher(x), 48).softmax(1)

    # cross-entropy of the labelled, then 1 minus the soft Dice of the others
    reference = networks(dropout=False)["fcn"].train()
    x = normalise(torch.stack(data.images), reference.preprocess)
    target = torch.stack(data.masks).long()
    decode, auxiliary = (at_scans(z, 48) for z in reference.forward_with_aux(x))
    labelled = F.cross_entropy(decode, target) + 0.4 * F.cross_entropy(auxiliary, target)
    x = normalise(torch.stack(data.unlabelled.images), reference.preprocess)
    decode, _ = reference.forward_with_aux(x)
    p = at_scans(decode, 48).softmax(1)[:, 1]
    q = believed[:, 1]
    squares = (p**2).sum() + (q**2).sum()
    (labelled + 0.7 * (squares - 2 * (p * q).sum()) / (squares + 1)).backward()

    monkeypatch.setattr(loop, "ramp", lambda share: 1.0)
    model = networks(dropout=False)["fcn"]
    recipe = dict(iters=1, lr=0.1, ema=0.9, unlabelled_weight=0.7)
    fit(tmp_path, {"fcn": model}, data, **recipe)
    trained = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        expected = parameter - 0.1 * parameter.grad
        torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-5, msg=name)
    for name, statistics in reference.named_buffers():  # of both batches, one after the other
        found = dict(model.named_buffers())[name]
        torch.testing.assert_close(found, statistics, rtol=0, atol=1e-5, msg=name)


def test_how_far_two_networks_are_apart():
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 5, 7)
    p, q = (torch.randn(shape, generator=generator).softmax(1) for _ in range(2))
    known = torch.ones(2, 5, 7, dtype=torch.bool)
    known[1, :, :2] = False
    counting = known.numpy()
    apart = []
    for label in (1, 2):  # background does not count
        mine, theirs = (each[:, label].numpy()[counting].astype(float) for each in (p, q))
        apart.append(((mine - theirs) ** 2).sum() / (mine @ mine + theirs @ theirs + 1))
    assert consistency(p, q, known).item() == pytest.approx(np.mean(apart), rel=1e-5)
    assert consistency(p, p, known) == 0
    elsewhere = p.clone()
    elsewhere[1, :, :, :2] = q[1, :, :, :2]
    assert consistency(p, elsewhere, known) == 0

    # found by one alone: as far apart as can be, but for the 1 that keeps it finite
    fluid = torch.zeros(1, 2, 10, 10)
    fluid[:, 1] = 1
    none = fluid.flip(1)
    assert consistency(
        fluid, none, torch.ones(1, 10, 10, dtype=torch.bool)
    ).item() == pytest.approx(100 / 101)


def test_the_weight_rises_over_half_of_the_run():
    assert [round(ramp(share), 4) for share in (0, 0.25, 0.5, 1)] == [0.0067, 0.2865, 1, 1]


def inputs_of_a_run(out, monkeypatch, data: TrainingSet, **recipe) -> dict[bool, list]:
    """What the network got while it learnt (True), and the teacher (False)."""
    models = networks("psp")
    seen: dict[bool, list] = {True: [], False: []}

    def keep(module, arguments):
        seen[module.training].append(arguments[0].clone())

    models["psp"].backbone.register_forward_pre_hook(keep)
    recipe = dict(iters=2, accumulate=2, ema=0.9, lr=0.05) | recipe
    fit(out, models, data, MOVING, **recipe)
    return seen


def test_the_teacher_sees_the_same_samples_with_their_own_grey_values(tmp_path, monkeypatch):
    data = labelled_and_not()
    seen = inputs_of_a_run(tmp_path / "with", monkeypatch, data)
    preprocess = networks("psp")["psp"].preprocess
    geometry = Augment(crop=32, flip=True, rotate=20)
    assert MOVING.geometry == geometry
    for step in (0, 1):
        for part in (0, 1):
            draw = 2 * step + part
            student = seen[True][4 * step + 2 + part]
            teacher = seen[False][2 * step + part]
            chosen = batch_indices(3, 2, draw, 0)
            for x, augment in ((student, MOVING), (teacher, geometry)):
                images, _ = sample_batch(data.unlabelled, chosen, augment, 0, draw, 2)
                assert torch.equal(x, normalise(images, preprocess))
            assert not torch.equal(student, teacher)


def test_labelled_batches_and_their_dropout_stay(tmp_path, monkeypatch):
    """Their inputs are the same at every step; the loss until the unlabelled changed a weight."""
    plain = inputs_of_a_run(tmp_path / "plain", monkeypatch, discs())
    seen = inputs_of_a_run(tmp_path / "with", monkeypatch, labelled_and_not())
    for step, part in np.ndindex(2, 2):
        assert torch.equal(seen[True][4 * step + part], plain[True][2 * step + part])
    losses = []
    for data in (discs(), labelled_and_not()):
        out = tmp_path / f"loss{len(losses)}"
        fit(out, networks("psp"), data, MOVING, iters=1, accumulate=2, ema=0.9)
        losses.append((out / "metrics.jsonl").read_text().split("train/loss")[1].split(",")[0])
    assert losses[0] == losses[1]


def test_unlabelled_scans_change_what_is_learnt_and_a_run_is_resumed(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    fit(whole, data=labelled_and_not(), augment=MOVING, **FULL)
    plain = tmp_path / "plain"
    fit(plain, augment=MOVING, **FULL)
    name = "model models.fcn.head.classifier.weight"
    assert not torch.equal(state(whole)[name], state(plain)[name])

    def interrupt(models):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        fit(
            out,
            data=labelled_and_not(),
            augment=MOVING,
            evaluate=interrupt,
            **{**FULL, "eval_every": 8},
        )
    with pytest.raises(InputError, match="was made with other settings \\(eval_every"):
        fit(out, data=labelled_and_not(), augment=MOVING, resume=True, **FULL)
    other = labelled_and_not()
    other.unlabelled = without_labels(seed=8, side=64)
    again = {**FULL, "eval_every": 8}
    with pytest.raises(InputError, match="other settings \\(data 3 scans.*unlabelled: 3 scans"):
        fit(out, data=other, augment=MOVING, resume=True, **again)
    with pytest.raises(InputError, match="unlabelled_weight 1.0 -> 0.5"):
        fit(
            out,
            data=labelled_and_not(),
            augment=MOVING,
            resume=True,
            unlabelled_weight=0.5,
            **again,
        )
    fit(out, data=labelled_and_not(), augment=MOVING, resume=True, evaluate=score, **again)
    for name, value in state(whole).items():
        assert torch.equal(state(out)[name], value), name


@pytest.mark.parametrize(("head", "amp"), [("psp", "bf16"), ("deeplabv3", "fp16")])
def test_every_head_and_precision(tmp_path, monkeypatch, head, amp):
    models = networks(head, "fcn")
    before = copy.deepcopy(models[head].head.state_dict())
    fit(tmp_path, models, labelled_and_not(), ema=0.5, amp=amp, loss="ce+dice", iters=2)
    moved = [not torch.equal(before[k], v) for k, v in models[head].head.state_dict().items()]
    assert any(moved)


def test_what_cannot_be_learnt_from_is_refused():
    recipe = Recipe(ema=0.9)
    with pytest.raises(InputError, match="moving average of its weights.*give `ema`"):
        loop.share_of_batch(networks(), labelled_and_not(), Augment(), Recipe(), 1)
    with pytest.raises(InputError, match="`unlabelled_weight` is 0.5, and there are no such"):
        weighted = Recipe(ema=0.9, unlabelled_weight=0.5)
        loop.share_of_batch(networks(), discs(), Augment(), weighted, 1)
    small = discs(side=96)
    small.unlabelled = without_labels(side=48)
    with pytest.raises(InputError, match="crop 64 is larger than every unlabelled scan, of at mo"):
        loop.share_of_batch(networks(), small, Augment(crop=64), recipe, 1)
    assert loop.share_of_batch(networks(), small, Augment(crop=48), recipe, 1) == 2


# ---- from files


@pytest.mark.parametrize("size", ["512", "half", "um"])
def test_they_enter_as_labelled_ones_do(tmp_path, monkeypatch, size):
    monkeypatch.setenv("DME_CACHE", str(tmp_path / "cache"))
    root = make_folder(tmp_path / "own", wet=(1, 0, 1), sides=((96, 128), (80, 144)))
    preprocess = {"size": size, "um_per_px": [5.0, 40.0], "brightness": MATCHED}
    task = TASKS["fluid"]
    source = open_source(root)
    small, native = open_cache(source, 256), open_cache(source)
    labelled = training_set(small, native, np.arange(3), task, preprocess, "background", CPU)

    other = make_folder(tmp_path / "other", wet=(0, 0), sides=((80, 144),))
    (other / "images" / "scan00.png").write_bytes((root / "images" / "scan01.png").read_bytes())
    known = open_cache(open_source(other)).images  # one of the three is there too
    scans, notes = unlabelled_scans(source, known, preprocess, task, CPU)
    assert scans.names == ["scan00", "scan02"]
    for image, mask, place in zip(scans.images, scans.masks, (0, 2), strict=True):
        assert torch.equal(image, labelled.images[place])
        assert mask.shape == image.shape and not mask.any()
    assert "1 scans: trained on or scored already, left out" in notes
    assert (size == "um") == any("scale unknown" in note for note in notes)
    if size == "um":  # as with any scan: half as many um to a pixel are half as many pixels
        halved, notes = unlabelled_scans(source, known, preprocess, task, CPU, (2.5, 20.0))
        assert halved.images[0].shape == (48, 64)
        assert len(notes) == 1
    with pytest.raises(InputError, match="every scan of 3 B-scans from .* is trained on or sco"):
        unlabelled_scans(source, native.images, preprocess, task, CPU)
