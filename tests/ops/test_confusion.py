import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kernels import NEEDS_CUDA, NEEDS_TRITON, interpreted, machine_code

from dme.common.errors import InputError
from dme.metrics import scores
from dme.ops import confusion
from dme.ops.confusion import confusion_matrix

# what logits and labels may be, pair by pair
TYPES = (
    (torch.float32, torch.uint8),
    (torch.bfloat16, torch.int16),
    (torch.float16, torch.int32),
    (torch.float64, torch.int64),
)
LABELS = tuple(label_type for _, label_type in TYPES)


def count_slowly(pred, target, num_classes, ignore_index=255):
    """Reference: pixel by pixel in plain Python; returns (N, C, C)."""
    images = len(target)
    counts = np.zeros((images, num_classes, num_classes), np.int64)
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
    rng,
    shape,
    num_classes,
    logit_type=torch.float32,
    label_type=torch.uint8,
):
    """Logits with many ties (unless float64) and a target with a fifth of its pixels ignored."""
    n, h, w = shape
    logits = rng.normal(size=(n, num_classes, h, w))
    if logit_type is not torch.float64:
        logits = (logits * 2).round()
    target = rng.integers(0, num_classes, shape)
    target[rng.random(shape) < 0.2] = 255
    logits = torch.from_numpy(logits)
    target = torch.from_numpy(target)
    return logits.to(logit_type), target.to(label_type)


def label_example(rng, shape, num_classes, label_type=torch.uint8):
    """A target alone."""
    _, target = example(rng, shape, num_classes, label_type=label_type)
    return target


def with_strides(x, layout):
    """The same values over another memory layout."""
    if layout == "sliced":  # every second pixel of a larger tensor, rows not adjacent
        *outer, h, w = x.shape
        larger = torch.full((*outer, h + 3, 2 * w + 1), 77).to(x.dtype)
        view = larger[..., 2:-1, 1::2]
        view.copy_(x)
        return view
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "channels_last" and x.ndim == 4:
        return x.to(memory_format=torch.channels_last)
    return x


@pytest.mark.parametrize("num_classes", [2, 3, 9, 32])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1),
        (3, 5, 7),
        (2, 33, 17),
    ],
)
def test_equals_the_slow_reference(num_classes, shape, monkeypatch):
    monkeypatch.setattr(confusion, "CPU_BLOCK", 40)  # several blocks, the last one ragged
    rng = np.random.default_rng(num_classes)
    for types in TYPES:
        logits, target = example(rng, shape, num_classes, *types)
        expected = count_slowly(logits, target, num_classes)
        per_image = confusion_matrix(logits, target, num_classes, per_image=True)
        pooled = confusion_matrix(logits, target, num_classes)
        assert np.array_equal(per_image, expected)
        assert np.array_equal(pooled, expected.sum(0))


@pytest.mark.parametrize("layout", ["sliced", "transposed", "channels_last"])
def test_strides_do_not_matter(layout):
    rng = np.random.default_rng(1)
    logits, target = example(rng, (2, 19, 23), 5)
    expected = count_slowly(logits, target, 5).sum(0)
    strided = with_strides(logits, layout)
    assert not strided.is_contiguous()
    counts = confusion_matrix(strided, with_strides(target, layout), 5)
    assert np.array_equal(counts, expected)


@pytest.mark.parametrize("label_type", LABELS)
def test_labels_as_prediction_skip_what_either_side_ignores(label_type):
    rng = np.random.default_rng(2)
    target = label_example(rng, (2, 9, 11), 4, label_type)
    pred = label_example(rng, (2, 9, 11), 4)
    both = confusion_matrix(pred, target, 4)
    expected = count_slowly(pred, target, 4).sum(0)
    swapped = confusion_matrix(target, pred, 4)
    known = (pred != 255) & (target != 255)
    assert np.array_equal(both, expected)
    assert torch.equal(both, swapped.T)
    assert both.sum() == known.sum()


