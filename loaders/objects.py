"""Tars in object stores, read by offset, with patience where a store does not answer."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

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
        self._opening: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._told = False

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of a tar from `offset`, fewer where it ends.

        Raises MissingShardError where the object is gone or may not be read, or the store gave no answer for so long.
        """
        began, wait = time.monotonic(), _FIRST_WAIT_SECONDS
        while True:
            try:
                return self._file(number).read_at(offset, length)
            except OSError as error:
                reason = error.strerror or type(error).__name__
                tried = time.monotonic() - began
                if storage.lasting(error):
                    raise MissingShardError(self._tars[number], reason) from error
                if tried + wait > self._retry_seconds or self._closed.is_set():
                    reason = f"{reason}; tried for {tried:.0f} seconds"
                    raise MissingShardError(self._tars[number], reason) from error
                self._tell(number, reason)
            self._closed.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def close(self) -> None:
        """Gives up what is being tried again, and lets go of all objects."""
        self._closed.set()
        with self._lock:
            self._open.clear()

    def _file(self, number: int) -> storage.Remote:
        with self._lock:
            file = self._open.get(number)
            opening = self._opening[number]
            if file is not None:
                self._open.move_to_end(number)
                return file
        with opening:  # its size is asked for once, however many wait for it
            with self._lock:
                file = self._open.get(number)
            if file is None:
                file = storage.Remote(str(self._tars[number]))
                with self._lock:
                    self._open[number] = file
                    while len(self._open) > self._max_open:
                        self._open.popitem(last=False)
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
