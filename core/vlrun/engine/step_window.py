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
            before clipping, then of what was reported first the totals and then the counts, which add up as well; to
            be looked at while the next step is under way.
        reported: names of what was reported beside the losses.
    """

    number: int
    task: str
    task_epoch: int
    losses: tuple[str, ...]
    learning_rate: float
    ids: Sequence[str]
    numbers: Arriving
    reported: tuple[str, ...] = ()


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
        own = [values[: len(step.losses)] for step, values in zip(self.steps, numbers, strict=True)]
        summed = self.ranks.sum_tensor(torch.tensor([part for parts in own for part in parts], dtype=torch.float64))
        losses = iter(summed.tolist())
        reported = [values[len(step.losses) + 1 :] for step, values in zip(self.steps, numbers, strict=True)]
        counts = [*(float(len(step.ids)) for step in self.steps), float(any(step.reported for step in self.steps))]
        *examples, reports = self.ranks.sum_counts(counts)
        scalars = self._scalars(reported) if reports else [{}] * len(self.steps)
        seconds = max(time.perf_counter() - self.started, 1e-9)
        self._note_speed(seconds / len(self.steps))

        burst = []
        for step, values, named in zip(self.steps, numbers, scalars, strict=True):
            parts, norm = {name: next(losses) for name in step.losses}, values[len(step.losses)]
            burst.append(self._as_report(step, parts, norm, sum(examples) / seconds, self.waited / seconds, named))
        self.reporters.steps(burst)
        self.steps.clear()
        self.restart()

    def _scalars(self, reported: Sequence[Sequence[float]]) -> list[dict[str, float]]:
        """What was reported in each step: totals over counts, both added up over all ranks, each of which may report
        under other names."""
        own = [
            (place, name, total, count)
            for place, (step, values) in enumerate(zip(self.steps, reported, strict=True))
            for name, total, count in zip(
                step.reported, values[: len(step.reported)], values[len(step.reported) :], strict=True
            )
        ]
        sums: dict[tuple[int, str], tuple[float, float]] = {}
        for place, name, total, count in self.ranks.gather(own):
            before = sums.get((place, name), (0.0, 0.0))
            sums[place, name] = (before[0] + total, before[1] + count)
        found: list[dict[str, float]] = [{} for _ in self.steps]
        for (place, name), (total, count) in sums.items():
            if count:  # of no item there is no mean
                found[place][name] = total / count
        return found

    def _as_report(
        self,
        step: StepRecord,
        losses: dict[str, float],
        norm: float,
        examples_per_second: float,
        wait_share: float,
        scalars: dict[str, float],
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
            scalars=scalars,
        )

    def _note_speed(self, seconds: float) -> None:
        """A slow average: one late batch must not swing the estimate of the time left."""
        previous = self.seconds_per_step
        self.seconds_per_step = seconds if previous is None else 0.8 * previous + 0.2 * seconds
