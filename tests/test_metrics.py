import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from dme.common import ranks
from dme.common.errors import InputError
from dme.metrics import (
    CONVENTIONS,
    ConfusionMeter,
    by_convention,
    per_scan,
    scores,
    table1_measure,
)
from dme.ops.confusion import INVALID, confusion_matrix

GOLDEN = Path(__file__).parent / "golden" / "losses_metrics_s0.npz"
nan = float("nan")


@pytest.mark.parametrize("num_classes", [2, 9])
def test_golden(num_classes):
    """Against OpenMMLab; with 9 classes, 7 is never in the truth and 8 never predicted."""
    golden = np.load(GOLDEN)

    def expected(name):
        return golden[f"metric_{name}_c{num_classes}"]

    def assert_close(ours, theirs):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)

    pred = torch.from_numpy(golden[f"pred_c{num_classes}"])
    truth = torch.from_numpy(golden[f"truth_c{num_classes}"])
    got = scores(confusion_matrix(pred, truth, num_classes))
    for name in ("IoU", "Dice", "Precision", "Recall"):
        assert_close(got[name.lower()], expected(name))
        assert_close(got[f"mean_{name.lower()}"], np.nanmean(expected(name)))
    assert_close(got["recall"], expected("Acc"))
    assert_close(got["all_accuracy"], expected("aAcc"))
    present = ~np.isnan(expected("Fscore"))  # Fscore is NaN, Dice 0, for a class on one side only
    assert_close(got["dice"][present], expected("Fscore")[present])
    assert got["absent"] == 0


MISSING_CLASSES = {
    "class 2 nowhere": dict(
        cm=[[6, 2, 0], [1, 3, 0], [0, 0, 0]],
        iou=[6 / 9, 3 / 6, nan],
        dice=[12 / 15, 6 / 9, nan],
        precision=[6 / 7, 3 / 5, nan],
        recall=[6 / 8, 3 / 4, nan],
        absent=1,
    ),
    "class 2 predicted, never true": dict(
        cm=[[6, 1, 1], [1, 3, 0], [0, 0, 0]],
        iou=[6 / 9, 3 / 5, 0],
        dice=[12 / 15, 6 / 8, 0],
        precision=[6 / 7, 3 / 4, 0],
        recall=[6 / 8, 3 / 4, nan],
        absent=0,
    ),
    "class 2 true, never predicted": dict(
        cm=[[6, 2, 0], [1, 3, 0], [4, 0, 0]],
        iou=[6 / 13, 3 / 6, 0],
        dice=[12 / 19, 6 / 9, 0],
        precision=[6 / 11, 3 / 5, nan],
        recall=[6 / 8, 3 / 4, 0],
        absent=0,
    ),
    "only background": dict(
        cm=[[5, 0], [0, 0]],
        iou=[1, nan],
        dice=[1, nan],
        precision=[1, nan],
        recall=[1, nan],
        absent=1,
    ),
    "every pixel ignored": dict(
        cm=[[0, 0], [0, 0]],
        iou=[nan, nan],
        dice=[nan, nan],
        precision=[nan, nan],
        recall=[nan, nan],
        absent=2,
    ),
}


@pytest.mark.parametrize("case", MISSING_CLASSES)
def test_missing_classes_by_hand(case):
    expected = MISSING_CLASSES[case]
    got = scores(np.array(expected["cm"]))
    for name in ("iou", "dice", "precision", "recall"):
        values = np.array(expected[name], float)
        np.testing.assert_allclose(got[name], values)
        assert got[name].dtype == np.float64
        there = values[~np.isnan(values)]
        mean = there.mean() if there.size else nan
        np.testing.assert_allclose(got[f"mean_{name}"], mean)
    assert got["absent"] == expected["absent"]


