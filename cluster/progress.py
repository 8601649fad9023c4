"""How far, how fast, how long still: one live line on a terminal, plain lines elsewhere (on stderr)."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

_TERMINAL_SECONDS = 0.2
_PLAIN_SECONDS = 10.0


def format_seconds(seconds: float) -> str:
    """`42s`, `3m05s` or `2h07m`; the sign is dropped and anything below a second is `0s`."""
    whole = int(abs(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_progress(done: int, total: int | None, seconds: float, what: str, unit: str) -> str:
    """One line without colour or newline. The time left assumes the mean rate so far; `total` None: not known."""
    rate = done / seconds if seconds > 0 else 0.0
    if not total:
        return f"{what}: {done:,} {unit}, {rate:,.1f}/s, {format_seconds(seconds)}"
    line = f"{what}: {done:,}/{total:,} {unit} ({100 * done / total:.0f} %), {rate:,.1f}/s"
    if done >= total:
        return f"{line}, took {format_seconds(seconds)}"
    return f"{line}, {format_seconds((total - done) / rate)} left" if rate > 0 else line


class Progress:
    """Counts `unit`s of `what`. Use as a context manager or call `close()`: it writes the last line."""

    def __init__(self, total: int | None, what: str, unit: str = "images", stream: TextIO | None = None) -> None:
        self._total = total
        self._what = what
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._done = 0
        self._under_way = 0
        self._closed = False
        self._started = time.monotonic()
        self._shown = self._started

    def update(self, num: int = 1) -> None:
        """`num` more are done."""
        self._done += num
        now = time.monotonic()
        if now - self._shown >= (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            self._shown = now
            self._show(now)

    def finish(self, num: int) -> None:
        """`num` more are done, all of which may have been shown as under way before."""
        self._under_way = max(0, self._under_way - num)
        self.update(num)

    def under_way(self, num: int) -> None:
        """`num` are done inside pieces of work that are not finished yet: shown at once."""
        self._under_way = num
        self.update(0)

    def close(self) -> None:
        """Writes the last line, once."""
        if self._closed:
            return
        self._closed = True
        self._show(time.monotonic())
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def _show(self, now: float) -> None:
        shown = self._done + self._under_way
        line = format_progress(shown, self._total, now - self._started, self._what, self._unit)
        self._stream.write(f"\r{line}\x1b[K" if self._terminal else f"{line}\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
