"""Tables in Markdown: their lines, cells of several values, and the file."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from dme.common.files import atomic_path


def table_head(titles: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [table_line(titles), "|---" * len(titles) + "|"]


def table_line(cells: Iterable[object]) -> str:
    """A line of a table, of as many cells as its head has titles."""
    return f"| {' | '.join(map(str, cells))} |"


def mean_sd(values: Sequence[float]) -> str:
    """Cell of a table: the mean, of several with their standard deviation; empty for none."""
    if len(values) == 0:
        return ""
    mean = f"{np.mean(values):.4f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.4f}"


def fewest_to_most(counts: Collection[int]) -> str:
    """Cell of a table: how many runs its other cells rest on."""
    fewest, most = min(counts), max(counts)
    return f"{fewest}-{most}" if fewest < most else f"{most}"


def write_table(path: Path, table: str) -> None:
    """Write a table, and what stands around it, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(table, encoding="utf-8")
