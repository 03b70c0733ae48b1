"""What tests of operators share: logits and labels, and Triton kernels on a machine without a GPU."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

LAYOUTS = ("contiguous", "sliced", "channels_last")


def example(classes, shape=(3, 13, 17), dtype=torch.float64, layout="contiguous", seed=0):
    """Logits over a memory layout and labels of which a fifth is 255."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    logits = torch.from_numpy(rng.normal(0, 3, (n, classes, h, 2 * w))).to(dtype)
    target = rng.integers(0, classes, (n, h, 2 * w))
    target[rng.random(target.shape) < 0.2] = 255
    logits, target = logits[..., ::2], torch.from_numpy(target)[..., ::2]
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    return (logits, target) if layout == "sliced" else (logits.clone(), target.contiguous())


def agree(found, expected, dtype, what):
    scale = expected.abs().max().clamp_min(1e-6)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 0.01)
    assert (found.cpu().double() - expected.double()).abs().max() <= tolerance * scale, (
        dtype,
        what,
    )


def interpreted(code: str) -> None:
    """Run a test's `code` in a process of its own: Triton decides at import whether it interprets."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (tests.parent, tests, tests / "ops")))
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def machine_code(kernel, types: str, compute_capability: int, **constants) -> bytes:
    """A kernel compiled for a GPU that need not be there. types: of its arguments but the constants."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    arguments = [name for name in names if name not in constants]
    signature = dict(zip(arguments, types.split(), strict=True)) | dict.fromkeys(
        constants, "constexpr"
    )
    values = {(names.index(name),): value for name, value in constants.items()}
    with warnings.catch_warnings(action="ignore"):
        made = compile_kernel(
            ASTSource(kernel, signature, values),
            target=GPUTarget("cuda", compute_capability, 32),
            options={"num_warps": 4},
        )
    return made.asm["cubin"]
