"""Triton kernels on a machine without a GPU: run by the interpreter, and compiled down to machine code."""

import os
import subprocess
import sys
import warnings
from pathlib import Path


def interpreted(code: str) -> None:
    """Run a test's `code` in a process of its own: Triton decides at import whether it interprets."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
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
    signature = dict(zip(arguments, types.split(), strict=True)) | dict.fromkeys(constants, "constexpr")
    values = {(names.index(name),): value for name, value in constants.items()}
    with warnings.catch_warnings(action="ignore"):
        made = compile_kernel(
            ASTSource(kernel, signature, values),
            target=GPUTarget("cuda", compute_capability, 32),
            options={"num_warps": 4},
        )
    return made.asm["cubin"]
