"""Memory of processes, and of the device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import torch

from vlrun.interfaces.measurement import Measurement

_MIB = 2**20


class MemoryWatch:
    """The most memory that was seen: looked at between steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._main = self._workers = 0
        self._num_workers = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> None:
        """Notes what this process and its workers hold now."""
        self._main = max(self._main, anonymous_bytes("self"))
        workers = [anonymous_bytes(str(child.pid)) for child in active_children()]
        self._num_workers = max(self._num_workers, len(workers))
        self._workers = max([self._workers, *workers])

    def rows(self) -> Iterator[Measurement]:
        """What was seen."""
        if self._main:
            yield Measurement("memory", "main process, anonymous", self._main / _MIB, "MiB")
        if self._workers:
            note = f"the largest of {self._num_workers}"
            yield Measurement("memory", "loader worker, anonymous", self._workers / _MIB, "MiB", note=note)
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            yield Measurement("memory", "device, peak of tensors", peak / _MIB, "MiB")


def anonymous_bytes(process: str) -> int:
    """Memory of a process that no file backs; 0 where the system does not tell."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(match[1]) if match else 0
