"""The same words on a cluster: a real one, on this machine's loopback, closed by a token."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def free_ports(num: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def processes_under(folder: Path) -> list[int]:
    """The processes whose command names `folder`: Ray's, which leave their parent's group."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and int(path.name) != os.getpid():
            try:
                command = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                found.append(int(path.name))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of the dashboard, and the environment that opens it."""
    folder = Path(tempfile.mkdtemp(prefix="cxr", dir="/tmp"))  # short: Ray's sockets have room for 107 characters
    (folder / "token").write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    port, dashboard, agent, client = free_ports(4)
    words = ["start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=3"]
    words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    words += [f"--ray-client-server-port={client}", f"--temp-dir={folder}", "--object-store-memory=100000000"]
    with open(folder / "log", "w") as log:
        running = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), *words], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        end = time.monotonic() + 60
        while True:
            assert running.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "the cluster did not come up"
            try:
                socket.create_connection(("127.0.0.1", dashboard), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        running.terminate()
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
        for process in processes_under(folder):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def cxr(words: list[str], environment: dict[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.console", *words]
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_verb_on_a_cluster(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Its words arrive, spaces too; its log and its exit status come back."""
    address, environment = cluster
    answers = tmp_path / "the answers.json"
    done = cxr(["--on", address, "doctor", "--no_ray", "--json", str(answers)], environment)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "ok       python" in done.stdout
    assert json.loads(answers.read_text())[0]["question"] == "python"
    assert "ended with status 0" in done.stderr


@pytest.mark.soak
def test_a_mistake_on_a_cluster_is_a_mistake_here(cluster: tuple[str, dict[str, str]]) -> None:
    address, environment = cluster
    done = cxr(["--on", address, "doctor", "--no_rayy"], environment)
    assert done.returncode == 2
    assert "Perhaps you meant" in done.stdout


def test_strangers_stay_out(cluster: tuple[str, dict[str, str]]) -> None:
    address, environment = cluster
    stranger = {name: value for name, value in environment.items() if name != "RAY_AUTH_TOKEN_PATH"}
    done = cxr(["--on", address, "doctor"], {**stranger, "RAY_AUTH_TOKEN": "0" * 64})
    assert done.returncode == 2
    assert "the cluster refuses us" in done.stderr


def test_only_a_clone_is_uploaded(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = cluster
    done = cxr(["--on", address, "doctor"], environment, tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} is not a clone of this project" in done.stderr


@pytest.mark.soak
def test_interrupted_the_job_goes_on(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = cluster
    answers = tmp_path / "answers.json"
    command = [sys.executable, "-m", "cluster.console", "--on", address, "doctor", "--no_ray", "--json", str(answers)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while "cxr: job" not in running.stderr.readline():
            assert running.poll() is None
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        assert "goes on without us" in running.stderr.read()
        assert running.wait(20) == 130
    end = time.monotonic() + 60
    while not answers.exists():
        assert time.monotonic() < end, "the job did not go on"
        time.sleep(0.2)


@pytest.mark.soak
def test_training_and_tasks_in_a_job(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """`ray job submit`, as anybody would type it: two workers, then tasks, on the cluster."""
    address, environment = cluster
    ray = str(Path(sys.executable).parent / "ray")
    words = ["job", "submit", "--address", address, "--working-dir", str(ROOT), "--"]
    script = ["python", "-m", "tests.cluster.jobs_for_workers", str(tmp_path), "2"]
    done = subprocess.run([ray, *words, *script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout
    assert [json.loads((tmp_path / f"rank-{rank}.json").read_text())["sum"] for rank in range(2)] == [3.0, 3.0]
    assert json.loads((tmp_path / "squares.json").read_text()) == [0, 1, 4, 9, 16]