def row(*labels):
    """Labels (1, 1, W)."""
    return torch.tensor(labels).view(1, 1, -1)


def test_another_ignore_index():
    target = row(0, 1, 7, 7)
    pred = row(1, 1, 0, 9)  # 9 sits where the truth is unknown
    counts = confusion_matrix(pred, target, 2, ignore_index=7)
    assert counts.tolist() == [[0, 1], [0, 1]]


SPECIAL = torch.tensor([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan])


def special_example(rng, n, num_classes, side):
    """Logits that are tied, infinite or nothing, and a target without the unknown."""
    which = rng.integers(0, len(SPECIAL), (n, num_classes, side, side))
    target = rng.integers(0, num_classes, (n, side, side))
    return SPECIAL[torch.from_numpy(which)], torch.from_numpy(target)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_nan_and_infinity_follow_argmax(num_classes):
    rng = np.random.default_rng(3)
    logits, target = special_example(rng, 2, num_classes, 20)
    labels = logits.argmax(1)
    expected = count_slowly(logits, target, num_classes).sum(0)
    of_labels = confusion_matrix(labels, target, num_classes)
    of_logits = confusion_matrix(logits, target, num_classes)
    assert torch.equal(of_logits, of_labels)
    assert np.array_equal(of_labels, expected)


def test_inputs_keep_their_values_and_no_gradient_flows():
    rng = np.random.default_rng(4)
    logits, target = example(rng, (1, 6, 6), 3, label_type=torch.int16)
    logits.requires_grad_()
    logits_before = logits.detach().clone()
    target_before = target.clone()
    cm = confusion_matrix(logits, target, 3)
    assert cm.dtype == torch.int64
    assert not cm.requires_grad
    assert torch.equal(logits.detach(), logits_before)
    assert torch.equal(target, target_before)


@pytest.mark.parametrize(
    ("n", "h", "w"),
    [
        (0, 4, 4),
        (2, 0, 4),
        (2, 4, 0),
    ],
)
def test_empty_batch_counts_nothing(n, h, w):
    logits = torch.zeros(n, 3, h, w)
    for label_type in LABELS:
        target = torch.zeros(n, h, w, dtype=label_type)
        counts = confusion_matrix(logits, target, 3)
        assert counts.sum() == 0


def test_opcheck():
    op = torch.ops.dme.confusion_matrix.default
    rng = np.random.default_rng(5)
    logits, target = example(rng, (2, 5, 6), 3)
    trainable = logits.clone().requires_grad_()
    labels = torch.zeros(2, 5, 6, dtype=torch.int64)
    for pred in (logits, trainable, labels):
        torch.library.opcheck(op, (pred, target, 3, 255))


def zeros(*shape, dtype=torch.uint8):
    return torch.zeros(shape, dtype=dtype)


LOGITS_OF_TWO = torch.zeros(2, 2, 4, 4)
LABELS_OF_TWO = zeros(2, 4, 4)
LOGITS_OF_A_ROW = torch.zeros(1, 2, 1, 3)
BAD_SHAPES = [
    (torch.zeros(2, 2, 4, 5), r"\(2, 2, 4, 5\); expected \(2, 2, 4, 4\).*resize"),
    (torch.zeros(2, 3, 4, 4), r"\(2, 3, 4, 4\); expected \(2, 2, .*num_classes"),
    (torch.zeros(3, 2, 4, 4), r"\(3, 2, 4, 4\); expected \(2, 2, 4, 4\)"),
    (zeros(2, 4, 5), r"pred has shape \(2, 4, 5\); expected \(2, 4, 4\)"),
    (zeros(2, 4, 4, dtype=torch.bool), "pred is torch.bool; expected"),
]
BAD_TARGETS = [
    (zeros(4, 4), zeros(4, 4), r"target has shape \(4, 4\); expected \(N, H, W\)"),
    (LOGITS_OF_TWO, torch.zeros(2, 4, 4), "target is torch.float32; expected uint8"),
    (LOGITS_OF_TWO, LABELS_OF_TWO.to("meta"), "target on meta; expected one"),
    (LOGITS_OF_A_ROW, row(0, 2, 7).byte(), "holds 2, 7 in 2 .*1 or 255"),
    (LOGITS_OF_A_ROW, row(0, 300, -1), "target holds -1, 300 in 2 pixels"),
    (row(0, 3, -1), zeros(1, 1, 3), "pred holds -1, 3 in 2 pixels.*relabel"),
]
BAD_NUMBERS = [
    (33, 255, "num_classes=33; expected 2..32"),
    (1, 255, "num_classes=1; expected 2..32"),
    (2, -100, "ignore_index=-100; expected 2..255"),
]