def test_counts_beyond_32_and_53_bits():
    cm = torch.tensor([[3 * 2**40, 2**40], [0, 2**40]])
    got = scores(cm)
    assert got["iou"].tolist() == [0.75, 0.5]
    assert got["all_accuracy"] == 0.8
    meter = ConfusionMeter(2)
    meter._batches = [torch.full((3, 2, 2), 2**31 - 1)]
    meter.names = [None] * 3
    assert meter.matrices().sum(0).tolist() == [[3 * (2**31 - 1)] * 2] * 2
    assert scores(np.full((2, 2), 2**60))["all_accuracy"] == 0.5


SCANS = np.array(
    [
        [[90, 2], [4, 4]],  # IoU 4/10, Dice 8/14
        [[100, 0], [0, 0]],  # nothing there, nothing found
        [[95, 5], [0, 0]],  # false alarm
        [[97, 0], [3, 0]],  # missed
        [[98, 0], [0, 2]],  # perfect
    ]
)


@pytest.mark.parametrize(
    ("empty", "sum_iou", "count"), [(nan, 1.4, 4), (1.0, 2.4, 5), (0.0, 1.4, 5)]
)
def test_per_scan_conventions_for_empty_scans(empty, sum_iou, count):
    got = per_scan(torch.from_numpy(SCANS), empty=empty)
    np.testing.assert_allclose(got["iou"], [0.4, empty, 0, 0, 1])
    np.testing.assert_allclose(got["dice"], [8 / 14, empty, 0, 0, 1])
    assert got["mean_iou"] == pytest.approx(sum_iou / count)
    assert got["mean_dice"] == pytest.approx((sum_iou - 0.4 + 8 / 14) / count)
    assert got["empty"] == 1


def test_every_convention_for_empty_scans_by_hand():
    # half found; a false alarm; nothing in both
    scans = np.array([[[90, 0], [5, 5]], [[98, 2], [0, 0]], [[100, 0], [0, 0]]])
    half = 10 / 15
    got = by_convention(scans)
    assert list(got) == list(CONVENTIONS)
    means = {key: (found["mean_dice"], found["scans"]) for key, found in got.items()}
    assert means == {
        "pooled": (pytest.approx(10 / 17), 3),
        "positives": (pytest.approx(half), 1),
        "empty_left_out": (pytest.approx(half / 2), 2),
        "empty_counts_1": (pytest.approx((half + 1) / 3), 3),
        "empty_counts_0": (pytest.approx(half / 3), 3),
    }
    assert got["positives"]["mean_iou"] == pytest.approx(0.5)
    np.testing.assert_allclose(got["empty_left_out"]["dice"], [half, 0, nan])


def test_per_scan_of_another_class():
    cms = np.array([[[1, 2, 3], [4, 5, 6], [7, 8, 9]]])
    got = per_scan(cms, positive=2)
    assert got["iou"][0] == pytest.approx(9 / (24 + 18 - 9))
    assert got["dice"][0] == pytest.approx(18 / 42)
    with pytest.raises(InputError, match=r"positive=3; expected a class, 0..2"):
        per_scan(cms, positive=3)


@pytest.mark.parametrize("one", [[[9, 1], [0, 0]], [[9, 0], [1, 0]]])
def test_a_single_pixel_of_fluid_is_no_empty_scan(one):
    """One that is found but not there, and one that is there but not found: Dice 0."""
    got = per_scan(np.array([one, [[10, 0], [0, 0]]]), empty=1.0)
    assert got["dice"].tolist() == got["iou"].tolist() == [0.0, 1.0]
    assert got["empty"] == 1


def test_all_scans_empty_is_nan_not_a_warning(recwarn):
    assert np.isnan(per_scan(SCANS[1:2])["mean_dice"])
    assert not recwarn


def test_table1_measure_by_hand():
    assert table1_measure(SCANS) == pytest.approx((0.4 + 0 + 0 + 0 + 1) / 5)
    assert table1_measure(SCANS[1:2]) == 0


@pytest.mark.parametrize(
    ("cm", "message"),
    [
        (np.zeros((2, 2)), r"float64 \(2, 2\); expected integers \(C, C\)"),
        (np.zeros((2, 3), int), r"int64 \(2, 3\); expected"),
        (SCANS, r"\(5, 2, 2\); expected integers \(C, C\)"),
        (torch.full((2, 2), INVALID), "out of range on CUDA"),
        (torch.full((2, 2), INVALID) * 100 + 2**40, "out of range on CUDA"),
    ],
)
def test_scores_refuse_what_is_no_confusion_matrix(cm, message):
    with pytest.raises(InputError, match=message):
        scores(cm)


