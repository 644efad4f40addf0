"""The processes that make batches: how many, unless an experiment says so, and that none outlives its parent."""

from __future__ import annotations

import os

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
