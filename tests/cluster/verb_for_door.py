"""A verb of the tests, as the real ones are built."""

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cluster import config as configs
from cluster import door


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network."""

    projector: tuple[int, ...] = (8192, 8192)
    """widths of the layers, units"""
    encoder: Literal["resnet18", "resnet50"] = "resnet50"
    """which network"""
    learning_rate: float = 0.2
    """per 256 images"""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"model.learning_rate is {self.learning_rate}: it must be above 0")


@dataclass(frozen=True, slots=True)
class VerbConfig:
    """Do one thing."""

    out: Path
    """folder of the run"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """the network"""
    shards: tuple[Path, ...] = ()
    """shard sets to draw from"""
    size_px: tuple[int, int] = (224, 224)
    """height and width"""
    limit: int | None = None
    """images at most; none: all"""
    name: str = "a run"
    """a word for the log"""
    end: Literal["well", "value", "disk", "port", "interrupt", "bug", "memory"] = "well"
    """how it ends"""
    dry_run: bool = False
    """print what would be done, and do nothing"""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}: give 1 or more, or leave it out")


def run(config: VerbConfig) -> None:
    """Ends as it is told."""
    print(configs.describe(config), end="")
    match config.end:
        case "value":
            raise ValueError("shards is 'nowhere': there is no such folder")
        case "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(config.out))
        case "port":
            raise RuntimeError("The server socket has failed to listen: EADDRINUSE, address already in use\nmore lines")
        case "interrupt":
            raise KeyboardInterrupt
        case "memory":
            raise MemoryError
        case "bug":
            raise IndexError("list index out of range")
        case "well":
            pass


def main(argv: Sequence[str] | None = None) -> int:
    """`cxr verb`"""
    return door.enter("cxr verb", VerbConfig, run, argv)


if __name__ == "__main__":
    from tests.cluster.verb_for_door import main

    sys.exit(main())
