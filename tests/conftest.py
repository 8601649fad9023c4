"""What every test may ask for."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs and annotation files (`CXR_TEST_DATA`, default `../shared/data`)."""
    folder = Path(os.environ.get("CXR_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set CXR_TEST_DATA)")
    return folder


Cxr = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cxr() -> Cxr:
    """Runs `cxr <words>` as a person would, in the root of the project; gives status, stdout and stderr."""

    def call(
        *words: object, env: Mapping[str, str] | None = None, timeout: float = 420
    ) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "cluster.console", *map(str, words)]
        return subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}
        )

    return call


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantom cohorts of 24 images each: folders `nih` and `vindr`."""
    from sharding.phantom import cohort

    out = tmp_path_factory.mktemp("phantoms")
    cohort.run(cohort.PhantomConfig(out, 24, seed=5, side_px=256))
    return out


@pytest.fixture(scope="session")
def vindr_set(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of the VinDr phantoms, 16 images a shard, 256 px."""
    from sharding import build
    from sharding.vindr import VindrConfig

    out = tmp_path_factory.mktemp("shards") / "vindr"
    build.run(VindrConfig(root=phantoms / "vindr", out=out, max_side_px=256, samples_per_shard=16))
    return out


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty bucket of an S3 server on this machine, to which AWS_ENDPOINT_URL points for the time.

    What is cached by default goes to a folder of the tests, and not to the user's.
    """
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
            patch.delenv(name, raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="radiographs")
        yield "s3://radiographs"
    server.stop()
