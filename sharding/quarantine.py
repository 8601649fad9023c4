"""What was set aside: the list with original names, for its owner's eyes, and when there is too much of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cluster.failure import Failure
from cluster.files import write_atomic
from sharding.options import OutputConfig
from sharding.sample import Refusal


class TooManyFailures(Failure):
    """More images or rows are unusable than the config allows; what is finished is kept."""


def quarantine_path(config: OutputConfig) -> Path:
    """Where the list lies: beside the key."""
    return config.private(".quarantine.jsonl")


def write_quarantine(config: OutputConfig, refusals: Sequence[Refusal]) -> int:
    """One JSON line each: name and reason. The file is its owner's alone (0600). Gives the number of lines.

    With `append`, what earlier deliveries have set aside stays in it.
    """
    path = quarantine_path(config)
    named = {refusal.name: refusal.reason for refusal in refusals}
    entries = [(refusal.name, refusal.reason) for refusal in refusals]
    if config.append and path.exists():
        earlier = [json.loads(line) for line in path.read_text().splitlines()]
        entries = [(entry["name"], entry["reason"]) for entry in earlier if entry["name"] not in named] + entries
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in entries]
    write_atomic(path, "".join(lines), mode=0o600)
    return len(entries)


def judge(config: OutputConfig, refusals: Sequence[Refusal], num_all: int) -> None:
    """Raises TooManyFailures where the refusals so far are more than the config allows, of `num_all` images and rows.

    The list is written first.
    """
    if not refusals or (not config.strict and len(refusals) <= config.max_bad_share * num_all):
        return
    where = ""
    if not config.dry_run:
        write_quarantine(config, refusals)
        where = f". All are listed in {quarantine_path(config)}"
    first = f"{refusals[0].name}: {refusals[0].reason}"
    if config.strict:
        raise TooManyFailures(f"{first} (--strict stops at the first)")
    raise TooManyFailures(
        f"{len(refusals):,} of {num_all:,} images and rows are unusable, more than --max_bad_share "
        f"{config.max_bad_share:g}; the first: {first}{where}"
    )
