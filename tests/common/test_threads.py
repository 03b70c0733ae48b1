"""Work of other threads: in order, no more at once than was said, and no later than it is done."""

import threading
from concurrent.futures import ThreadPoolExecutor

from dme.common.threads import in_order


def test_results_come_in_the_order_of_the_items():
    second = threading.Event()

    def step(number: int) -> int:
        if number == 0:
            assert second.wait(10)  # the first is ready last
        second.set()
        return 10 * number

    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, step, range(5), 3)) == [0, 10, 20, 30, 40]


def test_no_more_are_on_their_way_than_was_said():
    asked = []
    go = threading.Event()

    def items():
        for number in range(6):
            asked.append(number)
            yield number

    def step(number: int) -> int:
        assert go.wait(10)
        return number

    with ThreadPoolExecutor(1) as pool:
        results = in_order(pool, step, items(), 3)
        threading.Timer(0.1, go.set).start()
        assert next(results) == 0
        assert asked == [0, 1, 2]
        assert list(results) == [1, 2, 3, 4, 5]


def test_a_result_is_given_as_soon_as_it_is_there():
    asked = []

    class AtOnce:
        """A pool whose work is done when it is handed in."""

        def submit(self, step, item):
            with ThreadPoolExecutor(1) as pool:
                future = pool.submit(step, item)
            return future

    def items():
        for number in range(4):
            asked.append(number)
            yield number

    results = in_order(AtOnce(), str, items(), 3)
    assert next(results) == "0"
    assert asked == [0]
    assert list(results) == ["1", "2", "3"]
