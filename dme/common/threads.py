"""Work that other threads do meanwhile, its results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def let_waiting_threads_sleep() -> None:
    """Let PyTorch's threads leave a processor while they wait for each other.

    By default OpenMP's run in circles there, so that they go on at once; on processors with other
    work they keep the very thread that they wait for from running, and a network takes several
    times as long. To be called before PyTorch is imported; OMP_WAIT_POLICY=active has the default.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def in_order(
    pool: Executor, step: Callable[[Item], Result], items: Iterable[Item], most: int
) -> Iterator[Result]:
    """What `step` makes of every item, in the order of the items, by the threads of a pool.

    At most so many items are on their way or wait to be taken: the next one is not asked for
    before, so memory does not grow with their number. What `step` raises, raises here in turn.
    """
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(step, item))
        while waiting and (waiting[0].done() or len(waiting) == most):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
