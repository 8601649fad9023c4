import gc
import threading
import time
from collections.abc import Iterator

import pytest

from loaders.ahead import Ahead


def threads_left() -> int:
    return sum(thread.name == "cxr-loader" for thread in threading.enumerate())


def test_items_in_order_then_the_end() -> None:
    ahead = Ahead(lambda: iter_to(5), 2)
    assert list(ahead) == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(ahead)


def iter_to(end: int) -> Iterator[int]:
    yield from range(end)


def test_an_error_comes_in_its_place_and_stays() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("the disk is gone")

    ahead = Ahead(broken, 4)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="the disk is gone"):
            next(ahead)


def test_no_more_than_depth_is_made_ahead() -> None:
    made: list[int] = []

    def counting() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    ahead = Ahead(counting, 2)
    next(ahead)
    time.sleep(0.2)
    assert len(made) <= 4
    ahead.stop()


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_thread_ends_and_cleans_up(forgotten: bool) -> None:
    cleaned = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            cleaned.set()

    before = threads_left()
    ahead = Ahead(endless, 1)
    next(ahead)
    if forgotten:
        del ahead
        gc.collect()
    else:
        ahead.stop()
        with pytest.raises(StopIteration):
            next(ahead)
    assert cleaned.wait(5)
    assert threads_left() == before
