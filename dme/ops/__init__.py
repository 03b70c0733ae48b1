"""Custom operators: one schema each, a CPU implementation, and a Triton kernel, imported on CUDA only.

Here is what they share. `depthwise` is for CPUs alone.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from dme.errors import InputError

MAX_CLASSES = 32


@contextlib.contextmanager
def needing_triton() -> Iterator[None]:
    """Raises InputError where the import of a Triton kernel fails."""
    try:
        yield
    except ImportError as e:
        raise InputError(f"no Triton ({e}); CUDA tensors need it; install triton or use the CPU") from e


def check_logits(logits: Tensor, target: Tensor) -> None:
    """Raises InputError for a loss's logits and labels whose shapes or types do not fit."""
    if not logits.is_floating_point() or logits.ndim != 4 or not 2 <= logits.shape[1] <= MAX_CLASSES:
        found = f"logits {logits.dtype} {tuple(logits.shape)}"
        raise InputError(f"{found}; wanted floating (N, C, H, W) of 2 to {MAX_CLASSES} classes")
    if target.is_floating_point() or target.shape != logits[:, 0].shape:
        found = f"target {target.dtype} {tuple(target.shape)} for logits {tuple(logits.shape)}"
        raise InputError(f"{found}; wanted integers (N, H, W)")


def sums_dtype(logits: Tensor) -> torch.dtype:
    """In which sums over the pixels of logits are made."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
