"""A Ray cluster of two nodes on this machine's loopback: a recipe as a job, and a node lost in mid-run."""

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

from tests.cluster.test_jobs import free_ports, processes_under
from tests.conftest import ROOT, Cxr
from tests.trainers.test_pretrain import weights_digest
from trainers.checkpoint import newest_checkpoint

pytestmark = pytest.mark.soak
RAY = str(Path(sys.executable).parent / "ray")
RECIPE = "configs/pretrain/own_radiographs_cpu.toml"


class Nodes:
    """A head and one more node, one core each, so that two workers need both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "token").write_text(secrets.token_hex(32))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.port, self.dashboard, client = free_ports(3)
        self.started: list[subprocess.Popen[bytes]] = []
        self.start(
            *("--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"),
            *(f"--ray-client-server-port={client}", f"--temp-dir={folder}"),
        )
        self.wait_for_port()
        self.start(f"--address=127.0.0.1:{self.port}")

    def start(self, *words: str) -> None:
        """One more node; it runs until it is ended."""
        agent = free_ports(1)[0]
        line = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", *words]
        line += [f"--dashboard-agent-listen-port={agent}", "--object-store-memory=100000000"]
        with open(self.folder / f"log{len(self.started)}", "wb") as log:
            self.started.append(
                subprocess.Popen(line, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def wait_for_port(self) -> None:
        """Until the dashboard answers."""
        end = time.monotonic() + 90
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.dashboard), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "log0").read_text())

    def kill(self, number: int) -> None:
        """Ends a node as a power cut does: everything below it at once."""
        os.killpg(self.started[number].pid, signal.SIGKILL)
        self.started[number].wait()

    def submit(self, *words: str) -> "subprocess.Popen[str]":
        """`ray job submit` of words, as a person types them, from the root of the project."""
        line = [
            RAY,
            "job",
            "submit",
            f"--address=http://127.0.0.1:{self.dashboard}",
            "--working-dir",
            ".",
            "--",
            *words,
        ]
        return subprocess.Popen(
            line, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="cxr", dir="/tmp"))  # short: Ray's sockets have room for 107 characters
    cluster = Nodes(folder)
    try:
        yield cluster
    finally:
        for node in cluster.started:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        for process in processes_under(folder):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def words(run: Path, shards: Path) -> list[str]:
    flags = ["--run_dir", str(run), "--data.shards", str(shards), "--global_batch", "8", "--epochs", "30"]
    return [
        "python",
        "-m",
        "trainers.pretrain",
        RECIPE,
        *flags,
        "--checkpoint.every_steps",
        "5",
        "--scale.workers",
        "2",
    ]


def test_a_recipe_submitted_to_two_nodes_survives_the_loss_of_one(
    nodes: Nodes, cxr: Cxr, vindr_set: Path, tmp_path: Path
) -> None:
    job = nodes.submit(*words(tmp_path / "a", vindr_set))
    end = time.monotonic() + 240
    while newest_checkpoint(tmp_path / "a") is None:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.2)
    nodes.kill(1)
    nodes.start(f"--address=127.0.0.1:{nodes.port}")
    said = job.communicate(timeout=480)[0]
    assert job.returncode == 0, said
    undisturbed = cxr("pretrain", *words(tmp_path / "b", vindr_set)[3:])
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert weights_digest(tmp_path / "a") == weights_digest(tmp_path / "b")
