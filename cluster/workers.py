"""One training function in one process, under torchrun, or on Ray Train's workers: the only importer of ray.train."""

import contextlib
import importlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cluster import world
from cluster.copies import check_lasting
from cluster.scale import ScaleConfig
from cluster.tasks import available_cores

C = TypeVar("C")

_SNAPSHOT = "checkpoint_manager_snapshot.json"
_DETERMINISTIC = (ValueError, FloatingPointError)
_OBJECT_STORE_BYTES = 128 << 20
_MIN_OBJECT_STORE_BYTES = 80 << 20


def run_on_workers(train: Callable[[C], None], config: C, scale: ScaleConfig, run_dir: Path) -> None:
    """Calls `train(config)` on every rank and returns when all have ended.

    0 workers: in this process, which is one rank of several where torchrun launched it. Otherwise on Ray Train's
    workers, on the cluster of RAY_ADDRESS or of the job that this is, else on a Ray of our own on this machine, ended
    afterwards. `train` restores the newest checkpoint itself, so that a retry is just another call. `train` and
    `config` must pickle; `run_dir` must be the same folder on every node.

    What `train` raises is raised here with its own class and message. Neither ValueError nor FloatingPointError (a
    loss that is not finite) is retried: both would come again. On a Ray of our own ValueError also says what workers
    it has no place for.
    """
    check_lasting(run_dir, "run_dir")
    if scale.workers == 0 or world.is_launched():
        if scale.workers and world.is_launched():
            raise ValueError(
                f"scale.workers is {scale.workers} inside a process that torchrun launched: "
                "give --scale.workers 0 there, or start without torchrun"
            )
        world.set_timeout(scale.timeout_seconds)
        train(config)
        return
    run_dir = run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / _SNAPSHOT).unlink(missing_ok=True)  # names checkpoints of an earlier start; ours are what counts
    with open_ray(scale):
        _check_room(scale)
        _fit(train, config, scale, run_dir)


def report(metrics: dict[str, float], checkpoint_dir: Path | None) -> None:
    """Tells Ray Train about numbers and, where there is one, a finished checkpoint folder under the run's folder.

    The folder is registered where it lies and not copied. Every rank must call this equally often: it is a barrier
    that may take half a second, so call it per checkpoint and not per step.
    Does nothing outside Ray Train's workers.
    """
    if "ray.train" not in sys.modules:
        return
    from ray import train
    from ray.train.v2.api.report_config import CheckpointUploadMode

    if not _on_ray_train():
        return
    checkpoint = None if checkpoint_dir is None else train.Checkpoint.from_directory(str(checkpoint_dir.resolve()))
    train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)


def _on_ray_train() -> bool:
    from ray.train.v2._internal.execution.train_fn_utils import get_train_fn_utils

    try:
        get_train_fn_utils()
    except RuntimeError:
        return False
    return True


def _is_alone() -> bool:
    """True where no cluster is known, so that Ray is started here and ends with this process."""
    return not os.environ.get("RAY_ADDRESS")


def _set_environment(scale: ScaleConfig) -> None:
    """Settings that Ray reads when it is imported or started; what the user has set stays."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative paths keep their meaning
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(scale.start_timeout_seconds))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # a report waits for the next of these
    if _is_alone():
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    if "ray" not in sys.modules and _is_alone() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # read once, at the import; other users of this machine stay out
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def open_ray(scale: ScaleConfig) -> Iterator[None]:
    """A connection to Ray: the one that is open, the cluster that is known, or a cluster of this process's own."""
    _set_environment(scale)
    importlib.import_module("ray.train.torch")  # before ray.init(): the other order may crash on a fresh cluster
    import ray

    if ray.is_initialized():
        yield
        return
    on_termination = signal.getsignal(signal.SIGTERM)
    if _is_alone():
        _start_local_ray(scale)
    else:
        ray.init(logging_level="warning")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_termination)  # Ray has put in one that aborts
    try:
        yield
    finally:
        ray.shutdown()


def _check_room(scale: ScaleConfig) -> None:
    """ValueError where a Ray of our own can never place the workers; a word where a cluster cannot yet: it may grow."""
    import ray

    total = ray.cluster_resources()
    lacking = missing_room(scale, total.get("CPU", 0.0), total.get("GPU", 0.0))
    if lacking and _is_alone():
        raise ValueError(lacking)
    if lacking:
        print(f"cxr: warning: {lacking}; waiting, for the cluster may grow", file=sys.stderr, flush=True)


def missing_room(scale: ScaleConfig, num_cores: float, num_gpus: float) -> str:
    """What the workers (of an elastic run: the least) lack where there are so many cores and GPUs; "" for nothing."""
    gpus, cores = scale.workers * scale.gpus_per_worker, scale.workers * scale.cpus_per_worker
    if gpus > num_gpus:
        return (
            f"scale.workers {scale.workers} with scale.gpus_per_worker {scale.gpus_per_worker} need {gpus} GPU(s), and "
            f"there are {num_gpus:g}: give fewer workers, or --scale.gpus_per_worker 0 to train on the CPU"
        )
    if cores > num_cores:
        return (
            f"scale.workers {scale.workers} with scale.cpus_per_worker {scale.cpus_per_worker} need {cores} cores, and "
            f"there are {num_cores:g}: give fewer of either"
        )
    return ""


