"""`cxr bench NAME [flags]`: the benches by name; each is also a module, `python -m benchmarks.NAME`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster import door
from cluster.doors import UnusableModule, open_module
from cluster.spelling import nearest

BENCHES: dict[str, tuple[str, str]] = {
    "sharding": ("benchmarks.sharding", "images/s of `cxr shard` against a plain writer and the codecs' ceilings"),
    "loader": ("benchmarks.loader", "two views of every image, images/s beside the reference and other loaders"),
    "plan": ("benchmarks.plan", "the cost of a step and of a start at 10^5, 10^6 and 10^7 rows"),
    "decoders": ("benchmarks.decoders", "DICOM decoders per transfer syntax, ms per image"),
}
"""name -> module with `main(argv) -> int`, one line of help"""


def help_text() -> str:
    """The benches, one line each."""
    width = max(map(len, BENCHES))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in BENCHES.items()]
    return "\n".join(["usage: cxr bench NAME [--field value ...]", "", *lines, "", "cxr bench NAME --help: its fields"])


def main(argv: Sequence[str] | None = None) -> int:
    """The verb: first word the bench, then its flags. Gives the exit status, 2 for an unknown bench."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["--help"], ["-h"]):
        print(help_text())
        return 0
    if not words or words[0] not in BENCHES:
        if words and not words[0].startswith("-"):
            hint = nearest(words[0], [*BENCHES])
            print(f"cxr bench: error: {words[0]!r} is not a bench{hint}", file=sys.stderr)
        else:
            print(help_text(), file=sys.stderr)
        return 2
    try:
        module = open_module(BENCHES[words[0]][0])
    except UnusableModule as error:
        return door.tell("cxr bench", str(error), error, 1, "--debug" in words)
    return int(module.main(words[1:]))


if __name__ == "__main__":
    from benchmarks.door import main as imported_main

    sys.exit(imported_main())
