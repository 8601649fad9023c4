import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loaders.ranges import GAP_BYTES, MOST_BYTES, joined

samples = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1 << 25), st.integers(1, 1 << 22)), min_size=0, max_size=60
)


@given(samples)
def test_every_sample_is_in_one_request_and_no_request_is_needless(samples: list[tuple[int, int, int]]) -> None:
    samples = sorted(samples)
    shard_n, offset_n, length_n = np.array(samples, np.int64).reshape(-1, 3).T
    requests = list(joined(shard_n.astype(np.int32), offset_n, length_n))
    seen: list[int] = []
    for shard, begin, length, part in requests:
        members = range(len(samples))[part]
        seen += members
        ends = [samples[member][1] + samples[member][2] for member in members]
        assert {samples[member][0] for member in members} == {shard}
        assert (begin, begin + length) == (samples[members[0]][1], max(ends))
        assert length <= MOST_BYTES or len(members) == 1
        assert length <= 2 * sum(samples[member][2] for member in members)
        for member in members[1:]:
            assert samples[member][1] - max(ends[: member - members[0]]) <= GAP_BYTES
        if members[-1] + 1 < len(samples):  # what comes next is not in it for a reason
            next_shard, next_begin, next_length = samples[members[-1] + 1]
            touches = next_shard == shard and next_begin <= begin + length
            assert not touches or next_begin + next_length > begin + MOST_BYTES
    assert seen == list(range(len(samples)))


def test_small_images_far_apart_are_requests_of_their_own() -> None:
    offset_n = np.arange(50) * 20_000
    alone = list(joined(np.zeros(50, np.int32), offset_n, np.full(50, 5_000)))
    assert [length for _, _, length, _ in alone] == [5_000] * 50
    ((_, begin, length, part),) = joined(np.zeros(50, np.int32), offset_n, np.full(50, 15_000))
    assert (begin, length, part) == (0, 995_000, slice(0, 50))
