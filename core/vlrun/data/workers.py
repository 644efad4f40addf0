"""The processes that make batches: how many, unless an experiment says so, and that none outlives its parent."""

from __future__ import annotations

import os
import signal
from types import FrameType

import torch

from vlrun.cpus import usable_cpus
from vlrun.errors import DistributedError


def default_workers(device: torch.device) -> int:
    """Loader processes per rank: none on the CPU, where they would take cores from the model."""
    return 0 if device.type == "cpu" else min(4, max(1, usable_cpus() // max(1, torch.cuda.device_count())))


class EndsWith:
    """Ends a new worker whose parent is gone already; torch looks only whether the parent changes after this."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, worker: int) -> None:
        if os.getppid() != self.parent:
            os._exit(DistributedError.exit_status)


def lost_worker(error: RuntimeError) -> DistributedError:
    """What torch says of a worker that has ended or does not answer, as an error of ours."""
    return DistributedError(
        f"train.workers: a loader worker was killed or hangs ({str(error).splitlines()[0]}). Did memory run out? "
        "--resume continues from the last checkpoint; fewer workers need less"
    )


def name_lost_workers() -> None:
    """Makes torch's handler raise ``lost_worker``: it may be called in the middle of anything, so nothing else can."""
    of_torch = signal.getsignal(signal.SIGCHLD)
    if not callable(of_torch) or getattr(of_torch, "names_lost_workers", False):
        return  # loaders of other threads have no handler, and find out when they wait

    def handler(number: int, frame: FrameType | None) -> None:
        try:
            of_torch(number, frame)
        except RuntimeError as error:
            raise lost_worker(error) from error

    handler.names_lost_workers = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handler)
