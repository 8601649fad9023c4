"""Tars in object stores, read by offset, with patience where a store does not answer."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

from cluster import storage
from cluster.storage import Place
from loaders.failures import MissingShardError

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 10.0


class RemoteTars:
    """Reads parts of tars, from any number of threads, each part in a request of its own."""

    def __init__(self, tars: Sequence[Place], max_open: int, retry_seconds: float) -> None:
        """`tars`: URLs by number. `max_open`: objects whose size is remembered at most.

        `retry_seconds`: how long it is tried again where the error may pass.
        """
        self._tars = tuple(tars)
        self._max_open = max_open
        self._retry_seconds = retry_seconds
        self._open: OrderedDict[int, storage.Remote] = OrderedDict()
        self._opening: dict[int, Future[storage.Remote]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._told = False

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of a tar from `offset`, fewer where it ends.

        Raises MissingShardError where the object is gone or may not be read, or the store gave no answer for so long.
        """
        began, wait = time.monotonic(), _FIRST_WAIT_SECONDS
        while not self._closed.is_set():
            try:
                return self._file(number).read_at(offset, length)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                tried = time.monotonic() - began
                if storage.lasting(error):
                    raise MissingShardError(self._tars[number], reason) from error
                if tried + wait > self._retry_seconds:
                    reason = f"{reason}; tried for {tried:.0f} seconds"
                    raise MissingShardError(self._tars[number], reason) from error
                self._tell(number, reason)
            self._closed.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
        raise MissingShardError(self._tars[number], "its loader was closed while it was waited for")

    def close(self) -> None:
        """Gives up what is tried again or has not begun, and lets go of all objects. A request under way goes on."""
        self._closed.set()
        with self._lock:
            self._open.clear()

    def _file(self, number: int) -> storage.Remote:
        """The object, whose size is asked for once, however many wait for it: they share the answer or the failure."""
        with self._lock:
            file = self._open.get(number)
            if file is not None:
                self._open.move_to_end(number)
                return file
            others = self._opening.get(number)
            if others is None:
                opening = self._opening[number] = Future()
        if others is not None:
            return others.result()
        try:
            file = storage.Remote(str(self._tars[number]))
        except BaseException as error:
            with self._lock:
                del self._opening[number]
            opening.set_exception(error)
            raise
        with self._lock:
            del self._opening[number]
            self._open[number] = file
            while len(self._open) > self._max_open:
                self._open.popitem(last=False)
        opening.set_result(file)
        return file

    def _tell(self, number: int, reason: str) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            print(
                f"cxr: warning: {self._tars[number]}: {reason}; trying again for {self._retry_seconds:g} seconds",
                file=sys.stderr,
                flush=True,
            )
