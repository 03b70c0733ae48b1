import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kernels import interpreted, machine_code

from dme.common.errors import InputError
from dme.metrics import scores
from dme.ops import confusion
from dme.ops.confusion import confusion_matrix

LOGITS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)


def count_slowly(pred, target, num_classes, ignore_index=255):
    """Reference: pixel by pixel in plain Python; returns (N, C, C)."""
    counts = np.zeros((len(target), num_classes, num_classes), np.int64)
    for n, h, w in np.ndindex(*target.shape):
        truth = int(target[n, h, w])
        if pred.ndim == 4:
            values = pred[n, :, h, w].tolist()
            nans = [c for c, value in enumerate(values) if value != value]
            guess = nans[0] if nans else values.index(max(values))
        else:
            guess = int(pred[n, h, w])
        if truth != ignore_index and (pred.ndim == 4 or guess != ignore_index):
            counts[n, truth, guess] += 1
    return counts


def example(
    rng, shape, num_classes, logit_type=torch.float32, label_type=torch.uint8, coarse=True
):
    """Logits with many ties (when coarse) and a target with a fifth of its pixels ignored."""
    n, h, w = shape
    logits = torch.from_numpy(rng.normal(size=(n, num_classes, h, w)))
    logits = (logits * 2).round() if coarse else logits
    target = rng.integers(0, num_classes, shape)
    target[rng.random(shape) < 0.2] = 255
    return logits.to(logit_type), torch.from_numpy(target).to(label_type)


def with_strides(x, layout):
    """The same values over another memory layout."""
    if layout == "sliced":  # every second pixel of a larger tensor, rows not adjacent
        larger = torch.full((*x.shape[:-2], x.shape[-2] + 3, 2 * x.shape[-1] + 1), 77).to(x.dtype)
        view = larger[..., 2:-1, 1::2]
        view.copy_(x)
        return view
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "channels_last":
        return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
    return x


@pytest.mark.parametrize("num_classes", [2, 3, 9, 32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 33, 17)])
def test_equals_the_slow_reference(num_classes, shape, monkeypatch):
    monkeypatch.setattr(confusion, "CPU_BLOCK", 40)  # several blocks, the last one ragged
    rng = np.random.default_rng(num_classes)
    for i, logit_type in enumerate(LOGITS):
        logits, target = example(rng, shape, num_classes, logit_type, LABELS[i], coarse=i != 3)
        expected = count_slowly(logits, target, num_classes)
        assert np.array_equal(
            confusion_matrix(logits, target, num_classes, per_image=True), expected
        )
        assert np.array_equal(confusion_matrix(logits, target, num_classes), expected.sum(0))


@pytest.mark.parametrize("layout", ["sliced", "transposed", "channels_last"])
def test_strides_do_not_matter(layout):
    logits, target = example(np.random.default_rng(1), (2, 19, 23), 5)
    expected = count_slowly(logits, target, 5).sum(0)
    strided = with_strides(logits, layout)
    assert not strided.is_contiguous()
    assert np.array_equal(confusion_matrix(strided, with_strides(target, layout), 5), expected)


@pytest.mark.parametrize("label_type", LABELS)
def test_labels_as_prediction_skip_what_either_side_ignores(label_type):
    rng = np.random.default_rng(2)
    target = example(rng, (2, 9, 11), 4, label_type=label_type)[1]
    pred = example(rng, (2, 9, 11), 4)[1]
    both = confusion_matrix(pred, target, 4)
    assert np.array_equal(both, count_slowly(pred, target, 4).sum(0))
    assert torch.equal(both, confusion_matrix(target, pred, 4).T)
    assert both.sum() == ((pred != 255) & (target != 255)).sum()


def test_another_ignore_index():
    target = torch.tensor([[[0, 1, 7, 7]]])
    pred = torch.tensor([[[1, 1, 0, 9]]])  # 9 sits where the truth is unknown
    assert confusion_matrix(pred, target, 2, ignore_index=7).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("num_classes", [2, 4])
