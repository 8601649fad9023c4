import threading
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders.draws import draw_view
from loaders.plan import Items, Plan, next_position, share
from loaders.strata import Strata
from loaders.views import TwoViewConfig


def index(num_samples: int, num_shards: int, seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    digests = random.integers(0, 2**64, num_samples, dtype=np.uint64)
    return digests, np.sort(random.integers(0, num_shards, num_samples)).astype(np.int32)


@st.composite
def arguments(draw: st.DrawFn, weighted: bool | None = None) -> dict[str, object]:
    """A plan's: up to 300 samples in up to 20 shards (in order or not), several of which may hold the same images."""
    num_samples = draw(st.integers(1, 300))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    digests = random.integers(0, 2**64, num_samples, dtype=np.uint64)
    if draw(st.booleans()):
        digests = random.choice(digests[:10], num_samples)
    shard = random.integers(0, draw(st.integers(1, 20)), num_samples).astype(np.int32)
    if draw(st.booleans()):
        shard.sort()
    strata, num_items = None, num_samples
    if weighted or (weighted is None and draw(st.booleans())):
        weights = draw(st.lists(st.sampled_from([0.01, 0.3, 0.5, 1.0, 1.41, 2.0, 3.7]), min_size=1, max_size=4))
        number = np.sort(random.integers(0, len(weights), num_samples)).astype(np.uint16)
        strata = Strata(number, tuple(weights))
        num_items = sum(items_of(strata))
    return {
        "digests": digests,
        "shard": shard,
        "seed": draw(st.integers(0, 2**64 - 1)),
        "global_batch": draw(st.integers(1, num_items)),
        "drop_last": draw(st.booleans()),
        "shards_per_block": draw(st.integers(1, 25)),
        "strata": strata,
    }


def plan_of(given: dict[str, object], **others: object) -> Plan:
    return Plan(**(given | others))  # type: ignore[arg-type]


def items_of(strata: Strata) -> list[int]:
    """What each stratum gives to an epoch."""
    counts = np.bincount(strata.number_N, minlength=len(strata.weights))
    return [max(1, int(w * n + 0.5)) if n else 0 for w, n in zip(strata.weights, counts.tolist(), strict=True)]


def whole_epoch(plan: Plan, epoch: int) -> Items:
    """All of it, a last batch that is dropped left out."""
    parts = [plan.items(epoch, step) for step in range(plan.num_steps)]
    return Items(np.concatenate([p.positions_B for p in parts]), np.concatenate([p.visits_B for p in parts]))


@settings(deadline=None)
@given(arguments(weighted=False), st.integers(0, 2**31), st.integers(1, 16))
def test_every_sample_once_per_epoch_at_any_world_size(given: dict[str, object], epoch: int, size: int) -> None:
    plan = plan_of(given)
    taken = []
    for step in range(plan.num_steps):
        items = plan.items(epoch, step)
        parts = [items.positions_B[share(len(items.positions_B), rank, size)] for rank in range(size)]
        assert np.concatenate(parts).tolist() == items.positions_B.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert (items.visits_B == epoch).all()
        taken.append(items.positions_B)
    everything = np.concatenate(taken)
    assert len(np.unique(everything)) == len(everything)
    dropped = plan.num_items - len(everything)
    assert dropped == (plan.num_items % plan.global_batch if given["drop_last"] else 0)
    assert all(len(rows) == plan.global_batch for rows in taken[:-1])


@settings(deadline=None)
@given(arguments(weighted=True), st.integers(0, 3), st.integers(1, 6))
def test_strata_give_their_number_and_repeat_nothing_too_early(
    given: dict[str, object], first: int, num_epochs: int
) -> None:
    strata = given["strata"]
    assert isinstance(strata, Strata)
    plan = plan_of(given, global_batch=1, drop_last=False)
    assert plan.num_items == plan.num_steps == sum(items_of(strata))
    before: Counter[int] = Counter()
    for epoch in range(first + num_epochs):
        items = whole_epoch(plan, epoch)
        numbers = np.bincount(strata.number_N[items.positions_B], minlength=len(strata.weights))
        assert numbers.tolist() == items_of(strata)
        mine = Counter(items.positions_B.tolist())
        assert Counter(zip(items.positions_B.tolist(), items.visits_B.tolist(), strict=True)) == Counter(
            {(position, before[position] + more): 1 for position, times in mine.items() for more in range(times)}
        )  # the visits go on where they stopped, and none comes twice
        before += mine
        for k in range(len(strata.weights)):
            seen = [before[position] for position in np.flatnonzero(strata.number_N == k).tolist()]
            assert not seen or max(seen) - min(seen) <= 1


@settings(deadline=None)
@given(arguments(), st.integers(0, 5), st.data())
def test_a_step_does_not_depend_on_what_was_asked_before(
    given: dict[str, object], epoch: int, data: st.DataObject
) -> None:
    """So a resumed run sees what the whole one would have."""
    used = plan_of(given)
    for earlier in range(epoch):
        used.items(earlier, 0)
    step = data.draw(st.integers(0, used.num_steps - 1))
    whole, fresh = used.items(epoch, step), plan_of(given).items(epoch, step)
    assert fresh.positions_B.tolist() == whole.positions_B.tolist()
    assert fresh.visits_B.tolist() == whole.visits_B.tolist()


@settings(deadline=None)
@given(arguments(), st.integers(0, 4), st.data())
def test_the_order_does_not_depend_on_the_batch(given: dict[str, object], epoch: int, data: st.DataObject) -> None:
    plan = plan_of(given, drop_last=False)
    other = plan_of(given, drop_last=False, global_batch=data.draw(st.integers(1, plan.num_items)))
    whole, again = whole_epoch(plan, epoch), whole_epoch(other, epoch)
    assert whole.positions_B.tolist() == again.positions_B.tolist()
    assert whole.visits_B.tolist() == again.visits_B.tolist()


@settings(deadline=None, max_examples=50)
@given(arguments(), st.integers(0, 3), st.integers(1, 16), st.data())
def test_parameters_are_the_same_at_any_world_size_and_resume_point(
    given: dict[str, object], epoch: int, size: int, data: st.DataObject
) -> None:
    plan, resumed = plan_of(given), plan_of(given)
    step = data.draw(st.integers(0, plan.num_steps - 1))
    rank = data.draw(st.integers(0, size - 1))
    digests = np.asarray(given["digests"])
    sizes = np.stack([200 + digests % np.uint64(400), 200 + digests % np.uint64(300)], axis=1).astype(np.int32)

    def windows(items: Items, mine: slice) -> list[list[int]]:
        position = items.positions_B[mine]
        view = draw_view(TwoViewConfig(), 1, 5, items.visits_B[mine], digests[position], sizes[position])
        return np.concatenate([view.window_start_n2, view.window_size_n2], axis=1).tolist()  # type: ignore[no-any-return]

    items = plan.items(epoch, step)
    mine = share(len(items.positions_B), rank, size)
    assert windows(resumed.items(epoch, step), mine) == windows(items, slice(None))[mine]


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


def test_weights_of_one_change_nothing() -> None:
    digests, shard = index(1000, 10, 0)
    ones = Strata((np.arange(1000) // 300).astype(np.uint16), (1.0,) * 4)
    plain, weighted = Plan(digests, shard, 5, 64, True, 3), Plan(digests, shard, 5, 64, True, 3, ones)
    for step in range(plain.num_steps):
        assert plain.items(7, step).positions_B.tolist() == weighted.items(7, step).positions_B.tolist()
        assert plain.items(7, step).visits_B.tolist() == weighted.items(7, step).visits_B.tolist()


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


def test_a_step_costs_nothing_of_the_size_of_the_data() -> None:
    """Where all weights are whole numbers: the work is bounded by the blocks a step touches."""
    digests, shard = index(400_000, 400, 0)
    strata = Strata((np.arange(400_000) // 200_000).astype(np.uint16), (1.0, 3.0))
    for weighting in (None, strata):
        plan = Plan(digests, shard, 0, 64, True, 1, weighting)
        digests_read = 0

        class Counting(np.ndarray):  # type: ignore[type-arg]
            def __getitem__(self, key: object) -> object:
                nonlocal digests_read
                found = np.asarray(super().__getitem__(key))  # type: ignore[index]
                digests_read += found.size
                return found

        plan._digests_N = digests.view(Counting)
        plan.prepare(3)
        assert digests_read == 0
        plan.items(3, 17)
        assert 64 <= digests_read < 40_000


def test_threads_get_the_same_order() -> None:
    digests, shard = index(20_000, 7, 0)
    plan = Plan(digests, shard, 0, 64, True, 2, Strata((np.arange(20_000) % 2).astype(np.uint16), (1.0, 0.7)))
    found: list[bytes] = []

    def look(epoch: int) -> None:
        plan.prepare(epoch)
        found.extend(plan.items(epoch, step).positions_B.tobytes() for step in (0, 100, 200))

    threads = [threading.Thread(target=look, args=(number % 3,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 27
    assert len(set(found)) == 9


def test_last_batch_is_dropped_or_kept() -> None:
    digests, shard = index(10, 2, 0)
    assert Plan(digests, shard, 0, 4, True, 8).num_steps == 2
    kept = Plan(digests, shard, 0, 4, False, 8)
    assert [len(kept.items(0, step).positions_B) for step in range(kept.num_steps)] == [4, 4, 2]
    assert next_position(3, 1, 3) == (3, 2)
    assert next_position(3, 2, 3) == (4, 0)


def test_a_stratum_of_small_weight_gives_one() -> None:
    digests, shard = index(10, 2, 0)
    plan = Plan(digests, shard, 0, 1, False, 8, Strata((np.arange(10) > 6).astype(np.uint16), (1.0, 0.001)))
    assert plan.num_items == 8
    rare = [set(whole_epoch(plan, epoch).positions_B.tolist()) & {7, 8, 9} for epoch in range(3)]
    assert set.union(*rare) == {7, 8, 9}


@pytest.mark.parametrize(
    ("batch", "seed", "per_block", "message"),
    [
        (0, 0, 1, "global_batch = 0"),
        (11, 0, 1, "images of an epoch, 10"),
        (4, -1, 1, "seed = -1"),
        (4, 0, 0, "shards_per_block"),
    ],
)
def test_nonsense_is_refused(batch: int, seed: int, per_block: int, message: str) -> None:
    digests, shard = index(10, 2, 0)
    with pytest.raises(ValueError, match=message):
        Plan(digests, shard, seed, batch, True, per_block)
    with pytest.raises(ValueError, match="steps 0 to 1"):
        Plan(digests, shard, 0, 4, True, 1).items(0, 2)
