from loaders.counts import Counts
from loaders.meter import Mark, between


def test_what_is_told_is_of_the_steps_between() -> None:
    before = Mark(10, 1.0, 100, 2.0, Counts(bytes_read=1000))
    now = Mark(14, 1.2, 180, 4.0, Counts(bytes_read=5000))
    told = between(before, now)
    assert told == {"data_wait_seconds": (1.2 - 1.0) / 4, "decode_images_per_second": 40.0, "read_bytes": 1000.0}


def test_a_cache_is_told_of_where_there_is_one() -> None:
    before = Mark(0, 0.0, 0, 0.0, Counts())
    told = between(before, Mark(2, 0.0, 8, 1.0, Counts(800, 600, 2, 6, 1)))
    assert (told["cache_hit_share"], told["fetched_bytes"], told["cache_unkept"]) == (0.25, 300.0, 1.0)


def test_nothing_done_is_told_without_a_division_by_zero() -> None:
    mark = Mark(3, 0.5, 24, 1.0, Counts())
    assert between(mark, mark) == {"data_wait_seconds": 0.0, "decode_images_per_second": 0.0, "read_bytes": 0.0}