def test_nan_and_infinity_follow_argmax(num_classes):
    rng = np.random.default_rng(3)
    special = torch.tensor([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan")])
    logits = special[torch.from_numpy(rng.integers(0, 6, (2, num_classes, 20, 20)))]
    target = torch.from_numpy(rng.integers(0, num_classes, (2, 20, 20)))
    expected = confusion_matrix(logits.argmax(1), target, num_classes)
    assert torch.equal(confusion_matrix(logits, target, num_classes), expected)
    assert np.array_equal(expected, count_slowly(logits, target, num_classes).sum(0))


def test_inputs_keep_their_values_and_no_gradient_flows():
    logits, target = example(np.random.default_rng(4), (1, 6, 6), 3, label_type=torch.int16)
    logits.requires_grad_()
    before = logits.detach().clone(), target.clone()
    cm = confusion_matrix(logits, target, 3)
    assert cm.dtype == torch.int64 and not cm.requires_grad
    assert torch.equal(logits.detach(), before[0]) and torch.equal(target, before[1])


def test_empty_batch_counts_nothing():
    assert (
        confusion_matrix(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4, dtype=torch.uint8), 3).sum()
        == 0
    )


def test_opcheck():
    op = torch.ops.dme.confusion_matrix.default
    logits, target = example(np.random.default_rng(5), (2, 5, 6), 3)
    for pred in (logits, logits.clone().requires_grad_(), torch.zeros(2, 5, 6, dtype=torch.int64)):
        torch.library.opcheck(op, (pred, target, 3, 255))


def zeros(*shape, dtype=torch.uint8):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("pred", "target", "num_classes", "ignore_index", "message"),
    [
        (torch.zeros(2, 2, 4, 5), zeros(2, 4, 4), 2, 255, r"\(2, 2, 4, 5\); wanted \(2, 2, 4, 4\).*resize"),
        (torch.zeros(2, 3, 4, 4), zeros(2, 4, 4), 2, 255, r"\(2, 3, 4, 4\); wanted \(2, 2, .*num_classes"),
        (torch.zeros(3, 2, 4, 4), zeros(2, 4, 4), 2, 255, r"\(3, 2, 4, 4\); wanted \(2, 2, 4, 4\)"),
        (zeros(2, 4, 5), zeros(2, 4, 4), 2, 255, r"pred has shape \(2, 4, 5\); wanted \(2, 4, 4\)"),
        (zeros(4, 4), zeros(4, 4), 2, 255, r"target has shape \(4, 4\); wanted \(N, H, W\)"),
        (zeros(2, 4, 4, dtype=torch.bool), zeros(2, 4, 4), 2, 255, "pred is torch.bool; wanted"),
        (torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4), 2, 255, "target is torch.float32; wanted uint8"),
        (torch.zeros(1, 33, 4, 4), zeros(1, 4, 4), 33, 255, "num_classes=33; wanted 2..32"),
        (torch.zeros(1, 1, 4, 4), zeros(1, 4, 4), 1, 255, "num_classes=1; wanted 2..32"),
        (torch.zeros(1, 2, 4, 4), zeros(1, 4, 4), 2, -100, "ignore_index=-100; wanted 2..255"),
        (torch.zeros(1, 2, 4, 4), zeros(1, 4, 4).to("meta"), 2, 255, "target on meta; wanted one"),
        (torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 2, 7]]]).byte(), 2, 255, "holds 2, 7 in 2 .*1 or 255"),
        (torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 300, -1]]]), 2, 255, "target holds -1, 300 in 2 pixels"),
        (torch.tensor([[[0, 3, -1]]]), zeros(1, 1, 3), 2, 255, "pred holds -1, 3 in 2 pixels.*relabel"),
    ],
)  # fmt: skip
def test_bad_input_says_found_wanted_and_fix(pred, target, num_classes, ignore_index, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(pred, target, num_classes, ignore_index)


def check_kernel_on_cpu():
    """Run in a process with TRITON_INTERPRET=1: the Triton kernel against the CPU implementation."""
    from dme.ops.confusion_triton import count

    def kernel(pred, target, num_classes, counts=None, **options):
        if counts is None:
            counts = torch.zeros(len(target), num_classes**2 + 1, dtype=torch.int64)
        count(pred, target, num_classes, 255, counts, **options)
        return counts[:, :-1].view(-1, num_classes, num_classes), counts[:, -1]

    rng = np.random.default_rng(6)
    layouts = ("contiguous", "sliced", "transposed", "channels_last")
    cases = (
        (2, (1, 1, 1)),
        (2, (3, 11, 13)),
        (9, (2, 3, 150)),
        (32, (1, 2, 70)),
        (5, (2, 1, 300)),
        (3, (2, 23, 1)),
    )
    for i, (num_classes, shape) in enumerate(cases):
        for j, (logit_type, label_type, layout) in enumerate(
            zip(LOGITS, LABELS, layouts, strict=True)
        ):
            logits, target = example(
                rng, shape, num_classes, logit_type, label_type, coarse=j != 3
            )
            logits, target = (
                with_strides(logits, layouts[(i + j) % 4]),
                with_strides(target, layout),
            )
            expected = confusion_matrix(logits, target, num_classes, per_image=True)
            for programs in (
                1,
                7,
            ):  # several tiles for one program; several programs for one image
                counts, outside = kernel(logits, target, num_classes, programs=programs, block=128)
                assert torch.equal(counts, expected), (
                    num_classes,
                    shape,
                    logit_type,
                    label_type,
                    layout,
                )
                assert outside.sum() == 0

    labels, target = (
        example(rng, (2, 9, 40), 4, label_type=t)[1] for t in (torch.int16, torch.int64)
    )
    counts, _ = kernel(with_strides(labels, "sliced"), target, 4, block=128)
    assert torch.equal(counts, confusion_matrix(labels, target, 4, per_image=True))

    special = torch.tensor([0.0, 1.0, float("inf"), float("-inf"), float("nan")])
    logits = special[torch.from_numpy(rng.integers(0, 5, (1, 3, 30, 30)))]
    target = torch.from_numpy(rng.integers(0, 3, (1, 30, 30)))
    assert torch.equal(
        kernel(logits, target, 3)[0][0], confusion_matrix(logits.argmax(1), target, 3)
    )

    # Out of range: counted apart, per image; nothing is counted where either side is ignored.
    target = torch.tensor([[[0, 1, 2, -1, 255, 2**32]], [[0, 1, 1, 1, 0, 255]]])
    pred = torch.tensor([[[0, 1, 1, 1, 9, 0]], [[0, 2, -1, 255, 0, 9]]])
    counts, outside = kernel(pred, target, 2)
    assert counts.tolist() == [[[1, 0], [0, 1]], [[2, 0], [0, 0]]] and outside.tolist() == [3, 2]

    # It adds into what is there, in 64 bits.
    start = torch.full((1, 5), 2**40, dtype=torch.int64)
    counts, _ = kernel(torch.zeros(1, 2, 3, 5), torch.ones(1, 3, 5, dtype=torch.uint8), 2, start)
    assert counts[0].tolist() == [[2**40, 2**40], [2**40 + 15, 2**40]]


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton")
    interpreted("from test_confusion import check_kernel_on_cpu; check_kernel_on_cpu()")


@pytest.mark.parametrize(
    ("pred", "target", "compute_capability"),
    [("*fp32", "*u8", 75), ("*bf16", "*i64", 80), ("*i64", "*i32", 90)],
)
def test_triton_kernel_becomes_machine_code(
    pred, target, compute_capability, tmp_path, monkeypatch
):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from dme.ops.confusion_triton import _count_kernel

    types = f"{pred} {target} *i64 i32 i32 i32 i32 i64 i32 i32 i32 i32 i32"
    constants = dict(C=9, IGNORE=255, LOGITS=pred != "*i64", BLOCK=1024, BINS=128)
    assert machine_code(_count_kernel, types, compute_capability, **constants)
    constants |= dict(pred_w=1, target_w=1)  # Triton makes every 1 a constant
    types = f"{pred} {target} *i64 i32 i32 i32 i32 i64 i32 i32 i32"
    assert machine_code(_count_kernel, types, compute_capability, **constants)


def test_triton_is_not_imported_without_a_gpu():
    code = "import sys, dme, dme.training.loop; sys.exit(any(name.endswith('_triton') for name in sys.modules))"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_cuda_equals_cpu():
    rng = np.random.default_rng(7)
    for num_classes in (2, 9, 32):
        for logit_type, label_type in zip(LOGITS, LABELS, strict=True):
            for layout in ("contiguous", "sliced", "transposed", "channels_last"):
                logits, target = example(rng, (3, 333, 517), num_classes, logit_type, label_type)
                expected = confusion_matrix(logits, target, num_classes, per_image=True)
                there = with_strides(logits.cuda(), layout), with_strides(target.cuda(), layout)
                assert torch.equal(
                    confusion_matrix(*there, num_classes, per_image=True).cpu(), expected
                )
    target[1, 5, 5] = 99  # an invalid label marks its own image, and the sum
    marked = confusion_matrix(logits.cuda(), target.cuda(), 32, per_image=True)
    assert (marked[1] == confusion.INVALID).all() and (marked[[0, 2]] >= 0).all()
    with pytest.raises(InputError, match="out of range on CUDA"):
        scores(marked.sum(0))
    torch.library.opcheck(
        torch.ops.dme.confusion_matrix.default, (logits.cuda(), target.cuda(), 32, 255)
    )
