"""Collects what a few steps did, and reports it at once: reading a loss waits for the accelerator."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vlrun.engine.ranks import Ranks
from vlrun.interfaces.reporter import Reporters, StepReport

T = TypeVar("T")


class Arriving:
    """Numbers on their way from the device, (n,), which goes on working meanwhile."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers
        self._arrived: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def values(self) -> list[float]:
        """The numbers; waits for what the device did before the copy, not for what it was given since."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._numbers.tolist()
        return values


@dataclass(frozen=True)
class StepRecord:
    """What one step did.

    Attributes:
        number: which step, from 1.
        task_epoch: which of the task's own epochs, from 1.
        losses: names of the losses.
        ids: the examples of this rank.
        numbers: this rank's part of each loss, which add up over the ranks, then the norm of the gradient of all ranks
            before clipping; to be looked at while the next step is under way.
    """

    number: int
    task: str
    task_epoch: int
    losses: tuple[str, ...]
    learning_rate: float
    ids: Sequence[str]
    numbers: Arriving


class StepWindow:
    """The steps since the last report, with the time they took and the part of it spent waiting for data."""

    def __init__(self, reporters: Reporters, ranks: Ranks, steps_per_epoch: int, total_steps: int) -> None:
        self.reporters, self.ranks = reporters, ranks
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps
        self.steps: list[StepRecord] = []
        self.seconds_per_step: float | None = None
        self.restart()

    def restart(self) -> None:
        """Starts the clock anew, after something that was not training."""
        self.started = time.perf_counter()
        self.waited = 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock for work between steps that is not training."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.started += time.perf_counter() - before

    def timed(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches; the time spent getting them counts as waiting."""
        batches = iter(loader)
        while True:
            before = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - before
            yield batch

    def add(self, step: StepRecord) -> None:
        """Remembers a step until the next report."""
        self.steps.append(step)

    def report(self) -> None:
        """Sums the losses over ranks and reports each remembered step."""
        if not self.steps:
            return
        numbers = [step.numbers.values() for step in self.steps]
        parts = torch.tensor([part for *losses, _ in numbers for part in losses], dtype=torch.float64)
        summed = self.ranks.sum_tensor(parts).tolist()
        norms = [norm for *_, norm in numbers]
        examples = sum(self.ranks.sum_counts([float(len(step.ids)) for step in self.steps]))
        seconds = max(time.perf_counter() - self.started, 1e-9)
        self._note_speed(seconds / len(self.steps))

        burst = []
        position = 0
        for step, norm in zip(self.steps, norms, strict=True):
            end = position + len(step.losses)
            losses = dict(zip(step.losses, summed[position:end], strict=True))
            burst.append(self._as_report(step, losses, norm, examples / seconds, self.waited / seconds))
            position = end
        self.reporters.steps(burst)
        self.steps.clear()
        self.restart()

    def _as_report(
        self, step: StepRecord, losses: dict[str, float], norm: float, examples_per_second: float, wait_share: float
    ) -> StepReport:
        return StepReport(
            step=step.number,
            epoch=(step.number - 1) // self.steps_per_epoch + 1,
            task=step.task,
            task_epoch=step.task_epoch,
            losses=losses,
            loss=sum(losses.values()),
            learning_rate=step.learning_rate,
            gradient_norm=norm,
            examples_per_second=examples_per_second,
            data_wait_share=min(wait_share, 1.0),
            seconds_left=(self.total_steps - step.number) * (self.seconds_per_step or 0.0),
        )

    def _note_speed(self, seconds: float) -> None:
        """A slow average: one late batch must not swing the estimate of the time left."""
        previous = self.seconds_per_step
        self.seconds_per_step = seconds if previous is None else 0.8 * previous + 0.2 * seconds
