"""Which code this is, for every artifact to say where it came from."""

import configparser
import importlib.metadata
import os
import subprocess
from functools import cache
from pathlib import Path

DISTRIBUTION = "barlow-cxr"
VERSION_VARIABLE = "CXR_CODE_VERSION"
"""names the commit in a job's uploaded copy, which is no clone"""


_ROOT = Path(__file__).resolve().parents[1]


@cache
def release() -> str:
    """The version of the installed distribution; of setup.cfg beside this code where it is a bare copy; "0+unknown"."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        settings = configparser.RawConfigParser()
        settings.read(_ROOT / "setup.cfg", encoding="utf-8")
        if settings.get("metadata", "name", fallback="") != DISTRIBUTION:
            return "0+unknown"
        return settings.get("metadata", "version", fallback="0+unknown")


@cache
def code_version() -> str:
    """`0.1.0+g<commit>` in a clone (`.dirty` behind it where files differ), else the release."""
    version = release()
    if not (_ROOT / ".git").exists():
        return os.environ.get(VERSION_VARIABLE, version)
    words = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=.dirty", "--match=", "--abbrev=12"]
    try:
        return f"{version}+g{subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        return version
