"""In which order a plan has the items of an epoch: block by block, mixed, the same for any batch."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.plan import Plan
from loaders.strata import Strata
from tests.loaders.plans import arguments, index, plan_of, whole_epoch


@settings(deadline=None)
@given(arguments(), st.integers(0, 4), st.data())
def test_the_order_does_not_depend_on_the_batch(given: dict[str, object], epoch: int, data: st.DataObject) -> None:
    plan = plan_of(given, drop_last=False)
    other = plan_of(given, drop_last=False, global_batch=data.draw(st.integers(1, plan.num_items)))
    whole, again = whole_epoch(plan, epoch), whole_epoch(other, epoch)
    assert whole.positions_B.tolist() == again.positions_B.tolist()
    assert whole.visits_B.tolist() == again.visits_B.tolist()


def check_blocks(ordered: npt.NDArray[np.int32], shard: npt.NDArray[np.int32], per_block: int) -> None:
    """The order of the samples' shards goes block by block."""
    seen: list[set[int]] = []
    position = 0
    while position < len(shard):  # a block is as long as the samples of its shards
        block: set[int] = set()
        end = position
        while end < len(shard) and (ordered[end] in block or len(block) < per_block):
            block.add(int(ordered[end]))
            end += 1
        assert end - position == np.isin(shard, list(block)).sum()
        seen.append(block)
        position = end
    assert sum(map(len, seen)) == len(np.unique(shard))
    assert all(len(block) == per_block for block in seen[:-1])


@settings(deadline=None)
@given(arguments(weighted=False), st.integers(0, 3))
def test_blocks_of_shards_stay_together(given: dict[str, object], epoch: int) -> None:
    plan, shard, per_block = plan_of(given, drop_last=False), given["shard"], given["shards_per_block"]
    assert isinstance(shard, np.ndarray)
    assert isinstance(per_block, int)
    check_blocks(shard[whole_epoch(plan, epoch).positions_B], shard, per_block)


def test_blocks_stay_together_where_steps_and_blocks_are_many() -> None:
    digests, shard = index(60_000, 300, 0)
    plan = Plan(digests, shard, 1, 1000, False, 7)
    check_blocks(shard[whole_epoch(plan, 2).positions_B], shard, 7)


def test_copies_of_a_sample_lie_apart() -> None:
    digests, shard = index(20_000, 20, 0)
    items = whole_epoch(Plan(digests, shard, 1, 100, False, 1, Strata(np.zeros(20_000, np.uint16), (4.0,))), 0)
    place = np.argsort(items.positions_B, kind="stable").reshape(-1, 4)  # of each sample's copies, ascending
    assert np.diff(place, axis=1).mean() == pytest.approx(80_000 / 5, rel=0.3)  # as four random places would


def test_epochs_and_seeds_differ_and_mix() -> None:
    digests, shard = index(1000, 10, 0)
    orders = [
        whole_epoch(Plan(digests, shard, seed, 1000, False, 10), epoch).positions_B
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert all((a != b).mean() > 0.95 for i, a in enumerate(orders) for b in orders[:i])
    assert abs(np.corrcoef(orders[0], np.arange(1000))[0, 1]) < 0.1


@pytest.mark.parametrize("weight", [None, 0.4, 3.0])
def test_adding_samples_to_a_block_keeps_the_others_in_order(weight: float | None) -> None:
    digests, _ = index(500, 1, 0)
    orders = []
    for number in (500, 400):
        strata = None if weight is None else Strata((np.arange(number) >= 400).astype(np.uint16), (weight, 1.0))
        plan = Plan(digests[:number], np.zeros(number, np.int32), 3, 1, False, 4, strata)
        items = whole_epoch(plan, 2)
        mine = items.positions_B < 400
        orders.append(list(zip(items.positions_B[mine].tolist(), items.visits_B[mine].tolist(), strict=True)))
    assert orders[0] == orders[1]
