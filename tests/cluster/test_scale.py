"""How wide a run goes."""

import pytest

from cluster.scale import ScaleConfig


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"workers": -1}, "scale.workers is -1"),
        ({"workers": 4, "max_workers": 2}, "scale.max_workers is 2 with scale.workers 4"),
        ({"workers": 0, "max_workers": 2}, "scale.max_workers is 2 with scale.workers 0"),
        ({"cpus_per_worker": 0}, "scale.cpus_per_worker is 0"),
        ({"gpus_per_worker": 2}, "scale.gpus_per_worker is 2"),
        ({"retries": -2}, "scale.retries is -2"),
        ({"timeout_seconds": 0}, "scale.timeout_seconds is 0"),
        ({"start_timeout_seconds": 0}, "scale.start_timeout_seconds is 0"),
    ],
)
def test_nonsense_is_named(fields: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ScaleConfig(**fields)


def test_sense_is_taken() -> None:
    assert ScaleConfig(workers=2, max_workers=8, retries=-1).max_workers == 8
