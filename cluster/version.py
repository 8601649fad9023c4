"""Which code this is, for every artifact to say where it came from."""

import importlib.metadata
import os
import subprocess
from functools import cache
from pathlib import Path

VERSION_VARIABLE = "CXR_CODE_VERSION"
"""names the commit in a job's uploaded copy, which is no clone"""


@cache
def code_version() -> str:
    """`0.1.0+g<commit>` in a clone (`.dirty` behind it where files differ), else the package's version."""
    version = importlib.metadata.version("barlow-cxr")
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return os.environ.get(VERSION_VARIABLE, version)
    words = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--match=", "--abbrev=12"]
    try:
        return f"{version}+g{subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        return version
