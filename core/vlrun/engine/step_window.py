"""Collects what a few steps did, and reports it at once: reading a loss waits for the accelerator."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from vlrun.engine.ranks import Ranks
from vlrun.errors import NonFiniteLossError
from vlrun.interfaces.reporter import Reporters, StepReport

T = TypeVar("T")

_MAX_LISTED_IDS = 20


@dataclass(frozen=True)
class _Step:
    number: int
    task: str
    task_epoch: int
    losses: Mapping[str, Tensor]
    rate: float
    norm: Tensor
    ids: Sequence[str]


class StepWindow:
    """The steps since the last report, with the time they took and the part of it spent waiting for data."""

    def __init__(
        self, reporters: Reporters, ranks: Ranks, steps_per_epoch: int, total_steps: int, checks_norm: bool
    ) -> None:
        self.reporters, self.ranks = reporters, ranks
        self.steps_per_epoch, self.total_steps, self.checks_norm = steps_per_epoch, total_steps, checks_norm
        self.steps: list[_Step] = []
        self.seconds_per_step: float | None = None
        self.restart()

    def restart(self) -> None:
        """Starts the clock anew, after something that was not training."""
        self.started = time.perf_counter()
        self.waited = 0.0

    def timed(self, loader: Iterable[T]) -> Iterator[T]:
        """The loader's batches; the time spent in getting them counts as waiting."""
        batches = iter(loader)
        while True:
            before = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - before
            yield batch

    def add(
        self,
        number: int,
        task: str,
        task_epoch: int,
        losses: Mapping[str, Tensor],
        rate: float,
        norm: Tensor,
        ids: Sequence[str],
    ) -> None:
        """Remembers a step; ``losses`` are this rank's part, nothing is read from the device yet."""
        self.steps.append(_Step(number, task, task_epoch, losses, rate, norm, ids))

    def report(self) -> None:
        """Sums the losses over ranks and reports each remembered step.

        Raises:
            NonFiniteLossError: a loss or a gradient is infinite or not a number; names step, task and example ids.
        """
        if not self.steps:
            return
        parts = torch.stack([value for step in self.steps for value in step.losses.values()]).double()
        local = parts.tolist()
        summed = self.ranks.sum_tensor(parts).tolist()
        norms = torch.stack([step.norm for step in self.steps]).tolist()
        examples = sum(self.ranks.sum_counts([float(len(step.ids)) for step in self.steps]))
        seconds = max(time.perf_counter() - self.started, 1e-9)
        self._note_speed(seconds / len(self.steps))

        burst = []
        position = 0
        for step, norm in zip(self.steps, norms, strict=True):
            end = position + len(step.losses)
            losses = dict(zip(step.losses, summed[position:end], strict=True))
            self._check(step, losses, norm, local[position:end])
            burst.append(self._as_report(step, losses, norm, examples / seconds, self.waited / seconds))
            position = end
        self.reporters.steps(burst)
        self.steps.clear()
        self.restart()

    def _as_report(
        self, step: _Step, losses: dict[str, float], norm: float, examples_per_second: float, wait_share: float
    ) -> StepReport:
        return StepReport(
            step=step.number,
            epoch=(step.number - 1) // self.steps_per_epoch + 1,
            task=step.task,
            task_epoch=step.task_epoch,
            losses=losses,
            loss=sum(losses.values()),
            learning_rate=step.rate,
            gradient_norm=norm,
            examples_per_second=examples_per_second,
            data_wait_share=min(wait_share, 1.0),
            seconds_left=(self.total_steps - step.number) * (self.seconds_per_step or 0.0),
        )

    def _note_speed(self, seconds: float) -> None:
        """A slow average: one late batch must not swing the estimate of the time left."""
        known = self.seconds_per_step
        self.seconds_per_step = seconds if known is None else 0.8 * known + 0.2 * seconds

    def _check(self, step: _Step, losses: Mapping[str, float], norm: float, local: Sequence[float]) -> None:
        """All ranks see the same sums, so all stop; the ids come from the ranks whose own part is to blame."""
        wrong = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not wrong and self.checks_norm and not math.isfinite(norm):
            wrong = [f"gradient norm = {norm}"]
        if not wrong:
            return
        blamed = step.ids if not all(map(math.isfinite, local)) or math.isfinite(sum(losses.values())) else []
        ids = list(dict.fromkeys(self.ranks.gather(list(blamed))))
        with self.ranks.alike():
            raise NonFiniteLossError(self._explanation(step, wrong, ids))

    def _explanation(self, step: _Step, wrong: Sequence[str], ids: Sequence[str]) -> str:
        more = f" and {len(ids) - _MAX_LISTED_IDS} more" if len(ids) > _MAX_LISTED_IDS else ""
        return (
            f"step {step.number}, task {step.task}: {', '.join(wrong)}. Examples: "
            f"{', '.join(ids[:_MAX_LISTED_IDS])}{more}. No checkpoint holds this step. Look at these examples, lower "
            "train.learning_rate, or use train.precision=fp32"
        )