def images(count):
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 3, 8, 9, generator=generator)
    target = torch.randint(0, 3, (count, 8, 9), generator=generator)
    target[:, 0] = 255
    return logits, target, [f"scan{i}" for i in range(count)]


def test_meter_keeps_scans_in_order_and_pools_them():
    logits, target, names = images(5)
    meter = ConfusionMeter(3)
    for part in (slice(0, 2), slice(2, 5)):
        meter.update(logits[part], target[part], names[part])
    single = []
    for z, labels in zip(logits.split(1), target.split(1), strict=True):
        single.append(confusion_matrix(z, labels, 3).tolist())
    assert meter.matrices().tolist() == single
    assert meter.names == names
    assert meter.compute()["mean_dice"] == scores(confusion_matrix(logits, target, 3))["mean_dice"]


def test_meter_without_scans_and_without_names():
    meter = ConfusionMeter(3)
    assert meter.matrices().shape == (0, 3, 3)
    assert meter.compute()["absent"] == 3
    logits, target, _ = images(2)
    meter.update(logits, target)
    meter.update(logits, target)
    assert meter.names == [None] * 4
    assert meter.matrices().sum() == 2 * (target != 255).sum()


def test_meter_names_the_bad_scan():
    logits, target, names = images(3)
    meter = ConfusionMeter(3)
    meter.update(logits, target, names)
    meter._batches[0][1] = INVALID  # what CUDA answers
    with pytest.raises(
        InputError, match=r"labels out of range in scan scan1; expected 0..2 or 255"
    ):
        meter.compute()


def test_meter_refuses_a_scan_counted_twice_and_wrong_names():
    logits, target, names = images(3)
    meter = ConfusionMeter(3)
    with pytest.raises(ValueError, match="2 names for a batch of 3"):
        meter.update(logits, target, names[:2])
    meter.update(logits, target, names)
    meter.update(logits[:1], target[:1], names[:1])
    with pytest.raises(InputError, match="scan scan0 counted more than once"):
        meter.compute()


def test_all_reduce_is_nothing_without_ranks():
    logits, target, names = images(3)
    meter = ConfusionMeter(3)
    meter.update(logits, target, names)
    before = meter.matrices()
    meter.all_reduce()
    assert np.array_equal(meter.matrices(), before)


def run_rank(rank, folder, port):
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    os.environ["WORLD_SIZE"] = "2"
    os.environ["MASTER_ADDR"] = "localhost"
    os.environ["MASTER_PORT"] = str(port)
    ranks.join()
    logits, target, names = images(5)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)  # unequal shares
    meter = ConfusionMeter(3)
    meter.update(logits[mine], target[mine], names[mine])
    meter.all_reduce()
    np.savez(
        f"{folder}/rank{rank}.npz",
        cms=meter.matrices(),
        names=meter.names,
        iou=meter.compute()["iou"],
    )
    with pytest.raises(ValueError, match="reduce once"):
        meter.all_reduce()
    with pytest.raises(ValueError, match="new meter"):
        meter.update(logits, target)
    ranks.leave()
    # a thread of gloo's that is alive at exit now and then aborts the process
    for thread in Path("/proc/self/task").glob("*/comm"):
        assert "gloo" not in thread.read_text()


def test_two_ranks_equal_one(tmp_path):
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    mp.spawn(run_rank, args=(str(tmp_path), port), nprocs=2)
    logits, target, names = images(5)
    meter = ConfusionMeter(3)
    meter.update(logits, target, names)
    for rank in range(2):
        got = np.load(tmp_path / f"rank{rank}.npz")
        assert np.array_equal(got["cms"], meter.matrices())
        assert got["names"].tolist() == names
        assert np.array_equal(got["iou"], meter.compute()["iou"])
