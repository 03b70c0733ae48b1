"""Custom operators: one schema each, a CPU implementation and a Triton kernel, imported on CUDA only."""

import importlib
from types import ModuleType

from dme.errors import InputError


def triton_module(operator: str) -> ModuleType:
    """The module with an operator's Triton kernel. Raises InputError where Triton is not installed."""
    try:
        return importlib.import_module(f"dme.ops.{operator}_triton")
    except ImportError as e:
        raise InputError(f"no Triton ({e}); CUDA tensors need it; install triton or use the CPU") from e
