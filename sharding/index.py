"""What a shard set holds: its manifest (the commit point) and its index, one row per sample.

A shard set is a folder of `<name>-000000.tar` ... with `<name>-000000.idx` ... (for DALI's own reader),
`index.parquet` and `manifest.json`, which is written last. Each later delivery (`--append`) adds tars, an
`index-000001.parquet` of its own and a manifest that names all; the manifest before it stays as `manifest-000000.json`.

Shapes: N samples, n of them, K boxes of one sample, B boxes of several.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import storage
from cluster.files import sha256_file
from cluster.kept import cache_folder, kept
from cluster.storage import Place, is_remote
from sharding import columns
from sharding.filters import Filter
from sharding.manifest import below, earlier_manifest, index_names, read_manifest, shard_name, sizes_in
from sharding.schema import INDEX_SCHEMA

_BATCH_ROWS = 65_536
_checked: set[tuple[str, int, int, str]] = set()
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


class ShardSet:
    """A complete shard set, opened for reading. Columns of its index come into memory when they are asked for."""

    def __init__(self, place: Place, manifest: dict[str, Any], digest: str, cache: Path | None = None) -> None:
        """`place`: a Path, or the URL of a folder in an object store. `cache`: where its index is then kept."""
        self.place = place
        self.manifest = manifest
        self.digest = digest
        self.findings: tuple[str, ...] = tuple(manifest["findings"])
        self.num_levels: int = manifest["num_levels"]
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._cache = cache
        self._held: dict[str, bytes] = {}

    @staticmethod
    def open(place: Place, version: int | None = None, cache: Path | None = None) -> ShardSet:
        """The shard set in a folder or at a URL, as it is or as it was with its first `version` deliveries.

        `cache`: folder in which the index of a set in an object store is kept (default: `cluster.kept`'s), so that
        the next opening fetches the manifest and a listing. Raises ValueError, with the repair, where there is no
        set, where it is incomplete or has lost files, where a newer program wrote it or where it may not be read;
        OSError where a disk or an object store does not answer. Digests of tars are `sharding.verify`'s work.
        """
        place = place if is_remote(place) else Path(place)
        try:
            return _open(place, version, cache)
        except OSError as error:
            if is_remote(place) and (storage.lasting(error) or error.errno == errno.EKEYEXPIRED):
                raise ValueError(f"{place} cannot be opened: {error.strerror}") from None
            raise

    @property
    def directory(self) -> Path:
        """The folder it is in. Raises ValueError where it is in an object store."""
        if isinstance(self.place, Path):
            return self.place
        raise ValueError(f"{self.place} is in an object store, and this needs a folder on a disk: copy the set here")

    def __len__(self) -> int:
        return int(self.manifest["num_samples"])

    def table(self, names: Sequence[str]) -> pa.Table:
        """These columns of the index."""
        missing = [name for name in names if name not in self._columns]
        if missing:
            parts = [pq.read_table(self._index(name), columns=missing) for name in index_names(self.manifest)]
            whole = pa.concat_tables(parts).combine_chunks()
            self._columns |= {name: whole.column(name) for name in missing}
        return pa.table({name: self._columns[name] for name in names})

    def batches(self, names: Sequence[str], dictionaries: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """These columns of the index, some ten thousand rows at a time, not kept; `dictionaries`: those that hold few
        different strings, as numbers and a dictionary."""
        for name in index_names(self.manifest):
            with pq.ParquetFile(self._index(name), read_dictionary=list(dictionaries), pre_buffer=False) as file:
                yield from file.iter_batches(_BATCH_ROWS, columns=list(names))

    def rows(
        self,
        split: str | Sequence[str] | None,
        has_boxes: bool | None = None,
        only: Filter | None = None,
    ) -> npt.NDArray[np.int64]:
        """Row numbers in index order, of one split, of several, or (None) of all, that the filter takes.

        `has_boxes`: True keeps images that were annotated with boxes (also where none was drawn), False the others.
        Raises ValueError where `only` names a finding that the set has not.
        """
        keep_N = np.ones(len(self), dtype=bool)
        if split is not None:
            wanted = [split] if isinstance(split, str) else list(split)
            begin = 0
            for batch in self.batches(["split"], ["split"]):
                column = batch.column("split")
                takes = np.asarray(pc.is_in(column.dictionary, value_set=pa.array(wanted, pa.string())))
                keep_N[begin : begin + len(column)] = takes[columns.numbers(column.indices, np.int64)]
                begin += len(column)
        if has_boxes is not None:
            keep_N &= self.boxes.known == has_boxes
        if only is not None and only.terms:
            keep_N &= only.mask(self.table(only.columns), self.findings)
        return np.flatnonzero(keep_N).astype(np.int64, copy=False)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the index as NumPy [N]; strings and lists as objects, None where unknown."""
        return np.asarray(self.table([name]).column(name).to_numpy())

    def level(self, number: int) -> columns.LevelColumns:
        """Where the images of a level lie: 0 is full size, up to `num_levels - 1`."""
        if not 0 <= number < self.num_levels:
            raise ValueError(f"{self.place} has levels 0 to {self.num_levels - 1}, not {number}")
        return self.levels(np.arange(len(self), dtype=np.int64))[number]

    def levels(self, rows_n: npt.NDArray[np.int64]) -> tuple[columns.LevelColumns, ...]:
        """Where the images of each level of these rows (ascending) lie; not kept. Raises ValueError where the index is
        not what `cxr shard` writes."""
        try:
            return columns.levels(self.batches(["levels"]), self.num_levels, rows_n)
        except ValueError as error:
            raise self._broken(error) from None

    def identities(self, rows_n: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        """First 64 bits of the digests of these rows (ascending), uint64 [n], and height and width of their original
        images, int32 [n, 2]; not kept. Raises ValueError as `levels` does."""
        words_n, sizes_n2 = np.empty(len(rows_n), np.uint64), np.empty((len(rows_n), 2), np.int32)
        try:
            for batch, taken, local in columns.chosen(self.batches(["digest", "height", "width"]), rows_n):
                words_n[taken] = columns.digest_words(columns.from_hex(batch.column("digest")))[local]
                sizes_n2[taken, 0] = columns.numbers(batch.column("height"), np.int32)[local]
                sizes_n2[taken, 1] = columns.numbers(batch.column("width"), np.int32)[local]
        except ValueError as error:
            raise self._broken(error) from None
        return words_n, sizes_n2

    @cached_property
    def boxes(self) -> columns.Lists:
        """Boxes of all rows: `finding`, and `x_min`, `y_min`, `x_max`, `y_max` in original pixels."""
        fields = {"finding": np.int16, **dict.fromkeys(_CORNERS, np.float32)}
        return columns.lists(self.batches(["boxes"]), len(self), fields)

    @cached_property
    def found(self) -> columns.Lists:
        """Findings of all rows, as positions in `findings`."""
        return columns.lists(self.batches(["findings"]), len(self), {"": np.int16})

    def boxes_of(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Boxes of a row: x_min, y_min, x_max, y_max in original pixels float32 [K, 4], and their findings [K].

        K is 0 both where nobody annotated and where nothing was found; `rows(..., has_boxes=True)` tells them apart.
        """
        return self.boxes_of_rows(np.array([row]))[:2]

    def boxes_of_rows(
        self, rows_n: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Boxes of these rows, one row's after another's: corners float32 [B, 4], findings [B], and which of `rows_n`
        each is of [B]."""
        place_B, row_B = self.boxes.of(rows_n)
        values = self.boxes.values
        corners_B4 = np.stack([values[name][place_B] for name in _CORNERS], axis=1)
        return corners_B4, values["finding"][place_B].astype(np.int64), row_B

    def key_of(self, row: int) -> str:
        """Key of a row."""
        return str(self.table(["key"]).column("key")[row].as_py())

    def findings_of(self, row: int) -> tuple[int, ...] | None:
        """Findings of a row as positions in `findings`; () is healthy, None unknown."""
        value = self.table(["findings"]).column("findings")[row].as_py()
        return None if value is None else tuple(value)

    def shard_path(self, shard: int) -> Path:
        """The tar with this number, on a disk."""
        return self.directory / shard_name(str(self.manifest["name"]), shard)

    def shard_place(self, shard: int) -> Place:
        """The tar with this number: a Path, or a URL."""
        return below(self.place, shard_name(str(self.manifest["name"]), shard))

    def shard_digest(self, shard: int) -> str:
        """sha256 of the tar with this number, 64 hex digits."""
        return str(self.manifest["files"][shard_name(str(self.manifest["name"]), shard)]["sha256"])

    def _broken(self, error: ValueError) -> ValueError:
        return ValueError(f"the index of {self.place}: {error}; run `cxr verify {self.place}`")

    def _index(self, name: str) -> Any:
        """An index as pyarrow reads it: a path, or bytes where there is nowhere to keep them."""
        if isinstance(self.place, Path):
            return self.place / name
        if name not in self._held:
            entry = self.manifest["files"][name]
            folder = None if self._cache is None else self._cache / "index"
            found = kept(str(below(self.place, name)), entry["bytes"], entry["sha256"], folder)
            if isinstance(found, Path):
                return found
            self._held[name] = found
        return pa.BufferReader(self._held[name])


def _open(place: Place, version: int | None, cache: Path | None) -> ShardSet:
    manifest, digest = read_manifest(place)
    if version is not None and version != manifest["version"]:
        if not 1 <= version <= manifest["version"]:
            raise ValueError(f"{place} has versions 1 to {manifest['version']}, not {version}")
        manifest, digest = read_manifest(place, earlier_manifest(version))
    sizes = sizes_in(place)
    for name, entry in manifest["files"].items():
        if sizes.get(name) != entry["bytes"]:
            have = f"has {sizes[name]} bytes instead of {entry['bytes']}" if name in sizes else "is missing"
            raise ValueError(f"{below(place, name)} {have}: copy the shard set again, or run `cxr verify {place}`")
    shard_set = ShardSet(place, manifest, digest, cache_folder(cache) if is_remote(place) else None)
    for name in index_names(manifest):
        if isinstance(place, Path) and not _is_as_written(place / name, manifest["files"][name]["sha256"]):
            raise ValueError(
                f"{place / name} is damaged (its sha256 is not the manifest's): copy the shard set again, or run "
                f"`cxr verify {place}`"
            )
        if not pq.read_schema(shard_set._index(name)).equals(INDEX_SCHEMA):
            raise ValueError(f"{below(place, name)} has other columns than this version: run `cxr verify {place}`")
    return shard_set


def _is_as_written(path: Path, sha256: str) -> bool:
    """Whether the file has this digest; a file that has not changed since is not read again by this process."""
    stat = path.stat()
    known = (str(path.absolute()), stat.st_size, stat.st_mtime_ns, sha256)
    if known not in _checked:
        if sha256_file(path) != sha256:
            return False
        _checked.add(known)
    return True
