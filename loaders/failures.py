"""What a store says of an image that cannot be had."""

from __future__ import annotations

from cluster.failure import Failure
from cluster.storage import Place, parent_of


class BadSampleError(Failure):
    """A stored sample cannot be used. The message names it, its shard and the repair."""

    def __init__(self, key: str, shard: Place, reason: str) -> None:
        super().__init__(
            f"sample {key!r} in {shard}: {reason}; "
            f"run `cxr verify {parent_of(shard)}`, then make or copy that shard again"
        )
        self.key = key
        self.shard = shard
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSampleError], tuple[str, Place, str]]:
        return type(self), (self.key, self.shard, self.reason)


class MissingShardError(Failure):
    """A shard that the index names cannot be read (any more)."""

    def __init__(self, shard: Place, reason: str) -> None:
        super().__init__(
            f"shard {shard} cannot be read ({reason}); is its disk or bucket still there? "
            f"Copy the shard set again, or run `cxr verify {parent_of(shard)}`"
        )
        self.shard = shard
        self.reason = reason

    def __reduce__(self) -> tuple[type[MissingShardError], tuple[Place, str]]:
        return type(self), (self.shard, self.reason)
