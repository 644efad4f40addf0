"""Timing: ways of doing something by turns, and the parts of a step one after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_LEAST_SECONDS = 0.05  # of a timing: below, the clock and the loop would be a part of it


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Seconds:
    """How long something took: by the clock, and of processor time of all threads of this process."""

    wall: float
    processor: float


def timed(work: Callable[[], object], device: torch.device, least: float = _LEAST_SECONDS) -> Seconds:
    """What a call took, the mean of as many as fill ``least`` seconds, or of one that takes longer."""
    synchronise(device)
    start, processor, calls = time.perf_counter(), time.process_time(), 0
    while True:
        work()
        calls += 1
        if device.type == "cpu" or calls % 8 == 0 or calls == 1:
            synchronise(device)
            if (taken := time.perf_counter() - start) >= least:
                return Seconds(taken / calls, (time.process_time() - processor) / calls)


def by_turns(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds of a call of each way; the rounds of all ways alternate, and the first call of each warms up."""
    for work in ways.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            taken[name].append(timed(work, device).wall)
        advance()
    return {name: statistics.median(values) for name, values in taken.items()}


class Laps:
    """Seconds of the parts of a step. Every moment belongs to the part that goes on, so they add up to the step."""

    def __init__(self, device: torch.device) -> None:
        """With ``waits``, which is off at first, it waits for the device wherever a part ends."""
        self.waits = False
        self._device = device
        self._seconds: dict[str, float] = {}
        self._part: str | None = None
        self._since = 0.0

    def start(self, part: str) -> None:
        """Begins a step, with this part."""
        self._seconds, self._part = {}, None
        if self.waits:
            synchronise(self._device)
        self._since, self._part = time.perf_counter(), part

    def to(self, part: str) -> None:
        """Ends the part that goes on and begins another one."""
        if self._part is not None:
            self._close()
            self._part = part

    def stop(self) -> dict[str, float]:
        """Ends the step; the seconds of its parts."""
        self._close()
        self._part = None
        return self._seconds

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Wraps a part, after which the one that it interrupts goes on."""
        before = self._part
        self.to(part)
        try:
            yield
        finally:
            if before is not None:
                self.to(before)

    def _close(self) -> None:
        assert self._part is not None, "no step was started"
        if self.waits:
            synchronise(self._device)
        now = time.perf_counter()
        self._seconds[self._part] = self._seconds.get(self._part, 0.0) + now - self._since
        self._since = now
