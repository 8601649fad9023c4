"""The door that every verb goes through: words in, an exit status out, one clear line when something is wrong."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

from cluster import config as configs
from cluster.copies import check_outputs
from cluster.failure import Failure

C = TypeVar("C")

_REPAIRS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder, then run the same again",
    errno.EACCES: "no permission: choose a folder that you may read and write, or change its owner or mode",
    errno.EPERM: "not permitted: choose a folder that you may read and write, or change its owner or mode",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EADDRINUSE: "the port is in use: end what listens there, or give another port (torchrun: --master_port)",
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n 65536`",
    errno.ENOMEM: "out of memory: use a smaller batch, fewer processes or workers, or a larger machine",
}
_PHRASES = (
    ("no space left on device", errno.ENOSPC),
    ("address already in use", errno.EADDRINUSE),
    ("eaddrinuse", errno.EADDRINUSE),
    ("out of memory", errno.ENOMEM),
    ("can't allocate memory", errno.ENOMEM),
    ("too many open files", errno.EMFILE),
)


def repair_for(error: BaseException) -> str:
    """What to do about a failure of the machine, or "" where we have no advice."""
    if isinstance(error, MemoryError):
        return _REPAIRS[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno in _REPAIRS:
        return _REPAIRS[error.errno]
    text = str(error).lower()
    return next((_REPAIRS[number] for phrase, number in _PHRASES if phrase in text), "")


def explain(error: BaseException) -> str:
    """One line: class (but of a Failure), the first line of its message, the repair where there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines and isinstance(error, Failure) else ""
    text = told or (f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
    repair = repair_for(error)
    return f"{text} ({repair})" if repair else text


def enter(prog: str, config_type: type[C], run: Callable[[C], None], argv: Sequence[str] | None) -> int:
    """Parses `argv` (None: the process's own) into a `config_type`, calls `run` with it and gives the exit status.

    0 done; 2 the user's mistake (ValueError, told as it is); 1 a failure (one line); 130 interrupted. `--debug`
    anywhere, or CXR_DEBUG=1, adds the traceback. SIGTERM unwinds as Ctrl-C does, so that children end too (143).
    An output that would go with a Ray job's copy of the project is the user's mistake too.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("CXR_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    if debug:
        os.environ["CXR_DEBUG"] = "1"  # for the workers that this process starts
    terminations: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        terminations.append(number)
        if len(terminations) > 1:  # launchers send it again and again; what is being ended is not interrupted
            return
        raise KeyboardInterrupt  # libraries let this one through, and SystemExit not always

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
    try:
        config = configs.parse(config_type, words, prog)
        check_outputs(config)
        run(config)
        sys.stdout.flush()
    except ValueError as error:
        return tell(prog, str(error), error, 2, debug)
    except KeyboardInterrupt as error:
        what, status = ("ended from outside", 143) if terminations else ("interrupted", 130)
        return tell(prog, f"{what}; the same command goes on where it stopped", error, status, debug)
    except BrokenPipeError:  # `cxr ... | head`: whoever read us has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:  # --help, and the config library's own messages
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        return tell(prog, explain(error), error, 1, debug)
    return 0


def tell(prog: str, message: str, error: BaseException, status: int, debug: bool) -> int:
    """Writes what went wrong to stderr, with the traceback where `debug`, and gives `status`."""
    sys.stdout.flush()
    if debug:
        traceback.print_exception(error)
    hint = "" if debug or status != 1 else "\n(--debug shows the whole traceback)"
    print(f"{prog}: error: {message}{hint}" if status < 128 else f"\n{prog}: {message}", file=sys.stderr)
    return status
