"""The same words on a cluster: submit a verb as a Ray job, follow its log, leave with its status."""

import asyncio
import logging
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import door
from cluster.version import VERSION_VARIABLE, code_version

_CONNECT_SECONDS = 5.0
_EXCLUDES = (".git", ".venv", ".uv", "__pycache__")  # whatever the ignore files say
_TALKATIVE = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")  # every ignored file
_PASSED_ON = ("CXR_", "RAY_TRAIN_", "NCCL_", "GLOO_", "TORCH_NCCL_")


def connect(address: str) -> Any:
    """A client of the job server at `address` (`http://HOST:8265`); ValueError where none answers within seconds."""
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--on {address}: give the address of the cluster's dashboard, http://HOST:8265")
    port = parts.port or (443 if parts.scheme == "https" else 8265)
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"--on {address}: nothing answers at {parts.hostname}:{port} ({error}): is the cluster up "
            "(`ray start --head`), is this its dashboard's address, is the tunnel to it open?"
        ) from None
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(f"{parts.scheme}://{parts.hostname}:{port}")
    except AuthenticationError as error:
        raise ValueError(
            f"--on {address}: the cluster refuses us ({str(error).splitlines()[0]}): set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token"
        ) from None
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--on {address}: what answers there is not a Ray dashboard: {reason}") from None


def submit(client: Any, words: Sequence[str], folder: Path) -> str:
    """Uploads `folder` (a clone of this project) and starts `cxr <words>` in its copy; gives the job's id.

    What .gitignore and .rayignore name is not uploaded: runs, shards and data are named by absolute paths on storage
    that every node sees. Variables that begin with CXR_, RAY_TRAIN_, NCCL_ or GLOO_ go along.
    """
    if not (folder / "cluster" / "console.py").is_file():
        raise ValueError(
            f"{folder} is not a clone of this project: change into one, for its files are what is uploaded"
        )
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    environment = {
        "working_dir": str(folder),
        "excludes": list(_EXCLUDES),
        "env_vars": {"PYTHONUNBUFFERED": "1", **variables, VERSION_VARIABLE: code_version()},
    }
    entrypoint = f"python -m cluster.console {shlex.join(words)}"
    try:
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment, metadata={"verb": words[0]}))
    except (RuntimeError, ValueError) as error:
        if "exceeds" in str(error) or "too large" in str(error).lower():
            raise ValueError(
                f"{folder} is too large to upload ({str(error).splitlines()[0]}): "
                "move runs, shards and data elsewhere, or name them in .gitignore"
            ) from None
        raise


def follow(client: Any, job: str, write: Callable[[str], object]) -> int:
    """Hands the job's log to `write` until it ends; gives the exit status of its command (130 where it was stopped)."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            write(text)

    asyncio.run(tail())
    details = client.get_job_info(job)
    match str(details.status):
        case "SUCCEEDED":
            return 0
        case "STOPPED":
            return 130
        case "FAILED":
            if details.driver_exit_code is None and details.message:
                write(f"{details.message}\n")
            return int(details.driver_exit_code or 1)
        case other:
            raise RuntimeError(f"the log of job {job} ended while the job is {other}: follow it again")


def stop(client: Any, job: str) -> bool:
    """Asks the cluster to end the job; False where it had ended before."""
    return bool(client.stop_job(job))


def main(address: str, words: Sequence[str]) -> int:
    """`cxr --on <address> <words>`: submits, follows, gives the exit status. Ctrl-C leaves the job running."""
    debug = "--debug" in words
    job = ""
    try:
        client = connect(address)
        job = submit(client, words, Path.cwd())
        print(f"cxr: job {job} on {address}", file=sys.stderr)
        status = follow(client, job, lambda text: (sys.stdout.write(text), sys.stdout.flush()))
    except KeyboardInterrupt:
        print(f"\ncxr: {_how_to_go_on(address, job)}", file=sys.stderr)
        return 130
    except ValueError as error:
        return door.tell("cxr", str(error), error, 2, debug)
    except Exception as error:
        return door.tell("cxr", door.explain(error), error, 1, debug)
    print(f"cxr: job {job} ended with status {status}", file=sys.stderr)
    return status


def _how_to_go_on(address: str, job: str) -> str:
    if not job:
        return "interrupted before the job was submitted"
    return (
        f"job {job} goes on without us\n"
        f"  follow:  ray job logs --follow --address {address} {job}\n"
        f"  ask:     ray job status --address {address} {job}\n"
        f"  end:     ray job stop --address {address} {job}"
    )
