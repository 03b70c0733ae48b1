"""Custom operators: one schema each, a CPU implementation and a Triton kernel, imported on CUDA only."""

import contextlib
from collections.abc import Iterator

from dme.errors import InputError


@contextlib.contextmanager
def needing_triton() -> Iterator[None]:
    """Raises InputError where the import of a Triton kernel fails."""
    try:
        yield
    except ImportError as e:
        raise InputError(f"no Triton ({e}); CUDA tensors need it; install triton or use the CPU") from e
