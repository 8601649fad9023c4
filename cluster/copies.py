"""A Ray job runs in an uploaded copy of the project that goes with the job: no result may be written into it."""

import dataclasses
from pathlib import Path
from typing import Any

from cluster.storage import is_remote

_COPIES, _COPY = "working_dir_files", "_ray_pkg_"
_WRITTEN = ("out", "run_dir", "key_file", "json")
"""The fields of the verbs' configs that name what a verb writes."""


def check_lasting(path: Path, field: str) -> None:
    """Raises ValueError, which names `field` and the repair, where `path` lies in a job's copy of the project."""
    whole = path.resolve()
    if any(parent.name.startswith(_COPY) and parent.parent.name == _COPIES for parent in (whole, *whole.parents)):
        raise ValueError(
            f"{field}: {path} lies in this job's temporary copy of the project and would go with it: "
            "give an absolute path on a disk that all nodes share"
        )


def check_outputs(config: Any) -> None:
    """`check_lasting` of every path that `config` (one verb's) says to write to."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _WRITTEN and isinstance(value, str | Path) and value and not is_remote(value):
            check_lasting(Path(value), field.name)
