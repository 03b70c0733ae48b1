"""What tests of operators share: logits, definitions, and Triton kernels without a GPU."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dme.ops import sums_dtype

LAYOUTS = ("contiguous", "sliced", "channels_last")


def example(classes, shape=(3, 13, 17), dtype=torch.float64, layout="contiguous", seed=0):
    """Logits over a memory layout and labels of which a fifth is 255."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    logits = torch.from_numpy(rng.normal(0, 3, (n, classes, h, 2 * w))).to(dtype)
    target = rng.integers(0, classes, (n, h, 2 * w))
    target[rng.random(target.shape) < 0.2] = 255
    logits = logits[..., ::2]
    target = torch.from_numpy(target)[..., ::2]
    if layout == "sliced":
        return logits, target
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    return logits.clone(), target.contiguous()


def focal_by_pytorch(logits, target, ignore_index, gamma, alpha):
    """The definition of `dme.ops.focal.focal_sums`, which autograd can follow."""
    logits = logits.to(sums_dtype(logits))
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    t = (target[:, None] == classes).to(logits.dtype)
    wrong = logits * (1 - 2 * t)  # 1 - q = sigmoid(wrong), -log q = softplus(wrong)
    weight = alpha * t + (1 - alpha) * (1 - t)
    loss = weight * wrong.sigmoid().pow(gamma) * F.softplus(wrong)
    valid = (target != ignore_index)[:, None]
    return (loss * valid).sum((1, 2, 3))


def sums_by_pytorch(logits, target, ignore_index):
    """The definition of `dme.ops.region_sums.region_sums`, which autograd can follow."""
    logits = logits.to(sums_dtype(logits))
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    valid = (target != ignore_index)[:, None]
    p = logits.softmax(1)
    t = ((target[:, None] == classes) & valid).to(logits.dtype)
    entropy = -(logits.log_softmax(1) * t).sum((1, 2, 3))
    parts = (p * t, p * valid, t, p.square())
    return entropy, torch.stack([part.sum((2, 3)) for part in parts], -1)


def agree(result, expected, dtype, name):
    """Assert that they differ by no more than a computation in `dtype` may."""
    scale = expected.abs().max().clamp_min(1e-6)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 0.01)
    error = (result.cpu().double() - expected.double()).abs().max()
    assert error <= tolerance * scale, (dtype, name)


def interpreted(code: str) -> None:
    """Run a test's `code` in its own process: Triton decides at import whether it interprets."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests.parent, tests, tests / "ops")))
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
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
