"""An iterator run ahead of its user, in one thread of its own."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.1
_JOIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class Ahead(Generic[T]):
    """Iterates over `make()`'s generator, of which up to `depth` items are finished before they are asked for.

    What the generator raises is raised by next(), there and on every later call. The thread ends with `stop`, when this
    object is forgotten, or at exit.
    """

    def __init__(self, make: Callable[[], Iterator[T]], depth: int) -> None:
        self._items: queue.Queue[T | _End] = queue.Queue(depth)
        self._end: _End | None = None
        stopped = threading.Event()
        thread = threading.Thread(target=_work, args=(make, self._items, stopped), name="cxr-loader", daemon=True)
        thread.start()
        self._finalizer = weakref.finalize(self, _stop, thread, stopped)
        # At exit the thread must end before the libraries it uses tear themselves down; they registered earlier.
        self._finalizer.atexit = False
        atexit.register(self._finalizer)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._end is None:
            item = self._items.get()
            if not isinstance(item, _End):
                return item
            self._end = item
        if self._end.error is not None:
            raise self._end.error
        raise StopIteration

    def stop(self) -> None:
        """Ends the thread and waits for it, at most ten seconds. Items not asked for are lost."""
        self._finalizer()
        atexit.unregister(self._finalizer)
        self._end = self._end or _End(None)


def _work(make: Callable[[], Iterator[T]], items: queue.Queue[T | _End], stopped: threading.Event) -> None:
    error: BaseException | None = None
    try:
        iterator = make()
        with closing(iterator):  # type: ignore[type-var]
            for item in iterator:
                if not _put(items, item, stopped):
                    return
    except BaseException as raised:
        error = raised
    _put(items, _End(error), stopped)


def _put(items: queue.Queue[T | _End], item: T | _End, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            items.put(item, timeout=_LOOK_SECONDS)
            return True
        except queue.Full:
            continue
    return False


def _stop(thread: threading.Thread, stopped: threading.Event) -> None:
    stopped.set()
    thread.join(_JOIN_SECONDS)
