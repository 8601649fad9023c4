"""A folder to write into, on a local disk or in an object store: each file is there in full or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from cluster import storage
from cluster.files import sync_folder, write_atomic

LEASE_SECONDS, RENEWAL_SECONDS = 90.0, 20.0


@dataclass(frozen=True, slots=True)
class LocalTarget:
    """A folder on a disk."""

    place: str

    def make(self) -> None:
        """The folder is there afterwards."""
        Path(self.place).mkdir(parents=True, exist_ok=True)

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of the files directly in it; empty where it is absent."""
        if not os.path.isdir(self.place):
            return {}
        return {entry.name: entry.stat().st_size for entry in os.scandir(self.place) if entry.is_file()}

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises OSError."""
        return (Path(self.place) / name).read_bytes()

    def write(self, name: str, data: bytes | str) -> None:
        """Puts a small file there."""
        write_atomic(Path(self.place) / name, data)

    def put(self, name: str, file: Path) -> None:
        """Moves a finished local file of the same disk there."""
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
        os.replace(file, Path(self.place) / name)
        sync_folder(Path(self.place))

    def remove(self, name: str) -> None:
        """Takes a file away."""
        (Path(self.place) / name).unlink()

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A local file with that content, for as long as the context lasts. Raises OSError."""
        yield Path(self.place) / name


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """A prefix in an object store. An object appears when its upload is complete."""

    place: str

    def make(self) -> None:
        """Nothing to do: an object store has no folders."""

    def sizes(self) -> dict[str, int]:
        """As LocalTarget."""
        return {f.name: 0 if f.stat is None else f.stat.num_bytes for f in storage.files_in(self.place)}

    def read(self, name: str) -> bytes:
        """As LocalTarget."""
        return storage.read(storage.join(self.place, name))

    def write(self, name: str, data: bytes | str) -> None:
        """As LocalTarget."""
        system, path = storage.file_system(storage.join(self.place, name))
        with system.open_output_stream(path) as stream:
            stream.write(data.encode() if isinstance(data, str) else data)

    def put(self, name: str, file: Path) -> None:
        """Uploads a finished local file and removes it here."""
        system, path = storage.file_system(storage.join(self.place, name))
        fs.copy_files(str(file), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)
        file.unlink()

    def remove(self, name: str) -> None:
        """As LocalTarget."""
        system, path = storage.file_system(storage.join(self.place, name))
        system.delete_file(path)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """As LocalTarget: a copy that goes with the context."""
        system, path = storage.file_system(storage.join(self.place, name))
        with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
            file = Path(folder) / name
            with system.open_input_stream(path) as stream, open(file, "wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
            yield file


Target = LocalTarget | RemoteTarget


def open_target(place: storage.Place) -> Target:
    """The folder at a path or URL; nothing is made."""
    whole = storage.absolute(place)
    return RemoteTarget(whole) if storage.is_remote(place) else LocalTarget(whole)


@contextmanager
def lease(place: str) -> Iterator[Callable[[], None]]:
    """Keeps others that ask for the lease of the same URL off it. Raises ValueError where one has it.

    Whoever asks writes an object of their own below `<place>.leases/`, then looks: with another live one there, both
    give way. So no conditional write is needed, only that a listing shows what was written before. A holder renews its
    object; one that gave no sign of life for LEASE_SECONDS, by the store's own clock, is taken for dead. A holder that
    was only suspended learns it from the function that is given: it raises RuntimeError once the lease may be lost.
    """
    folder, token = RemoteTarget(f"{place}.leases"), uuid.uuid4().hex
    folder.write(token, token)
    ended, renewed = threading.Event(), [time.monotonic()]

    def renew() -> None:
        while not ended.wait(RENEWAL_SECONDS):
            with suppress(Exception):  # the next one may get through, and `check` knows when none did
                began = time.monotonic()
                folder.write(token, token)
                renewed[0] = began

    def others() -> list[float]:
        found = {f.name: f.stat for f in storage.files_in(folder.place)}
        mine = found.pop(token, None)
        if mine is None:
            raise RuntimeError(f"{place}: another run has taken it over from this one; start again to go on")
        ages = {name: (mine.mtime_ns - stat.mtime_ns) / 1e9 for name, stat in found.items() if stat is not None}
        dead.update(name for name, age in ages.items() if age >= LEASE_SECONDS)
        return [age for age in ages.values() if age < LEASE_SECONDS]

    def check() -> None:
        if time.monotonic() - renewed[0] >= LEASE_SECONDS or others():
            raise RuntimeError(f"{place}: another run may have taken it over from this one; start again to go on")

    dead: set[str] = set()
    renewal: threading.Thread | None = None
    try:
        living = others()
        if living:
            raise ValueError(
                f"out: another run is writing {place}, or was killed {max(0.0, min(living)):.0f} s ago; "
                f"wait for it (a killed one is forgotten after {LEASE_SECONDS:.0f} s), or give another --out"
            )
        renewal = threading.Thread(target=renew, daemon=True)
        renewal.start()
        for name in dead:
            with suppress(FileNotFoundError):
                folder.remove(name)
        yield check
    finally:
        ended.set()
        if renewal is not None:
            renewal.join()  # or it could write once more after the removal
        with suppress(FileNotFoundError):
            folder.remove(token)
