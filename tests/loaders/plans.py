"""What tests of plans share: index columns, arguments of plans, and whole epochs of them."""

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from loaders.plan import Items, Plan
from loaders.strata import Strata


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
        num_items = Plan(digests, shard, 0, 1, False, 1, strata).num_items
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


def whole_epoch(plan: Plan, epoch: int) -> Items:
    """All of it, a last batch that is dropped left out."""
    parts = [plan.items(epoch, step) for step in range(plan.num_steps)]
    return Items(np.concatenate([p.positions_B for p in parts]), np.concatenate([p.visits_B for p in parts]))
