"""The console: one live panel on a terminal, plain lines everywhere else."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from typing import Protocol, TextIO

from rich.console import Console

from vlrun.interfaces.reporter import EvaluationReport, Outcome, RunInfo, StepReport
from vlrun.reporting.live import LiveScreen
from vlrun.reporting.progress import Clock, Output, PlainLines, ProgressReporter, is_live_terminal
from vlrun.reporting.results import result_table
from vlrun.reporting.tables import TextTable
from vlrun.reporting.wording import ending_line, ends_epoch, evaluation_line, header_lines, step_line

_SMOOTHING_STEPS = 20  # time constant of the smoothed loss
_PROGRESS_SECONDS = 30.0  # between plain lines of an evaluation, which may take hours


class SmoothedLoss:
    """The mean of a task's loss over about the last twenty steps, from the first step on."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._weight = 0.0

    def add(self, loss: float) -> None:
        """Takes the loss of the next step; one that is not finite is left out."""
        if math.isfinite(loss):
            share = 1 / _SMOOTHING_STEPS
            self._mean += share * (loss - self._mean)
            self._weight += share * (1 - self._weight)

    @property
    def value(self) -> float:
        """The mean so far; nan before the first loss."""
        return self._mean / self._weight if self._weight else math.nan


class Screen(Output, Protocol):
    """Where the console reporter writes."""

    def header(self, run: RunInfo) -> None:
        """Shows what is known when a run starts."""

    def training(self, report: StepReport, smoothed_loss: float) -> None:
        """Shows how the training goes."""

    def results(self, table: TextTable) -> None:
        """Shows the final results."""

    def locations(self, table: TextTable) -> None:
        """Shows where the files of the run are."""


class ConsoleOptions(Protocol):
    """The options of the console that an experiment may set."""

    @property
    def stream(self) -> str:
        """``stdout`` or ``stderr``."""
        ...


class ConsoleReporter(ProgressReporter):
    """Shows the run to a person who watches it.

    On a terminal it keeps one panel up to date, and evaluations and notes scroll above it. Elsewhere it writes plain
    lines without control characters, at most one every few seconds on the training.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        console: Console | None = None,
        every_seconds: float = 5.0,
        clock: Clock = time.monotonic,
    ) -> None:
        """``console`` replaces ``stream`` and is assumed to be a terminal."""
        stream = sys.stdout if stream is None else stream
        self._screen: Screen
        if console is not None or is_live_terminal(stream):
            self._screen = LiveScreen(console or Console(file=stream, force_terminal=True), clock)
        else:
            self._screen = PlainScreen(stream, every_seconds, clock)
        super().__init__(self._screen, clock)
        self._run: RunInfo | None = None
        self._losses: dict[str, SmoothedLoss] = {}
        self._last: StepReport | None = None
        self._started = clock()

    @classmethod
    def from_config(cls, config: ConsoleOptions) -> ConsoleReporter:
        return cls(getattr(sys, config.stream))

    def start(self, run: RunInfo) -> None:
        """Shows the header."""
        self._run = run
        self._screen.header(run)

    def step(self, report: StepReport) -> None:
        """Adds to the smoothed loss; the end of an epoch is shown at once, other steps at ``flush``."""
        assert self._run is not None
        self._work = None
        self._losses.setdefault(report.task, SmoothedLoss()).add(report.loss)
        self._last = report
        if ends_epoch(report, self._run):
            self.flush()

    def flush(self) -> None:
        if self._last is not None:
            self._screen.training(self._last, self._losses[self._last.task].value)
            self._last = None

    def evaluation(self, report: EvaluationReport) -> None:
        """Shows the scores on a lasting line."""
        self._work = None
        self._screen.progress(None)
        self._screen.say(evaluation_line(report))

    def finish(self, outcome: Outcome) -> None:
        """Shows results, files and how the run ended."""
        if self._run is None:  # it ended before there was anything to report; the error is printed elsewhere
            return
        self.close()
        if outcome.rows:
            self._screen.say("")
            self._screen.results(result_table(outcome.rows, self._run.is_demo))
        if outcome.locations:
            self._screen.say("")
            self._screen.locations(TextTable((), outcome.locations))
        self._screen.say("")
        # without the message: what a run raises is printed by whoever called it
        self.note(ending_line(replace(outcome, message=""), self._clock() - self._started))


class PlainScreen(PlainLines):
    """Plain lines on the whole run."""

    def __init__(self, stream: TextIO, every_seconds: float, clock: Clock) -> None:
        super().__init__(stream, _PROGRESS_SECONDS, clock)
        self._every_seconds = every_seconds
        self._run: RunInfo | None = None
        self._last_training = -math.inf

    def header(self, run: RunInfo) -> None:
        """Writes the facts, one a line."""
        self._run = run
        for line in header_lines(run):
            self.say(line)

    def training(self, report: StepReport, smoothed_loss: float) -> None:
        """Writes a line on a step, if the last one is long enough ago or an epoch ends."""
        assert self._run is not None
        if ends_epoch(report, self._run) or self._clock() - self._last_training >= self._every_seconds:
            self._last_training = self._clock()
            self.say(step_line(report, self._run, smoothed_loss))

    def results(self, table: TextTable) -> None:
        """Writes a table, one row a line."""
        for line in table.as_lines():
            self.say(line)

    locations = results
