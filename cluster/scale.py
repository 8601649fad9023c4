"""How wide a run goes: the part of every training config that the training itself never reads."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScaleConfig:
    """Workers, what each may take, and what happens when one is lost."""

    workers: int = 0
    """processes that train together; 0: here in this process, or as `torchrun` launched it"""
    max_workers: int = 0
    """upper end of an elastic run that starts with at least `workers`; 0: exactly `workers`"""
    cpus_per_worker: int = 1
    """CPU cores reserved for each worker (decoding threads included)"""
    gpus_per_worker: int = 0
    """GPUs reserved for each worker: 0 (train on the CPU) or 1; with 0 workers the GPU is taken where there is one"""
    retries: int = 3
    """restarts after a worker failed, -1 without end; a node taken away by the cluster is never charged"""
    timeout_seconds: int = 1800
    """seconds that a rank waits for the others in a collective before the run fails"""
    start_timeout_seconds: int = 300
    """seconds to wait for the cluster to give the workers their places"""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"scale.workers is {self.workers}: give 0 (here, in this process) or more")
        if self.max_workers and self.max_workers < max(self.workers, 1):
            raise ValueError(
                f"scale.max_workers is {self.max_workers} with scale.workers {self.workers}: "
                "give 0 (a fixed number) or at least scale.workers"
            )
        if self.max_workers and not self.workers:
            raise ValueError(f"scale.max_workers is {self.max_workers} with scale.workers 0: give scale.workers >= 1")
        if self.cpus_per_worker < 1:
            raise ValueError(f"scale.cpus_per_worker is {self.cpus_per_worker}: give 1 or more")
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(f"scale.gpus_per_worker is {self.gpus_per_worker}: give 0 or 1 (one rank drives one GPU)")
        if self.retries < -1:
            raise ValueError(f"scale.retries is {self.retries}: give -1 (without end), 0 or more")
        if self.timeout_seconds < 1:
            raise ValueError(f"scale.timeout_seconds is {self.timeout_seconds}: give 1 or more")
        if self.start_timeout_seconds < 1:
            raise ValueError(f"scale.start_timeout_seconds is {self.start_timeout_seconds}: give 1 or more")
