import pytest
import torch
from helpers.kernels import (
    LAYOUTS,
    NEEDS_CUDA,
    NEEDS_TRITON,
    agree,
    example,
    interpreted,
    machine_code,
    sums_by_pytorch,
)

from dme.common.errors import InputError
from dme.ops.region_sums import region_sums

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def weighed(results, seed=1):
    """A number that weighs every sum differently."""
    generator = torch.Generator().manual_seed(seed)
    total = 0
    for part in results:
        weights = torch.rand(part.shape, generator=generator).to(part)
        total = total + (part * weights).sum()
    return total


def expected_of(logits, target):
    """Both results by the definition in float64, and the gradient of their `weighed` sum."""
    exact = logits.detach().double().requires_grad_()
    results = sums_by_pytorch(exact, target, 255)
    weighed(results).backward()
    return [part.detach() for part in results], exact.grad


def agree_in_sums(results, expected, dtype):
    """What logits of `dtype` are summed in is also the type of the results."""
    kind = torch.promote_types(dtype, torch.float32)
    for part, exact in zip(results, expected, strict=True):
        assert part.dtype == kind
        assert part.shape == exact.shape
        agree(part.detach(), exact, kind, "sums")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 9])
def test_sums_and_gradient_equal_the_definition(classes, dtype, layout):
    logits, target = example(classes, dtype=dtype, layout=layout)
    expected, gradient = expected_of(logits, target)
    logits.requires_grad_()
    results = region_sums(logits, target)
    agree_in_sums(results, expected, dtype)
    weighed(results).backward()
    assert logits.grad.dtype == dtype
    agree(logits.grad, gradient, dtype, "gradient")


@pytest.mark.parametrize("layout", LAYOUTS)
# of an image's 663 logits: a row each, three rows, seven
@pytest.mark.parametrize("block", [1, 150, 600])
def test_work_in_pieces_adds_up(block, layout, monkeypatch):
    logits, target = example(3, layout=layout)
    logits.requires_grad_()
    whole = region_sums(logits, target)
    (gradient,) = torch.autograd.grad(weighed(whole), logits)
    monkeypatch.setattr("dme.ops.BLOCK", block)
    pieces = region_sums(logits, target)
    torch.testing.assert_close(pieces, whole)
    (piecewise,) = torch.autograd.grad(weighed(pieces), logits)
    torch.testing.assert_close(piecewise, gradient)


@pytest.mark.parametrize("ignored", [0, 1, 2])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_can_be_ignored(classes, ignored):
    logits, target = example(classes)
    target = target.clamp(max=classes - 1)
    results = region_sums(logits, target, ignored)
    expected = sums_by_pytorch(logits, target, ignored)
    torch.testing.assert_close(results, expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_opcheck_and_gradcheck(classes):
    forward = torch.ops.dme.region_sums.default
    backward = torch.ops.dme.region_sums_backward.default
    fixed, target = example(classes, (2, 3, 4))
    logits = fixed.clone().requires_grad_()
    torch.library.opcheck(forward, (logits, target, 255))
    entropy, sums = region_sums(fixed, target)
    of_entropy = torch.rand_like(entropy)
    of_sums = torch.rand_like(sums)
    torch.library.opcheck(backward, (fixed, target, 255, of_entropy, of_sums))
    assert torch.autograd.gradcheck(lambda z: region_sums(z, target), logits)


BAD_LOGITS = (
    torch.zeros(2, 3, 4),
    torch.zeros(2, 1, 4, 5),
    torch.zeros(2, 2, 4, 5, dtype=torch.int64),
)


def test_bad_input_says_found_and_expected():
    labels = torch.zeros(2, 4, 5, dtype=torch.int64)
    message = r"logits torch.*; expected floating \(N, C, H, W\) of 2 to 32"
    for logits in BAD_LOGITS:
        with pytest.raises(InputError, match=message):
            region_sums(logits, labels)
    message = r"target torch.* for logits .*; expected integers \(N, H, W\)"
    for target in (labels[:, :3], labels.float(), labels[:, None]):
        with pytest.raises(InputError, match=message):
            region_sums(torch.zeros(2, 2, 4, 5), target)


def check_kernels_on_cpu():
    """Run in a process with TRITON_INTERPRET=1: the Triton kernels against the definition."""
    cases = (
        (2, (2, 7, 19)),
        (9, (1, 12, 30)),
        (3, (2, 1, 1)),
    )
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    for classes, shape in cases:
        for dtype, layout in zip(dtypes, LAYOUTS, strict=True):
            logits, target = example(classes, shape, dtype, layout)
            check_kernels_of(logits, target)


def check_kernels_of(logits, target):
    from dme.ops.region_sums_triton import add_up, differentiate

    expected, gradient = expected_of(logits, target)
    results = add_up(logits, target, 255, block=128)
    agree_in_sums(results, expected, logits.dtype)

    # the gradients of `weighed` in the two results, which the kernel takes on to the logits
    leaves = [part.clone().requires_grad_() for part in expected]
    weighed(leaves).backward()
    kind = torch.promote_types(logits.dtype, torch.float32)
    of_entropy, of_sums = [leaf.grad.to(kind) for leaf in leaves]
    result = differentiate(logits, target, 255, of_entropy, of_sums, block=128)
    assert result.dtype == logits.dtype
    assert result.shape == logits.shape
    agree(result, gradient, logits.dtype, "gradient")


def test_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    interpreted("from test_region_sums import check_kernels_on_cpu; check_kernels_on_cpu()")


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
    from dme.ops.region_sums_triton import FLOATS, _gradient_kernel, _sums_kernel

    double = logits == "fp64"
    result = "fp64" if double else "fp32"
    kind = FLOATS[torch.float64 if double else torch.float32]
    constants = dict(C=9, IGNORE=255, FLOAT=kind, BLOCK=1024)
    strides = "i32 i32 i32 i32"
    sums = f"*{logits} *i64 *{result} *{result} i32 i32 i32 {strides} i32 i32 i32"
    assert machine_code(_sums_kernel, sums, compute_capability, **constants)
    pointers = f"*{logits} *i64 *{result} *{result} *{logits}"
    gradient = f"{pointers} i32 i32 {strides} i32 i32 i32 {strides}"
    assert machine_code(_gradient_kernel, gradient, compute_capability, **constants)


@pytest.mark.gpu
@NEEDS_CUDA
@NEEDS_TRITON
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 9])
def test_cuda_equals_the_definition(classes, dtype, layout):
    logits, target = example(classes, (3, 211, 157), dtype, layout)
    expected, gradient = expected_of(logits, target)
    logits = logits.detach().cuda().requires_grad_()
    results = region_sums(logits, target.cuda())
    agree_in_sums(results, expected, dtype)
    weighed([part.cpu() for part in results]).backward()
    agree(logits.grad, gradient, dtype, "gradient")
