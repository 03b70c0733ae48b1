"""Custom operators: a schema, a CPU implementation, and a Triton kernel that only CUDA imports.

Here is what they share. `depthwise` is for CPUs alone.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from dme.common.errors import InputError

MAX_CLASSES = 32
BLOCK = 2**19  # logits a loss works on at a time: 2 MiB, yet enough to keep a few threads busy


@contextlib.contextmanager
def needing_triton() -> Iterator[None]:
    """Raises InputError where the import of a Triton kernel fails."""
    try:
        yield
    except ImportError as e:
        raise InputError(
            f"no Triton ({e}); CUDA tensors need it; install triton or use the CPU"
        ) from e


def check_logits(logits: Tensor, target: Tensor) -> None:
    """Raises InputError for a loss's logits and labels whose shapes or types do not fit."""
    floating = logits.is_floating_point() and logits.ndim == 4
    if not floating or not 2 <= logits.shape[1] <= MAX_CLASSES:
        raise InputError(
            f"logits {logits.dtype} {tuple(logits.shape)}; "
            f"expected floating (N, C, H, W) of 2 to {MAX_CLASSES} classes"
        )
    if target.is_floating_point() or target.shape != logits[:, 0].shape:
        raise InputError(
            f"target {target.dtype} {tuple(target.shape)} for logits {tuple(logits.shape)}; "
            "expected integers (N, H, W)"
        )


def sums_dtype(logits: Tensor) -> torch.dtype:
    """In which sums over the pixels of logits are made."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def blocks(logits: Tensor, target: Tensor, ignore_index: int, spare: int) -> Iterator[tuple]:
    """On a CPU, the work of a loss in pieces of rows, of about BLOCK logits at most.

    Yields of each piece the image, its rows, the logits (C, pixels), the one-hot truth (C,
    pixels), which is 0 for all classes where the label is ignored, and `spare` more tensors like
    it to work in; in `sums_dtype`. All pieces use the same memory, for it stays in the cache.
    """
    n, classes, height, width = logits.shape
    dtype = sums_dtype(logits)
    every_class = torch.arange(classes, dtype=dtype)[:, None]
    every_class[every_class == ignore_index] = math.nan  # equals no label

    # all pieces have the same number of rows, but for the last
    pieces = max(1, math.ceil(classes * height * width / BLOCK))
    rows = max(1, math.ceil(height / pieces))
    memory = torch.empty(1 + spare, classes * rows * width, dtype=dtype)

    for i, top in itertools.product(range(n), range(0, height, rows)):
        piece = slice(top, top + rows)
        z = logits[i, :, piece].flatten(1).to(dtype)
        label = target[i, piece].flatten().to(dtype)
        truth, *others = memory[:, : classes * len(label)].unflatten(1, (classes, len(label)))
        # into numbers: through booleans takes ten times as long
        torch.eq(label, every_class, out=truth)
        yield i, piece, z, truth, *others