@pytest.mark.parametrize(("pred", "message"), BAD_SHAPES)
def test_a_prediction_that_does_not_fit_says_found_expected_and_fix(pred, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(pred, LABELS_OF_TWO, 2, 255)


@pytest.mark.parametrize(("pred", "target", "message"), BAD_TARGETS)
def test_bad_labels_say_found_expected_and_fix(pred, target, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(pred, target, 2, 255)


@pytest.mark.parametrize(("num_classes", "ignore_index", "message"), BAD_NUMBERS)
def test_bad_numbers_say_found_expected_and_fix(num_classes, ignore_index, message):
    logits = torch.zeros(1, num_classes, 4, 4)
    with pytest.raises(InputError, match=message):
        confusion_matrix(logits, zeros(1, 4, 4), num_classes, ignore_index)


def by_kernel(pred, target, num_classes, counts=None, **options):
    """Counts (N, C, C) and pixels out of range (N,) by the Triton kernel, which is interpreted."""
    from dme.ops.confusion_triton import count

    cells = num_classes**2
    if counts is None:
        counts = torch.zeros(len(target), cells + 1, dtype=torch.int64)
    count(pred, target, num_classes, 255, counts, **options)
    outside = counts[:, cells]
    return counts[:, :cells].view(-1, num_classes, num_classes), outside


def check_types_and_layouts():
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
        for j, types in enumerate(TYPES):
            logits, target = example(rng, shape, num_classes, *types)
            expected = confusion_matrix(logits, target, num_classes, per_image=True)
            pred = with_strides(logits, layouts[(i + j) % 4])
            truth = with_strides(target, layouts[j])
            # several tiles for one program; several programs for one image
            for programs in (1, 7):
                options = dict(programs=programs, block=128)
                counts, outside = by_kernel(pred, truth, num_classes, **options)
                assert torch.equal(counts, expected), (num_classes, shape, types, layouts[j])
                assert outside.sum() == 0


def check_labels_as_prediction():
    rng = np.random.default_rng(6)
    labels = label_example(rng, (2, 9, 40), 4, torch.int16)
    target = label_example(rng, (2, 9, 40), 4, torch.int64)
    expected = confusion_matrix(labels, target, 4, per_image=True)
    sliced = with_strides(labels, "sliced")
    counts, _ = by_kernel(sliced, target, 4, block=128)
    assert torch.equal(counts, expected)


def check_nan_and_infinity():
    rng = np.random.default_rng(6)
    logits, target = special_example(rng, 1, 3, 30)
    labels = logits.argmax(1)
    expected = confusion_matrix(labels, target, 3)
    counts, _ = by_kernel(logits, target, 3)
    assert torch.equal(counts[0], expected)


def check_labels_out_of_range():
    """They are counted apart, per image; nothing is counted where either side is ignored."""
    first = row(0, 1, 2, -1, 255, 2**32)
    second = row(0, 1, 1, 1, 0, 255)
    target = torch.cat([first, second])
    first = row(0, 1, 1, 1, 9, 0)
    second = row(0, 2, -1, 255, 0, 9)
    pred = torch.cat([first, second])
    counts, outside = by_kernel(pred, target, 2)
    assert counts[0].tolist() == [[1, 0], [0, 1]]
    assert counts[1].tolist() == [[2, 0], [0, 0]]
    assert outside.tolist() == [3, 2]


def check_it_adds_in_64_bits():
    start = 2**40
    counts = torch.full((1, 5), start)
    logits = torch.zeros(1, 2, 3, 5)
    target = torch.ones(1, 3, 5, dtype=torch.uint8)
    counts, _ = by_kernel(logits, target, 2, counts)
    added = counts[0] - start
    assert added.tolist() == [[0, 0], [15, 0]]


def check_kernel_on_cpu():
    """With TRITON_INTERPRET=1: the Triton kernel against the CPU implementation."""
    check_types_and_layouts()
    check_labels_as_prediction()
    check_nan_and_infinity()
    check_labels_out_of_range()
    check_it_adds_in_64_bits()


def check_many_tiles():
    """One lane sees a pixel of every tile: more than a byte of its packed counts could hold."""
    width = 128
    tiles = 600
    logits = torch.zeros(1, 2, tiles, width)
    logits[:, 1] = 1
    target = torch.ones(1, tiles, width, dtype=torch.uint8)
    target[0, :, :3] = 0
    target[0, 5] = 255
    counts, outside = by_kernel(logits, target, 2, programs=1, block=width)
    known = tiles - 1
    (matrix,) = counts.tolist()
    assert matrix == [[0, 3 * known], [0, (width - 3) * known]]
    expected = confusion_matrix(logits, target, 2, per_image=True)
    assert torch.equal(counts, expected)
    assert outside.sum() == 0


def test_triton_kernel_in_the_interpreter():
    pytest.importorskip("triton")
    interpreted("from test_confusion import check_kernel_on_cpu; check_kernel_on_cpu()")


def test_triton_kernel_with_more_than_255_tiles_for_a_program():
    pytest.importorskip("triton")
    interpreted("from test_confusion import check_many_tiles; check_many_tiles()")


@pytest.mark.parametrize(
    ("pred", "target", "compute_capability"),
    [
        ("*fp32", "*u8", 75),
        ("*bf16", "*i64", 80),
        ("*i64", "*i32", 90),
    ],
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
    code = (
        "import sys, dme, dme.training.loop; "
        "sys.exit(any(name.endswith('_triton') for name in sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root)
    assert done.returncode == 0


@pytest.mark.gpu
@NEEDS_CUDA
@NEEDS_TRITON
@pytest.mark.parametrize("num_classes", [2, 9, 32])
def test_cuda_equals_cpu(num_classes):
    rng = np.random.default_rng(7)
    for types in TYPES:
        for layout in ("contiguous", "sliced", "transposed", "channels_last"):
            logits, target = example(rng, (3, 333, 517), num_classes, *types)
            expected = confusion_matrix(logits, target, num_classes, per_image=True)
            pred = with_strides(logits.cuda(), layout)
            truth = with_strides(target.cuda(), layout)
            counts = confusion_matrix(pred, truth, num_classes, per_image=True)
            assert torch.equal(counts.cpu(), expected)


@pytest.mark.gpu
@NEEDS_CUDA
@NEEDS_TRITON
def test_cuda_marks_an_image_with_an_invalid_label():
    rng = np.random.default_rng(7)
    logits, target = example(rng, (3, 333, 517), 32, label_type=torch.int64)
    logits = logits.cuda()
    target[1, 5, 5] = 99
    target = target.cuda()
    marked = confusion_matrix(logits, target, 32, per_image=True)
    assert (marked[1] == confusion.INVALID).all()
    assert (marked[[0, 2]] >= 0).all()
    with pytest.raises(InputError, match="out of range on CUDA"):
        scores(marked.sum(0))  # the mark stays when images are added up
    op = torch.ops.dme.confusion_matrix.default
    torch.library.opcheck(op, (logits, target, 32, 255))
