"""How many processes make batches, unless an experiment says so."""

from __future__ import annotations

import torch

from vlrun.cpus import usable_cpus


def default_workers(device: torch.device) -> int:
    """Loader processes per rank: none on the CPU, where they would take cores from the model."""
    return 0 if device.type == "cpu" else min(4, max(1, usable_cpus() // max(1, torch.cuda.device_count())))
