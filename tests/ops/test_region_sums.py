import importlib.util

import pytest
import torch
from helpers.kernels import LAYOUTS, agree, example, interpreted, machine_code

from dme.common.errors import InputError
from dme.ops.region_sums import region_sums, sums_by_pytorch


def weighed(results, seed=1):
    """A number that weighs every sum differently."""
    generator = torch.Generator().manual_seed(seed)
    return sum(
        (part * torch.rand(part.shape, generator=generator).to(part)).sum() for part in results
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 9])
def test_sums_and_gradient_equal_the_definition(classes, dtype, layout):
    logits, target = example(classes, dtype=dtype, layout=layout)
    exact = logits.double().requires_grad_()
    expected = sums_by_pytorch(exact, target, 255)
    weighed(expected).backward()
    mine = logits.requires_grad_()
    found = region_sums(mine, target)
    assert {part.dtype for part in found} == {
        torch.float64 if dtype == torch.float64 else torch.float32
    }
    for part, wanted in zip(found, expected, strict=True):
        assert part.shape == wanted.shape
        agree(part.detach(), wanted.detach(), torch.promote_types(dtype, torch.float32), "sums")
    weighed(found).backward()
    assert mine.grad.dtype == dtype
    agree(mine.grad, exact.grad, dtype, "gradient")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "block", [1, 150, 600]
)  # of an image's 663 logits: a row each, three rows, seven
def test_work_in_pieces_adds_up(block, layout, monkeypatch):
    logits, target = example(3, layout=layout)
    logits.requires_grad_()
    whole = region_sums(logits, target)
    (gradient,) = torch.autograd.grad(weighed(whole), logits)
    monkeypatch.setattr("dme.ops.BLOCK", block)
    pieces = region_sums(logits, target)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(torch.autograd.grad(weighed(pieces), logits)[0], gradient)


@pytest.mark.parametrize("ignored", [0, 1, 2])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_can_be_ignored(classes, ignored):
    logits, target = example(classes)
    target = target.clamp(max=classes - 1)
    for found, wanted in zip(
        region_sums(logits, target, ignored), sums_by_pytorch(logits, target, ignored), strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("classes", [2, 4])
def test_opcheck_and_gradcheck(classes):
    logits, target = example(classes, (2, 3, 4))
    logits.requires_grad_()
    torch.library.opcheck(torch.ops.dme.region_sums.default, (logits, target, 255))
    of_entropy, of_sums = (torch.rand_like(part) for part in region_sums(logits.detach(), target))
    backward = torch.ops.dme.region_sums_backward.default
    torch.library.opcheck(backward, (logits.detach(), target, 255, of_entropy, of_sums))
    assert torch.autograd.gradcheck(lambda z: region_sums(z, target), logits)


def test_bad_input_says_found_and_wanted():
    labels = torch.zeros(2, 4, 5, dtype=torch.int64)
    for logits in (
        torch.zeros(2, 3, 4),
        torch.zeros(2, 1, 4, 5),
        torch.zeros(2, 2, 4, 5, dtype=torch.int64),
    ):
        with pytest.raises(
            InputError, match=r"logits torch.*; wanted floating \(N, C, H, W\) of 2 to 32"
        ):
            region_sums(logits, labels)
    for target in (labels[:, :3], labels.float(), labels[:, None]):
        with pytest.raises(
            InputError, match=r"target torch.* for logits .*; wanted integers \(N, H, W\)"
        ):
            region_sums(torch.zeros(2, 2, 4, 5), target)


def check_kernels_on_cpu():
    """Run in a process with TRITON_INTERPRET=1: the Triton kernels against the definition."""
    from dme.ops.region_sums_triton import add_up, differentiate

    for classes, shape in ((2, (2, 7, 19)), (9, (1, 12, 30)), (3, (2, 1, 1))):
        for dtype, layout in zip(
            (torch.float32, torch.bfloat16, torch.float64), LAYOUTS, strict=True
        ):
            logits, target = example(classes, shape, dtype, layout)
            exact = logits.double().requires_grad_()
            expected = sums_by_pytorch(exact, target, 255)
            found = add_up(logits, target, 255, block=128)
            kind = torch.promote_types(dtype, torch.float32)
            for part, wanted in zip(found, expected, strict=True):
                assert part.dtype == kind
                agree(part, wanted.detach(), kind, "sums")
            leaves = [part.detach().requires_grad_() for part in expected]
            weighed(leaves).backward()
            weighed(expected).backward()
            gradient = differentiate(
                logits, target, 255, *(leaf.grad.to(kind) for leaf in leaves), block=128
            )
            assert (gradient.dtype, gradient.shape) == (dtype, logits.shape)
            agree(gradient, exact.grad, dtype, "gradient")


def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    interpreted("from test_region_sums import check_kernels_on_cpu; check_kernels_on_cpu()")


@pytest.mark.parametrize(
    ("logits", "compute_capability"), [("fp16", 75), ("fp64", 80), ("fp32", 90)]
)
def test_triton_kernels_become_machine_code(logits, compute_capability, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from dme.ops.region_sums_triton import FLOATS, _gradient_kernel, _sums_kernel

    double = logits == "fp64"
    result = "fp64" if double else "fp32"
    constants = dict(
        C=9, IGNORE=255, FLOAT=FLOATS[torch.float64 if double else torch.float32], BLOCK=1024
    )
    strides = "i32 i32 i32 i32"
    sums = f"*{logits} *i64 *{result} *{result} i32 i32 i32 {strides} i32 i32 i32"
    assert machine_code(_sums_kernel, sums, compute_capability, **constants)
    gradient = (
        f"*{logits} *i64 *{result} *{result} *{logits} i32 i32 {strides} i32 i32 i32 {strides}"
    )
    assert machine_code(_gradient_kernel, gradient, compute_capability, **constants)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_cuda_equals_the_definition():
    for classes in (2, 9):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for layout in LAYOUTS:
                logits, target = example(classes, (3, 211, 157), dtype, layout)
                exact = logits.detach().double().requires_grad_()
                expected = sums_by_pytorch(exact, target, 255)
                weighed(expected).backward()
                there = logits.detach().cuda().requires_grad_()
                found = region_sums(there, target.cuda())
                for part, wanted in zip(found, expected, strict=True):
                    agree(
                        part.detach(),
                        wanted.detach(),
                        torch.promote_types(dtype, torch.float32),
                        "sums",
                    )
                weighed([part.cpu() for part in found]).backward()
                agree(there.grad, exact.grad, dtype, "gradient")
