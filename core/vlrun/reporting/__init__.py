"""What reporters are told. A reporter runs on the main rank only; built-in ones use the same hook as plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlrun.examples import Score


@dataclass(frozen=True)
class RunInfo:
    """What is known when a run starts.

    Attributes:
        experiment: name of the experiment.
        folder: the run folder.
        facts: labelled lines of the header (backbone, data, devices, recipe), in order.
        total_steps, steps_per_epoch, epochs: optimiser steps of the whole run and of an epoch.
        start_step: 0, or the step of the checkpoint that is continued.
        is_demo: whether data and sizes are those of ``--demo``; reports say so plainly.
        tensorboard, console: options that built-in reporters follow.
    """

    experiment: str
    folder: Path
    facts: Sequence[tuple[str, str]]
    total_steps: int
    steps_per_epoch: int
    epochs: int
    start_step: int = 0
    is_demo: bool = False


@dataclass(frozen=True)
class StepReport:
    """One optimiser step. Steps arrive in order, in bursts of ``train.log_every``; the rates are those of the burst.

    Attributes:
        step: from 1; epoch: from 1; task: name.
        losses: weighted mean of each named loss over the global batch; ``loss`` is their sum.
        learning_rate, gradient_norm: of this step; the norm is the global one before clipping.
        examples_per_second: over all ranks; data_wait_share: share of time spent waiting for the loader, in [0, 1].
        seconds_left: estimate for the rest of the training.
    """

    step: int
    epoch: int
    task: str
    losses: Mapping[str, float]
    loss: float
    learning_rate: float
    gradient_norm: float
    examples_per_second: float
    data_wait_share: float
    seconds_left: float


@dataclass(frozen=True)
class EvaluationReport:
    """The scores of one split at one step."""

    task: str
    split: str
    step: int
    epoch: int
    scores: Sequence[Score]
    seconds: float
    num_examples: int
    final: bool = False


@dataclass(frozen=True)
class ResultRow:
    """A line of the final table: our score beside the published one, where there is one with the same name."""

    task: str
    split: str
    score: Score
    published: float | None = None
    published_source: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``status`` is ``done``, ``stopped`` (continue with --resume) or ``failed``."""

    status: str
    message: str
    rows: Sequence[ResultRow] = field(default_factory=list)
    locations: Sequence[tuple[str, str]] = field(default_factory=list)


class Reporter:
    """Base of all reporters: every method does nothing, override what matters."""

    def start(self, run: RunInfo) -> None: ...

    def step(self, report: StepReport) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Something other than training moves on, such as the batches of an evaluation."""

    def evaluation(self, report: EvaluationReport) -> None: ...

    def note(self, message: str) -> None:
        """One remark for the reader of the console and the log."""

    def finish(self, outcome: Outcome) -> None: ...
