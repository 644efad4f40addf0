"""What reporters are told. A reporter runs on the main rank only; built-in ones use the same hook as plugins."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from vlrun.foreign.printing import say
from vlrun.interfaces.examples import Score


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
        num_tasks: tasks that are trained together.
    """

    experiment: str
    folder: Path
    facts: Sequence[tuple[str, str]]
    total_steps: int
    steps_per_epoch: int
    epochs: int
    start_step: int = 0
    is_demo: bool = False
    num_tasks: int = 1


@dataclass(frozen=True)
class StepReport:
    """One optimiser step. Steps arrive in order, in bursts of ``train.log_every``; the rates are those of the burst.

    Attributes:
        step: from 1; epoch: from 1; task: name; task_epoch: from 1, of the task's own epochs where several train.
        losses: weighted mean of each named loss over the global batch; ``loss`` is their sum.
        learning_rate, gradient_norm: of this step; the norm is the global one before clipping.
        examples_per_second: over all ranks; data_wait_share: share of time spent waiting for the loader, in [0, 1].
        seconds_left: estimate for the rest of the training.
        scalars: what the task and the callbacks report beside the losses, over the global batch.
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
    task_epoch: int = 0
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationReport:
    """The scores of one split.

    Attributes:
        step, epoch: how far the training is.
        checkpoint: the weights that were scored, where they are not those of that step.
    """

    task: str
    split: str
    step: int
    epoch: int
    scores: Sequence[Score]
    seconds: float
    num_examples: int
    final: bool = False
    checkpoint: str = ""


@dataclass(frozen=True)
class ResultRow:
    """A line of the final table: our score beside the published one, where there is one with the same name.

    Attributes:
        not_comparable: in what the run differs from what the published number holds for, in words; a difference of the
            two numbers means something only if this is empty.
    """

    task: str
    split: str
    score: Score
    published: float | None = None
    published_source: str = ""
    not_comparable: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``status`` is ``done``, ``stopped`` (continue with --resume) or ``failed``."""

    status: str
    message: str
    rows: Sequence[ResultRow] = field(default_factory=list)
    locations: Sequence[tuple[str, str]] = field(default_factory=list)


ProgressCallback = Callable[[str, int, int], None]
"""Like ``Reporter.progress``: what is going on, how much of it is done, and of how much."""


class Reporter:
    """Base of all reporters: every method does nothing, override what matters.

    A run calls ``start`` once, also when it is continued; then ``step`` for each step of a burst and ``flush`` after
    it, ``evaluation`` after each split, ``progress`` and ``note`` at any time; ``finish`` at its end, however it ends,
    and ``close`` last. One that fails before it starts calls ``close`` alone. ``runner evaluate`` and ``predict`` only
    print, and tell the reporters of the experiment nothing.

    Attributes:
        shows_notes: whether somebody who watches the run sees the notes.
        leaves: label -> path in the run folder of what it leaves there for users, which the end of a run tells them.
    """

    shows_notes = False
    leaves: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def from_config(cls, config: Any) -> Reporter:
        """The reporter with the options of an experiment; one that has options reads them here."""
        return cls()

    def start(self, run: RunInfo) -> None:
        """A run begins, or is continued; called once, before anything else."""

    def step(self, report: StepReport) -> None:
        """One step is done; ``flush`` follows when its burst is complete."""

    def flush(self) -> None:
        """A burst of steps is complete: the time to print or write what need not be done for every step."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Something other than training advances, such as the batches of an evaluation."""

    def evaluation(self, report: EvaluationReport) -> None:
        """A split was scored."""

    def note(self, message: str) -> None:
        """Passes on a remark to the reader of the console and the log."""

    def finish(self, outcome: Outcome) -> None:
        """The run has ended, in whatever way; ``close`` follows."""

    def close(self) -> None:
        """Releases files and the terminal; called once, whatever happened before."""


class Reporters(Reporter):
    """Tells several reporters the same. One that fails is left out from then on: it must not end the run.

    As a context manager it closes its reporters, also when the body raises.
    """

    def __init__(self, reporters: Iterable[Reporter]) -> None:
        self._active = list(reporters)

    @property
    def leaves(self) -> Mapping[str, str]:  # type: ignore[override]
        """What all of them leave."""
        return {label: path for reporter in self._active for label, path in reporter.leaves.items()}

    def start(self, run: RunInfo) -> None:
        self._tell("start", run)

    def step(self, report: StepReport) -> None:
        self.steps([report])

    def steps(self, burst: Sequence[StepReport]) -> None:
        """A burst of steps, in order."""
        for report in burst:
            self._tell("step", report)
        self.flush()

    def flush(self) -> None:
        self._tell("flush")

    def progress(self, what: str, done: int, total: int) -> None:
        self._tell("progress", what, done, total)

    def evaluation(self, report: EvaluationReport) -> None:
        self._tell("evaluation", report)

    def note(self, message: str) -> None:
        self._tell("note", message)

    def finish(self, outcome: Outcome) -> None:
        self._tell("finish", outcome)
        self.close()

    def close(self) -> None:
        self._tell("close")
        self._active = []

    def __enter__(self) -> Reporters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, method: str, *arguments: Any) -> None:
        for reporter in list(self._active):
            if not any(reporter is active for active in self._active):  # left out meanwhile, while passing on a note
                continue
            try:
                getattr(reporter, method)(*arguments)
            except Exception as error:
                self._leave_out(reporter, method, error)

    def _leave_out(self, reporter: Reporter, method: str, error: Exception) -> None:
        self._active = [active for active in self._active if active is not reporter]
        with suppress(Exception):
            reporter.close()
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        message = (
            f"reporter {type(reporter).__name__} failed in {method}() and is left out from now on; "
            f"the run goes on. {type(error).__name__}: {error}{place}"
        )
        self.note(message)
        if not any(other.shows_notes for other in self._active):
            with suppress(Exception):
                say(message, to=sys.stderr)
