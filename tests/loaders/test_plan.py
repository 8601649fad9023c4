import threading

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.plan import Plan, block_shuffle, next_position, share


def index(num_samples: int, num_shards: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    digests = random.integers(0, 2**64, num_samples, dtype=np.uint64)
    return digests, np.sort(random.integers(0, num_shards, num_samples)).astype(np.int32)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    num_samples = draw(st.integers(1, 300))
    digests, shard = index(num_samples, draw(st.integers(1, 20)), draw(st.integers(0, 1000)))
    batch = draw(st.integers(1, num_samples))
    return Plan(digests, shard, draw(st.integers(0, 2**64 - 1)), batch, draw(st.booleans()), draw(st.integers(1, 25)))


@settings(deadline=None)
@given(plans(), st.integers(0, 2**31), st.integers(1, 16))
def test_every_sample_once_per_epoch_at_any_world_size(plan: Plan, epoch: int, size: int) -> None:
    taken = []
    for step in range(plan.num_steps):
        rows = plan.rows(epoch, step)
        parts = [rows[share(len(rows), rank, size)] for rank in range(size)]
        assert np.concatenate(parts).tolist() == rows.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        taken.append(rows)
    everything = np.concatenate(taken) if taken else np.empty(0, np.int64)
    assert len(np.unique(everything)) == len(everything)
    dropped = plan.num_samples - len(everything)
    assert dropped in (0, plan.num_samples % plan.global_batch)
    assert all(len(rows) == plan.global_batch for rows in taken[:-1])


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(0, 5), st.data())
def test_a_step_does_not_depend_on_what_was_asked_before(n: int, shards: int, epoch: int, data: st.DataObject) -> None:
    digests, shard = index(n, shards, 1)
    batch = data.draw(st.integers(1, n))
    used, fresh = (Plan(digests, shard, 9, batch, False, 3) for _ in range(2))
    for earlier in range(epoch):
        used.rows(earlier, 0)
    step = data.draw(st.integers(0, used.num_steps - 1))
    assert fresh.rows(epoch, step).tolist() == used.rows(epoch, step).tolist()


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 14), st.integers(0, 10), st.integers(0, 3))
def test_blocks_of_shards_stay_together(samples: int, shards: int, per_block: int, seed: int, epoch: int) -> None:
    digests, shard = index(samples, shards, seed)
    ordered = shard[block_shuffle(digests, shard, seed, epoch, per_block)]
    filled = len(np.unique(shard))
    seen: list[set[int]] = []
    position = 0
    while position < samples:  # a block is as long as the samples of its shards
        block: set[int] = set()
        end = position
        while end < samples and (ordered[end] in block or len(block) < per_block):
            block.add(int(ordered[end]))
            end += 1
        assert end - position == np.isin(shard, list(block)).sum()
        seen.append(block)
        position = end
    assert sum(map(len, seen)) == filled
    assert all(len(block) == per_block for block in seen[:-1])


def test_epochs_and_seeds_differ_and_mix() -> None:
    digests, shard = index(1000, 10, 0)
    orders = [block_shuffle(digests, shard, seed, epoch, 10) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert all((a != b).mean() > 0.95 for i, a in enumerate(orders) for b in orders[:i])
    assert abs(np.corrcoef(orders[0], np.arange(1000))[0, 1]) < 0.1


def test_adding_samples_to_a_block_keeps_the_others_in_order() -> None:
    digests, _ = index(500, 1, 0)
    shard = np.zeros(500, np.int32)
    more = block_shuffle(digests, shard, 3, 2, 1)
    fewer = block_shuffle(digests[:400], shard[:400], 3, 2, 1)
    assert more[more < 400].tolist() == fewer.tolist()


def test_threads_get_the_same_order() -> None:
    digests, shard = index(20_000, 7, 0)
    plan = Plan(digests, shard, 0, 64, True, 2)
    orders: list[npt.NDArray[np.int64]] = []
    threads = [threading.Thread(target=lambda e=e: orders.append(plan.order(e % 3))) for e in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({order.tobytes() for order in orders}) == 3


def test_last_batch_is_dropped_or_kept() -> None:
    digests, shard = index(10, 2, 0)
    assert Plan(digests, shard, 0, 4, True, 8).num_steps == 2
    kept = Plan(digests, shard, 0, 4, False, 8)
    assert [len(kept.rows(0, step)) for step in range(kept.num_steps)] == [4, 4, 2]
    assert next_position(3, 1, 3) == (3, 2)
    assert next_position(3, 2, 3) == (4, 0)


@pytest.mark.parametrize(
    ("batch", "seed", "per_block", "message"),
    [(0, 0, 1, "global_batch = 0"), (11, 0, 1, "samples, 10"), (4, -1, 1, "seed = -1"), (4, 0, 0, "shards_per_block")],
)
def test_nonsense_is_refused(batch: int, seed: int, per_block: int, message: str) -> None:
    digests, shard = index(10, 2, 0)
    with pytest.raises(ValueError, match=message):
        Plan(digests, shard, seed, batch, True, per_block)
    with pytest.raises(ValueError, match="steps 0 to 1"):
        Plan(digests, shard, 0, 4, True, 1).rows(0, 2)
