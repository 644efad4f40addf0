"""A trainer whose steps are taken apart: each part of it that has a place of its own tells when it begins and ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from itertools import count, islice
from typing import Any

from torch import Tensor

from vlrun.engine.device_copies import DeviceCopies
from vlrun.engine.gradients import SharedModel
from vlrun.engine.mixing import PlannedStep
from vlrun.engine.ranks import Ranks
from vlrun.engine.step_feed import LoadedStep, loaded_steps
from vlrun.engine.steps import ReadyStep, first_step, train_step
from vlrun.engine.trainer import Trainer
from vlrun.interfaces.tensors import Batch, Encoding
from vlrun.runs.bench.clock import Laps

PARTS = ("waiting", "copy", "forward", "backward", "communication", "optimiser", "other")
"""waiting: for data. forward: with the loss. optimiser: with clipping. other: bookkeeping."""


class TimedSteps:
    """Real training steps, one after the other, with the seconds of their parts."""

    def __init__(self, trainer: Trainer, num_steps: int) -> None:
        """Gets the first step ready; ``num_steps`` can be taken."""
        laps = self._laps = Laps(trainer.run.device)
        self._model = _TimedModel(trainer.model, laps)
        self._copies = _TimedCopies(trainer.copies, laps)
        trainer.model, trainer.copies = self._model, self._copies  # type: ignore[assignment]
        trainer.run.ranks = _timed_ranks(trainer.run.ranks, laps)
        trainer.run.model.train()
        self._trainer = trainer
        self._feed = _TimedFeed(loaded_steps(trainer, list(islice(planned_steps(trainer), num_steps + 1))), laps)
        self._ready = first_step(trainer, self._feed)

    @property
    def coming(self) -> ReadyStep:
        """The step that ``take`` will train."""
        assert self._ready is not None, "more steps are taken than were asked for"
        return self._ready

    def host_batches(self, step: ReadyStep) -> Sequence[Batch]:
        """The micro-batches of a step as they left the loader."""
        return [self._copies.sources[id(batch)] for batch in step.loaded.micro_batches]

    def take(self, *, apart: bool = False, alone: bool = False) -> dict[str, float]:
        """Trains a step; the seconds of its parts.

        Args:
            apart: wait for the device wherever a part ends; else it works on while the host goes on.
            alone: send no gradients to other processes.
        """
        step = self.coming
        self._laps.waits, self._model.alone = apart, alone
        self._laps.start("other")
        self._ready = train_step(self._trainer, step, self._feed).following
        taken = self._laps.stop()
        for batch in step.loaded.micro_batches:
            self._copies.sources.pop(id(batch), None)
        return taken


def planned_steps(trainer: Trainer) -> Iterator[PlannedStep]:
    """The steps of epoch after epoch, with all tasks active."""
    for epoch in count():
        yield from trainer.mix.steps(epoch, [[True] * len(trainer.run.tasks)] * (epoch + 1))


class _TimedModel:
    """Forward pass, backward pass, and what follows them."""

    def __init__(self, model: SharedModel, laps: Laps) -> None:
        self._inner, self._laps = model, laps
        self.alone = False

    def __call__(self, task: str, encoding: Encoding) -> Any:
        self._laps.to("forward")
        return self._inner(task, encoding)

    def accumulating(self, more: bool) -> AbstractContextManager[Any]:
        return self._inner.accumulating(more or self.alone)

    def backward(self, loss: Tensor) -> None:
        self._laps.to("backward")
        self._inner.backward(loss)
        self._laps.to("other")

    def drop_unused(self, used: Sequence[float]) -> None:
        self._inner.drop_unused(used)
        self._laps.to("optimiser")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _TimedCopies:
    """Copies to the device; remembers what was copied until its step is done."""

    def __init__(self, copies: DeviceCopies, laps: Laps) -> None:
        self._inner, self._laps = copies, laps
        self.sources: dict[int, Batch] = {}

    def start(self, batch: Batch) -> Batch:
        with self._laps.within("copy"):
            moved = self._inner.start(batch)
        self.sources[id(moved)] = batch
        return moved

    def wait(self, batches: Sequence[Batch]) -> None:
        with self._laps.within("copy"):
            self._inner.wait(batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _TimedFeed:
    """The steps with their data: getting one is waiting, but for the copy."""

    def __init__(self, feed: Iterator[LoadedStep], laps: Laps) -> None:
        self._inner, self._laps = feed, laps

    def __iter__(self) -> Iterator[LoadedStep]:
        return self

    def __next__(self) -> LoadedStep:
        with self._laps.within("waiting"):
            return next(self._inner)


@dataclass(frozen=True)
class _TimedRanks(Ranks):
    """The step's message to the other processes."""

    laps: Laps | None = None

    def sum_counts(self, values: list[float]) -> list[float]:
        assert self.laps is not None
        with self.laps.within("communication"):
            return super().sum_counts(values)


def _timed_ranks(ranks: Ranks, laps: Laps) -> Ranks:
    return _TimedRanks(**{field.name: getattr(ranks, field.name) for field in fields(Ranks)}, laps=laps)
