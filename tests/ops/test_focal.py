"""The focal loss's operator against its definition; test_losses has OpenMMLab's loss."""

import pytest
import torch
from helpers.kernels import (
    LAYOUTS,
    NEEDS_CUDA,
    NEEDS_TRITON,
    agree,
    example,
    focal_by_pytorch,
    interpreted,
    machine_code,
)

from dme.common.errors import InputError
from dme.ops.focal import focal_sums

SETTINGS = (  # gamma, alpha
    (2.0, 0.5),
    (2.0, 0.25),
    (1.5, 0.5),
    (0.0, 0.7),
)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WEIGHTS = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)  # of three images' sums


def expected_of(logits, target, gamma, alpha, ignore_index=255):
    """Sums and the gradient of their weighted sum, in float64."""
    exact = logits.detach().double().requires_grad_()
    sums = focal_by_pytorch(exact, target, ignore_index, gamma, alpha)
    weights = WEIGHTS[: len(sums)]
    (sums * weights).sum().backward()
    return sums.detach(), exact.grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 9])
@pytest.mark.parametrize(("gamma", "alpha"), SETTINGS)
def test_sums_and_gradient_equal_the_definition(classes, dtype, layout, gamma, alpha):
    logits, target = example(classes, dtype=dtype, layout=layout)
    sums, gradient = expected_of(logits, target, gamma, alpha)
    mine = logits.requires_grad_()
    found = focal_sums(mine, target, gamma=gamma, alpha=alpha)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    agree(found.detach(), sums, found.dtype, "sums")
    (found * WEIGHTS.to(found)).sum().backward()
    assert mine.grad.dtype == dtype
    agree(mine.grad, gradient, dtype, "gradient")


@pytest.mark.parametrize("ignored", [0, 1, 2])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_can_be_ignored(classes, ignored):
    logits, target = example(classes)
    target = target.clamp(max=classes - 1)
    sums, gradient = expected_of(logits, target, 2.0, 0.25, ignored)
    mine = logits.requires_grad_()
    found = focal_sums(mine, target, ignored, 2.0, 0.25)
    torch.testing.assert_close(found.detach(), sums)
    (found * WEIGHTS).sum().backward()
    torch.testing.assert_close(mine.grad, gradient)


# of an image's 663 logits: a row each, three rows, seven
@pytest.mark.parametrize("block", [1, 150, 600])
def test_work_in_pieces_adds_up(block, monkeypatch):
    logits, target = example(3)
    sums, gradient = expected_of(logits, target, 2.0, 0.25)
    monkeypatch.setattr("dme.ops.BLOCK", block)
    mine = logits.requires_grad_()
    found = focal_sums(mine, target, alpha=0.25)
    torch.testing.assert_close(found.detach(), sums)
    (found * WEIGHTS).sum().backward()
    torch.testing.assert_close(mine.grad, gradient)


def test_certain_logits_are_finite():
    row = torch.tensor([300.0, -300.0, 0.0])
    logits = row.repeat(1, 2, 2, 1).requires_grad_()
    target = torch.tensor([[0, 1, 0], [1, 0, 255]])
    found = focal_sums(logits, target[None])
    # per class 0.5 (1 - q)^2 (-log q): 150 or 0 where certain, 0.25 log(2) / 2 where undecided
    expected = 4 * 150 + 2 * 0.125 * 0.6931472
    torch.testing.assert_close(found[0], torch.tensor(expected))
    found.sum().backward()
    assert logits.grad.isfinite().all()


def test_opcheck_and_gradcheck():
    forward = torch.ops.dme.focal_sums.default
    backward = torch.ops.dme.focal_sums_backward.default
    fixed, target = example(3, (2, 3, 4))
    logits = fixed.clone().requires_grad_()
    torch.library.opcheck(forward, (logits, target, 255, 2.0, 0.25))
    of_sums = torch.rand(2, dtype=torch.float64)
    torch.library.opcheck(backward, (fixed, target, 255, 2.0, 0.25, of_sums))
    for settings in SETTINGS:
        assert torch.autograd.gradcheck(focal_sums, (logits, target, 255, *settings))


def test_bad_input_says_found_and_expected():
    logits = torch.zeros(2, 3, 4)
    target = torch.zeros(2, 4, 5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"logits torch.*; expected floating \(N, C, H, W\)"):
        focal_sums(logits, target)


def check_kernels_on_cpu():
    """Run in a process with TRITON_INTERPRET=1: the Triton kernels against the definition."""
    from dme.ops.focal_triton import add_up, differentiate

    cases = (
        (2, (2, 7, 19)),
        (9, (1, 12, 30)),
        (3, (2, 1, 1)),
    )
    for i, (classes, shape) in enumerate(cases):
        dtype = DTYPES[i]
        settings = SETTINGS[i]
        logits, target = example(classes, shape, dtype, LAYOUTS[i])
        sums, gradient = expected_of(logits, target, *settings)
        found = add_up(logits, target, 255, *settings, block=128)
        agree(found, sums, found.dtype, "sums")
        of_sums = WEIGHTS[: len(sums)].to(found)
        result = differentiate(logits, target, 255, *settings, of_sums, block=128)
        assert result.dtype == dtype
        assert result.shape == logits.shape
        agree(result, gradient, dtype, "gradient")


def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    interpreted("from test_focal import check_kernels_on_cpu; check_kernels_on_cpu()")


@pytest.mark.parametrize(
    ("logits", "compute_capability"),
    [
        ("fp16", 75),
        ("fp64", 80),
        ("fp32", 90),
    ],
)
def test_triton_kernels_become_machine_code(logits, compute_capability, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from dme.ops.focal_triton import FLOATS, _gradient_kernel, _sums_kernel

    double = logits == "fp64"
    result = "fp64" if double else "fp32"
    kind = FLOATS[torch.float64 if double else torch.float32]
    constants = dict(C=9, IGNORE=255, GAMMA=2.0, ALPHA=0.25, FLOAT=kind, BLOCK=1024)
    strides = "i32 i32 i32 i32"
    sums = f"*{logits} *i64 *{result} i32 i32 i32 {strides} i32 i32 i32"
    assert machine_code(_sums_kernel, sums, compute_capability, **constants)
    gradient = f"*{logits} *i64 *{result} *{logits} i32 i32 {strides} i32 i32 i32 {strides}"
    assert machine_code(_gradient_kernel, gradient, compute_capability, **constants)


@pytest.mark.gpu
@NEEDS_CUDA
@NEEDS_TRITON
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_the_definition(dtype):
    for classes, layout, settings in zip((2, 9, 3), LAYOUTS, SETTINGS, strict=False):
        logits, target = example(classes, (3, 211, 157), dtype, layout)
        sums, gradient = expected_of(logits, target, *settings)
        there = logits.detach().cuda().requires_grad_()
        found = focal_sums(there, target.cuda(), 255, *settings)
        agree(found.detach(), sums, found.dtype, "sums")
        (found * WEIGHTS.to(found)).sum().backward()
        agree(there.grad, gradient, dtype, "gradient")
