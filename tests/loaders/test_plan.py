"""What an epoch of a plan takes, how often and when, and what that costs."""

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
from tests.loaders.plans import arguments, index, plan_of, whole_epoch


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
    counts = np.bincount(strata.number_N, minlength=len(strata.weights))
    each_epoch: list[int] | None = None
    before: Counter[int] = Counter()
    for epoch in range(first + num_epochs):
        items = whole_epoch(plan, epoch)
        numbers = np.bincount(strata.number_N[items.positions_B], minlength=len(strata.weights))
        each_epoch = each_epoch or numbers.tolist()
        assert numbers.tolist() == each_epoch
        assert plan.num_items == plan.num_steps == numbers.sum()
        wanted = np.maximum(counts * strata.weights, np.minimum(counts, 1))
        assert np.abs(numbers - wanted).max() <= 0.5 + 1e-9
        mine = Counter(items.positions_B.tolist())
        assert Counter(zip(items.positions_B.tolist(), items.visits_B.tolist(), strict=True)) == Counter(
            {(position, before[position] + more): 1 for position, times in mine.items() for more in range(times)}
        )  # the visits go on where they stopped, and none comes twice
        before += mine
        for k in range(len(strata.weights)):
            seen = [before[position] for position in np.flatnonzero(strata.number_N == k).tolist()]
            assert not seen or max(seen) - min(seen) <= 1


@pytest.mark.parametrize(
    ("weight", "num_samples", "num_items"),
    [
        (1.0, 7, 7),
        (0.5, 4, 2),
        (0.5, 5, 3),
        (0.3, 10, 3),
        (0.3, 2, 1),
        (0.01, 10, 1),
        (1.41, 100, 141),
        (3.7, 3, 11),
        (2.0, 6, 12),
        (1000.0, 2, 2000),
    ],
)
def test_a_stratum_gives_its_weight_times_its_samples(weight: float, num_samples: int, num_items: int) -> None:
    digests, shard = index(20 + num_samples, 3, 0)
    plan = Plan(digests, shard, 0, 1, False, 2, Strata((np.arange(len(shard)) >= 20).astype(np.uint16), (1.0, weight)))
    assert plan.num_items == 20 + num_items
    for epoch in range(2):
        assert np.count_nonzero(whole_epoch(plan, epoch).positions_B >= 20) == num_items


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


def test_weights_of_one_change_nothing() -> None:
    digests, shard = index(1000, 10, 0)
    ones = Strata((np.arange(1000) // 300).astype(np.uint16), (1.0,) * 4)
    plain, weighted = Plan(digests, shard, 5, 64, True, 3), Plan(digests, shard, 5, 64, True, 3, ones)
    for step in range(plain.num_steps):
        assert plain.items(7, step).positions_B.tolist() == weighted.items(7, step).positions_B.tolist()
        assert plain.items(7, step).visits_B.tolist() == weighted.items(7, step).visits_B.tolist()


@pytest.mark.parametrize(
    ("weights", "for_an_epoch"),
    [
        (None, 0),
        ((1.0, 3.0), 0),
        ((1.0, 1.7), 2 * 200_000),  # epoch 3 takes places 1,020,000 to 1,360,000: the rest of a pass, and part of one
    ],
)
def test_a_step_costs_nothing_of_the_size_of_the_data(weights: tuple[float, ...] | None, for_an_epoch: int) -> None:
    """And an epoch only where it takes part of a pass: that stratum once for each."""
    digests, shard = index(400_000, 400, 0)
    strata = None if weights is None else Strata((np.arange(400_000) // 200_000).astype(np.uint16), weights)
    digests_read = 0

    class Counting(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, key: object) -> object:
            return counted(np.asarray(self)[key])  # type: ignore[index]

        def take(self, *words: object, **named: object) -> object:
            return counted(np.asarray(self).take(*words, **named))  # type: ignore[call-overload]

    def counted(found: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        nonlocal digests_read
        digests_read += found.size
        return found

    plan = Plan(digests.view(Counting), shard, 0, 64, True, 1, strata)
    assert digests_read == 0
    plan.prepare(3)
    assert digests_read == for_an_epoch
    plan.items(3, 17)
    assert 64 <= digests_read - for_an_epoch < 40_000


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
