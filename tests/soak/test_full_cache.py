"""A cache on a disk that is full, and has room again."""

from pathlib import Path

import pytest

from loaders.store import StoreOptions
from tests.loaders.samples import as_bytes, make_samples, make_tars, open_store, wanted
from tests.soak.test_full_disk import resize, small_disk

__all__ = ["small_disk"]

pytestmark = [pytest.mark.soak, pytest.mark.root]


def test_every_byte_is_right_and_it_is_told_once(
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tars = make_tars(tmp_path / "set")
    samples, data = make_samples(tars, 300)
    (small_disk / "cache").mkdir()
    store = open_store(tars, StoreOptions(cache=small_disk / "cache"))
    assert as_bytes(store.submit(wanted(samples[:50])).result()) == data[:50]
    rest = small_disk / "rest"
    with pytest.raises(OSError, match="No space"):
        rest.write_bytes(bytes(2 << 20))
    for _ in range(2):
        assert as_bytes(store.submit(wanted(samples)).result()) == data
    assert store.counters.snapshot().cache_unkept > 0
    assert capsys.readouterr().err.count("the disk is full") <= 1
    store.close()
    resize(small_disk, "10m")
    rest.unlink()
    again = open_store(tars, StoreOptions(cache=small_disk / "cache"))
    for _ in range(2):
        assert as_bytes(again.submit(wanted(samples)).result()) == data
    assert again.counters.snapshot().cache_unkept == 0
    again.close()
