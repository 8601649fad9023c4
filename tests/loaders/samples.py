"""Tars of noise with samples all over them, and a process that reads them through a cache."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from cluster.storage import Place
from loaders.store import Result, Store, StoreOptions, Wanted

NUM_TARS, TAR_BYTES = 6, 200_000

Sample = tuple[int, int, int, bytes]
"""Shard, offset, length, digest."""


def digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


def make_tars(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"s-{number:06d}.tar" for number in range(NUM_TARS)]
    for number, path in enumerate(paths):
        path.write_bytes(np.random.default_rng(number).bytes(TAR_BYTES))
    return paths


def make_samples(tars: Sequence[Path], num_samples: int) -> tuple[list[Sample], list[bytes]]:
    """Parts of the tars that do not overlap, in no order, and their bytes."""
    contents = [path.read_bytes() for path in tars]
    random = np.random.default_rng(num_samples)
    per_tar = -(-num_samples // len(tars))
    most = len(contents[0]) // per_tar
    places = [(shard, number * most) for shard in range(len(tars)) for number in range(per_tar)]
    samples, data = [], []
    for place in random.permutation(len(places))[:num_samples].tolist():
        shard, offset = places[place]
        length = int(random.integers(1, most + 1))
        data.append(contents[shard][offset : offset + length])
        samples.append((shard, offset, length, digest(data[-1])))
    return samples, data


def wanted(samples: Sequence[Sample]) -> Wanted:
    shard, offset, length, digests = zip(*samples, strict=True)
    return Wanted(
        np.arange(len(samples)),
        np.array(shard, np.int32),
        np.array(offset, np.int64),
        np.array(length, np.int64),
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16),
    )


def open_store(tars: Sequence[Place], options: StoreOptions | None = None) -> Store:
    return Store(tars, "image{}".format, options or StoreOptions())


def as_bytes(results: Sequence[Result]) -> list[bytes]:
    return [result.tobytes() for result in results if isinstance(result, np.ndarray)]


def main(folder: str, cache: str, cache_bytes: str, num_epochs: str) -> None:
    """Reads all samples of the tars in `folder` again and again, checks every byte and says how often it was right."""
    tars = sorted(Path(folder).glob("*.tar"))
    samples, data = make_samples(tars, 300)
    store = open_store(tars, StoreOptions(cache=Path(cache), cache_bytes=int(cache_bytes)))
    print("ready", flush=True)
    sys.stdin.readline()
    for epoch in range(int(num_epochs)):
        order = np.random.default_rng(epoch).permutation(len(samples)).tolist()
        for begin in range(0, len(order), 50):
            part = order[begin : begin + 50]
            found = store.submit(wanted([samples[number] for number in part])).result()
            assert as_bytes(found) == [data[number] for number in part]
    store.close()
    print(store.counters.snapshot(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
