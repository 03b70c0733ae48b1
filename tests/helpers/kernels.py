"""What tests of operators share: logits, definitions, and Triton kernels without a GPU."""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dme.ops import sums_dtype

LAYOUTS = ("contiguous", "sliced", "channels_last")
WITHOUT_CUDA = not torch.cuda.is_available()
WITHOUT_TRITON = importlib.util.find_spec("triton") is None
NEEDS_CUDA = pytest.mark.skipif(WITHOUT_CUDA, reason="needs a CUDA device")
NEEDS_TRITON = pytest.mark.skipif(WITHOUT_TRITON, reason="needs Triton")


def example(
    classes,
    shape=(3, 13, 17),
    dtype=torch.float64,
    layout="contiguous",
    seed=0,
):
    """Logits over a memory layout and labels of which a fifth is 255."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    logits = rng.normal(0, 3, (n, classes, h, 2 * w))
    target = rng.integers(0, classes, (n, h, 2 * w))
    target[rng.random(target.shape) < 0.2] = 255
    logits = torch.from_numpy(logits).to(dtype)[..., ::2]
    target = torch.from_numpy(target)[..., ::2]
    if layout == "sliced":
        return logits, target
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    return logits.clone(), target.contiguous()


def is_class(logits, target):
    """Whether a pixel's label is each of the classes, (N, C, H, W)."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    return target[:, None] == classes[:, None, None]


def focal_by_pytorch(logits, target, ignore_index, gamma, alpha):
    """The definition of `dme.ops.focal.focal_sums`, which autograd can follow."""
    logits = logits.to(sums_dtype(logits))
    t = is_class(logits, target).to(logits.dtype)
    wrong = logits * (1 - 2 * t)  # 1 - q = sigmoid(wrong), -log q = softplus(wrong)
    weight = alpha * t + (1 - alpha) * (1 - t)
    loss = weight * wrong.sigmoid().pow(gamma) * F.softplus(wrong)
    valid = (target != ignore_index)[:, None]
    return (loss * valid).sum((1, 2, 3))


def sums_by_pytorch(logits, target, ignore_index):
    """The definition of `dme.ops.region_sums.region_sums`, which autograd can follow."""
    logits = logits.to(sums_dtype(logits))
    valid = (target != ignore_index)[:, None]
    p = logits.softmax(1)
    t = is_class(logits, target) & valid
    t = t.to(logits.dtype)
    entropy = -(logits.log_softmax(1) * t).sum((1, 2, 3))
    parts = (p * t, p * valid, t, p.square())
    return entropy, torch.stack([part.sum((2, 3)) for part in parts], -1)


def agree(result, expected, dtype, name):
    """Assert that they differ by no more than a computation in `dtype` may."""
    tolerances = {torch.float64: 1e-12, torch.float32: 2e-6}
    tolerance = tolerances.get(dtype, 0.01)
    scale = expected.abs().max().clamp_min(1e-6)
    error = result.cpu().double() - expected.double()
    assert error.abs().max() <= tolerance * scale, (dtype, name)


def interpreted(code: str) -> None:
    """Run a test's `code` in its own process: Triton decides at import whether it interprets."""
    tests = Path(__file__).parents[1]
    folders = (tests.parent, tests, tests / "ops")
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def machine_code(kernel, types: str, compute_capability: int, **constants) -> bytes:
    """A kernel compiled for a GPU that need not be there.

    types: of its arguments but the constants, which are given by name.
    """
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    arguments = [name for name in names if name not in constants]
    signature = dict(zip(arguments, types.split(), strict=True))
    signature |= dict.fromkeys(constants, "constexpr")
    values = {(names.index(name),): value for name, value in constants.items()}
    with warnings.catch_warnings(action="ignore"):
        compiled = compile_kernel(
            ASTSource(kernel, signature, values),
            target=GPUTarget("cuda", compute_capability, 32),
            options={"num_warps": 4},
        )
    return compiled.asm["cubin"]
