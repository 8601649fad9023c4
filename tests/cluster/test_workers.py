"""One training function here, under torchrun, and on real Ray workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import workers
from cluster.scale import ScaleConfig
from tests.cluster.jobs_for_workers import JobConfig, sum_ranks

ROOT = Path(__file__).parents[2]


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS", "CXR_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray of our own for the module, ended after it; the environment is put back."""
    before = dict(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS", "CXR_DEBUG"):
        os.environ.pop(name, None)
    try:
        with workers.open_ray(ScaleConfig(workers=2)):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.usefixtures("clean_environment")
def test_here(tmp_path: Path) -> None:
    workers.run_on_workers(sum_ranks, JobConfig(tmp_path), ScaleConfig(), tmp_path)
    (only,) = told(tmp_path)
    assert (only["rank"], only["size"], only["sum"], only["process"]) == (0, 1, 1.0, os.getpid())
    with pytest.raises(ValueError, match=r"^data.shards is 'nowhere'"):
        workers.run_on_workers(sum_ranks, JobConfig(tmp_path, "value"), ScaleConfig(), tmp_path)


@pytest.mark.usefixtures("clean_environment")
def test_under_torchrun(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = ["-m", "tests.cluster.jobs_for_workers", str(tmp_path), "0"]
    subprocess.run([sys.executable, *words, *script], cwd=ROOT, check=True, timeout=120, capture_output=True)
    assert [(each["rank"], each["size"], each["sum"]) for each in told(tmp_path)] == [(0, 2, 3.0), (1, 2, 3.0)]


def test_torchrun_and_workers_contradict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match=r"scale.workers is 2 inside a process that torchrun launched"):
        workers.run_on_workers(sum_ranks, JobConfig(tmp_path), ScaleConfig(workers=2), tmp_path)


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_in_a_jobs_copy_is_refused(tmp_path: Path, num_workers: int) -> None:
    folder = tmp_path / "working_dir_files" / "_ray_pkg_0" / "runs"
    with pytest.raises(ValueError, match=r"run_dir: .* temporary copy of the project"):
        workers.run_on_workers(sum_ranks, JobConfig(folder), ScaleConfig(workers=num_workers), folder)


@pytest.mark.usefixtures("ray_here")
def test_two_ray_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They reduce over gloo, report a checkpoint that stays where it is, and see this folder and our variables."""
    monkeypatch.setenv("CXR_TEST_MARK", "7")
    stale = {"ray_version": "0.0.1", "checkpoint_results": [{"checkpoint_dir_name": "gone"}]}
    (tmp_path / workers._SNAPSHOT).write_text(json.dumps(stale))  # of an earlier start, with another Ray
    workers.run_on_workers(sum_ranks, JobConfig(tmp_path), ScaleConfig(workers=2), tmp_path)
    ranks = told(tmp_path)
    assert [(each["rank"], each["size"], each["sum"], each["device"]) for each in ranks] == [
        (0, 2, 3.0, "cpu"),
        (1, 2, 3.0, "cpu"),
    ]
    assert {each["cwd"] for each in ranks} == {os.getcwd()}
    assert {each["mark"] for each in ranks} == {"7"}
    assert len({each["process"] for each in ranks} | {os.getpid()}) == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000000", "step-00000001"]


@pytest.mark.usefixtures("ray_here")
def test_a_mistake_seen_by_one_worker_reaches_the_driver(tmp_path: Path) -> None:
    """With its class and message, and without a second attempt."""
    with pytest.raises(ValueError, match=r"^data.shards is 'nowhere': there is no such folder$"):
        workers.run_on_workers(sum_ranks, JobConfig(tmp_path, "value"), ScaleConfig(workers=2), tmp_path)
    assert len(list(tmp_path.glob("started-*"))) == 2


@pytest.mark.parametrize(
    ("cause", "ends"), [(ValueError("x"), True), (FloatingPointError("x"), True), (RuntimeError("x"), False)]
)
def test_what_would_come_again_ends_the_run(cause: Exception, ends: bool) -> None:
    from ray.train.v2.api.exceptions import ControllerError

    watch = workers._stop_at_mistakes()
    with pytest.raises(ControllerError) if ends else contextlib.nullcontext():
        watch.after_exception(None, {0: RuntimeError("[gloo] Connection closed by peer"), 1: Wrapped(cause)})


@pytest.mark.soak
@pytest.mark.usefixtures("ray_here")
def test_a_loss_that_is_not_finite_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"^the loss is nan at step 3$"):
        workers.run_on_workers(sum_ranks, JobConfig(tmp_path, "nan"), ScaleConfig(workers=2), tmp_path)
    assert len(list(tmp_path.glob("started-*"))) == 2


@pytest.mark.usefixtures("ray_here")
def test_more_than_there_is_is_refused_at_once(tmp_path: Path) -> None:
    for scale in (ScaleConfig(workers=99, gpus_per_worker=1), ScaleConfig(workers=1, cpus_per_worker=999)):
        began = time.monotonic()
        with pytest.raises(ValueError, match=r"need 99+ (GPU|cores).* there are \d+: give fewer"):
            workers.run_on_workers(sum_ranks, JobConfig(tmp_path), scale, tmp_path)
        assert time.monotonic() - began < 10
    assert not list(tmp_path.glob("started-*"))


def test_what_workers_lack() -> None:
    gpus = ScaleConfig(workers=2, max_workers=8, gpus_per_worker=1, cpus_per_worker=4)
    assert workers.missing_room(gpus, 8.0, 2.0) == ""
    assert "need 2 GPU(s), and there are 1:" in workers.missing_room(gpus, 8.0, 1.0)
    assert "need 8 cores, and there are 7:" in workers.missing_room(gpus, 7.0, 2.0)


@pytest.mark.soak
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("fail", ["once", "killed"])
def test_a_lost_worker_is_replaced(tmp_path: Path, fail: str) -> None:
    workers.run_on_workers(sum_ranks, JobConfig(tmp_path, fail), ScaleConfig(workers=2), tmp_path)
    assert [each["sum"] for each in told(tmp_path)] == [3.0, 3.0]


@pytest.mark.soak
@pytest.mark.usefixtures("ray_here")
def test_a_failure_ends_after_its_retries(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^the loss is not finite at step 3$"):
        workers.run_on_workers(sum_ranks, JobConfig(tmp_path, "runtime"), ScaleConfig(workers=2, retries=1), tmp_path)
    assert len(list(tmp_path.glob("started-*"))) == 4


@pytest.mark.soak
@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers_too(tmp_path: Path, number: int, status: int) -> None:
    command = [sys.executable, "-m", "tests.cluster.jobs_for_workers"]
    environment = {**os.environ, "CXR_TEST_FOLDER": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + 120
        while len(processes := [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]) < 2:
            assert running.poll() is None
            assert time.monotonic() < end, "the workers did not start"
            time.sleep(0.1)
        running.send_signal(number)
        assert running.wait(60) == status
        assert running.stderr is not None
        assert "the same command goes on where it stopped" in running.stderr.read()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < end, "a worker stayed behind"
        time.sleep(0.1)


class Wrapped(Exception):
    """As Ray wraps: the cause in an attribute."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("wrapped")
        self._base_exc = cause


def test_the_first_cause() -> None:
    lost = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1")
    bug, mistake = KeyError("x"), ValueError("mine")
    assert workers.first_cause([Wrapped(lost), Wrapped(Wrapped(bug))], None) is bug
    assert workers.first_cause([lost, bug, Wrapped(mistake)], None) is mistake
    not_finite = FloatingPointError("nan")
    assert workers.first_cause([lost, bug, Wrapped(not_finite)], None) is not_finite
    assert workers.first_cause([lost], None) is lost
    assert workers.first_cause([], bug) is bug
