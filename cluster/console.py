"""`cxr <verb> ...` here, `cxr --on <address> <verb> ...` as a Ray job: the same words."""

import os
import sys
import traceback
from collections.abc import Sequence

from cluster.doors import UnusableModule, open_module
from cluster.spelling import nearest
from cluster.version import release

VERBS: dict[str, tuple[str, str]] = {
    "phantom": (
        "sharding.phantom.cohort",
        "draw phantom radiographs in the form of NIH and VinDr",
    ),
    "shard": ("sharding.build", "turn radiographs into a shard set: cxr shard {nih,vindr,folder}"),
    "verify": (
        "sharding.verify",
        "say whether a shard set is whole, decodable, under pseudonyms, its images bare; --repair mends it",
    ),
    "pretrain": ("trainers.pretrain", "pretrain an encoder with Barlow Twins"),
    "finetune": ("trainers.finetune", "train a detector from an encoder"),
    "predict": ("trainers.predict", "let a detector find its findings in a shard set"),
    "evaluate": ("eval.run", "measure predictions: numbers with intervals"),
    "report": ("eval.report", "write one self-contained report.html"),
    "demo": ("eval.study", "the whole chain on phantoms, in minutes"),
    "bench": ("benchmarks.door", "measure speed and memory as ratios: cxr bench {sharding,decoders}"),
    "doctor": ("cluster.doctor", "say what this machine or cluster can do, and what is missing"),
}
"""verb -> module with `main(argv) -> int`, one line of help"""


def help_text() -> str:
    """The verbs, one line each."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {line}" for verb, (_, line) in VERBS.items()]
    return "\n".join(
        [
            "usage: cxr <verb> [recipe.toml ...] [--field value ...]",
            "       cxr --on <address> <verb> ...    the same words as a Ray job, e.g. --on http://127.0.0.1:8265",
            "",
            "Chest radiographs in at one end, a detector with honest numbers out at the other.",
            "",
            *lines,
            "",
            "cxr <verb> --help shows every field, its unit and its default; --debug anywhere shows tracebacks.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the verb that `argv` (None: the process's own) begins with; gives its exit status, 2 for an unknown verb."""
    given = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in given if word != "--debug"]
    debug = ["--debug"] * (len(words) < len(given))
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        print(f"cxr {release()}")
        return 0
    address = ""
    if words[0] == "--on":
        if len(words) < 3:
            print(
                "cxr: error: --on needs an address and a verb: cxr --on http://127.0.0.1:8265 doctor", file=sys.stderr
            )
            return 2
        address, words = words[1], words[2:]
    verb, rest = words[0], [*words[1:], *debug]
    if verb not in VERBS:
        print(f"cxr: error: {verb!r} is not a verb{nearest(verb, [*VERBS])}", file=sys.stderr)
        return 2
    if address:
        from cluster import jobs

        return jobs.main(address, [verb, *rest])
    try:
        module = open_module(VERBS[verb][0])
    except UnusableModule as error:  # told here, for the door itself may be what cannot be imported
        shown = bool(debug) or os.environ.get("CXR_DEBUG", "") not in ("", "0")
        if shown:
            traceback.print_exception(error)
        hint = "" if shown else "\n(--debug shows the whole traceback)"
        print(f"cxr: error: {error}{hint}", file=sys.stderr)
        return 1
    return int(module.main(rest))


if __name__ == "__main__":
    from cluster.console import main

    sys.exit(main())