def _start_local_ray(scale: ScaleConfig) -> None:
    """Ray on this machine alone: no dashboard, no more shared memory than there is, and closed by the token.

    Ray listens on all interfaces whatever address it is given, so the token is what keeps strangers out.
    """
    import ray

    root = str(Path(__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])  # workers import what this process imports
    shared = os.statvfs("/dev/shm")
    room = shared.f_bavail * shared.f_frsize // 2
    num_workers = max(scale.workers, scale.max_workers)
    ray.init(
        address="local",
        num_cpus=max(
            num_workers * scale.cpus_per_worker, available_cores()
        ),  # more workers than cores is slow, not wrong
        include_dashboard=False,
        logging_level="warning",
        log_to_driver=True,
        object_store_memory=max(_MIN_OBJECT_STORE_BYTES, min(_OBJECT_STORE_BYTES, room)),
    )


def _fit(train: Callable[[C], None], config: C, scale: ScaleConfig, run_dir: Path) -> None:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.execution import context as execution_context
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    resources: dict[str, float] = {"CPU": scale.cpus_per_worker}
    if scale.gpus_per_worker:
        resources["GPU"] = scale.gpus_per_worker
    on_gpu = scale.gpus_per_worker > 0
    alone = _is_alone()

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            """Without the guard of abandoned places, which needs a dashboard: a Ray of our own ends with us."""
            callbacks = super()._create_default_callbacks()
            return [each for each in callbacks if not (alone and "PlacementGroupCleaner" in type(each).__name__)]

        def _register_sigint_handler(self, controller: Any) -> None:
            """Ctrl-C stays Python's: Ray's own handler leaves in silence, with any status."""

    def on_worker() -> None:
        logging.getLogger(execution_context.__file__).setLevel(logging.WARNING)  # it tells every report
        if not os.environ.get("CXR_DEBUG"):
            logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # a traceback; the driver says it in a line
        if not on_gpu:
            os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
        world.set_timeout(scale.timeout_seconds)
        train(config)

    trainer = Trainer(
        on_worker,
        torch_config=TorchConfig(
            backend=world.backend_for("cuda:0" if on_gpu else "cpu"), timeout_s=scale.timeout_seconds
        ),
        scaling_config=ScalingConfig(
            num_workers=(scale.workers, scale.max_workers) if scale.max_workers else scale.workers,
            use_gpu=on_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=run_dir.name,
            storage_path=str(run_dir.parent),  # Ray takes only checkpoints below storage_path/name
            failure_config=FailureConfig(max_failures=scale.retries),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": _worker_variables(scale)},
            callbacks=[_stop_at_mistakes()],
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise first_cause(list(error.worker_failures.values()), error) from None
    except ControllerError as error:
        raise first_cause([error.controller_failure], error) from None


def _worker_variables(scale: ScaleConfig) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name.startswith("CXR_")}
    threads = str(scale.cpus_per_worker)
    if _is_alone():  # in a job the variable is Ray's own, made for a driver that reserves no core
        threads = os.environ.get("OMP_NUM_THREADS", threads)
    return {**ours, "OMP_NUM_THREADS": threads, "RAY_CHDIR_TO_TRIAL_DIR": "0"}


def _stop_at_mistakes() -> Any:
    """A Ray Train callback that ends the run at what is as wrong at the next attempt."""
    from ray.train import UserCallback
    from ray.train.v2.api.exceptions import ControllerError

    class StopAtMistakes(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            cause = first_cause(list(worker_exceptions.values()), None)
            if isinstance(cause, _DETERMINISTIC):
                raise ControllerError(cause)

    return StopAtMistakes()


def first_cause(errors: list[Any], otherwise: Exception | None) -> Exception:
    """What `train` itself raised, out of Ray's wrappings; what is never retried before anything else.

    When one rank stops, the others fail too, with errors of their broken connections: those come last.
    """
    causes = [cause for error in errors if isinstance(cause := _unwrap(error), Exception)]
    ranked = sorted(causes, key=lambda cause: (not isinstance(cause, _DETERMINISTIC), _is_collateral(cause)))
    if ranked:
        return ranked[0]
    return otherwise or RuntimeError("training failed, and Ray names no cause")


def _unwrap(error: Any) -> Any:
    while True:
        inner = getattr(error, "_base_exc", None) or getattr(error, "cause", None)
        inner = inner or getattr(error, "controller_failure", None) or getattr(error, "health_check_failure", None)
        if inner is None or inner is error:
            return error
        error = inner


def _is_collateral(error: Exception) -> bool:
    text = str(error).lower()
    return any(
        sign in text for sign in ("connection closed by peer", "connection reset", "gloo", "nccl", "broken pipe")
    )
