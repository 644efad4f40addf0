"""The console: one live panel on a terminal, plain lines everywhere else."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TextIO

from vlrun.interfaces.reporter import EvaluationReport, Outcome, Reporter, RunInfo, StepReport
from vlrun.reporting.lines import (
    ending_line,
    ends_epoch,
    evaluation_line,
    header_lines,
    plain,
    progress_line,
    step_line,
)
from vlrun.reporting.results import ResultTable, result_table

if TYPE_CHECKING:
    from rich.console import Console

Clock = Callable[[], float]

_SMOOTHING_STEPS = 20  # time constant of the smoothed loss
_PROGRESS_SECONDS = 30.0  # between plain lines of an evaluation, which may take hours


@dataclass
class Activity:
    """Something other than training that is going on."""

    what: str
    started: float
    done: int = 0
    total: int = 0


class Loss:
    """The mean of a task's loss over about the last twenty steps, from the first step on."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._weight = 0.0

    def add(self, loss: float) -> None:
        if math.isfinite(loss):
            share = 1 / _SMOOTHING_STEPS
            self._mean += share * (loss - self._mean)
            self._weight += share * (1 - self._weight)

    @property
    def smoothed(self) -> float:
        return self._mean / self._weight if self._weight else math.nan


class Screen(Protocol):
    """Where the console's words go."""

    def header(self, run: RunInfo) -> None: ...

    def say(self, line: str) -> None:
        """A line that stays."""

    def training(self, report: StepReport, loss: Loss) -> None: ...

    def activity(self, activity: Activity | None) -> None: ...

    def results(self, table: ResultTable) -> None: ...

    def locations(self, locations: Sequence[tuple[str, str]]) -> None: ...

    def close(self) -> None:
        """Leaves the terminal as it was."""


class ConsoleReporter(Reporter):
    """Tells whoever watches what goes on.

    On a terminal it keeps one panel up to date and lets lasting lines (evaluations, notes) scroll above it. Without one
    it writes single lines, of the training one every few seconds at most, and no control characters.
    """

    shows_notes = True

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        console: Console | None = None,
        every_seconds: float = 5.0,
        clock: Clock = time.monotonic,
    ) -> None:
        """``console``, of rich, replaces ``stream`` and is taken for a terminal."""
        stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._screen: Screen
        if console is not None or is_live_terminal(stream):
            from vlrun.reporting.live import LiveScreen

            self._screen = LiveScreen(console, stream, clock)
        else:
            self._screen = PlainScreen(stream, every_seconds, clock)
        self._run: RunInfo | None = None
        self._losses: dict[str, Loss] = {}
        self._last: StepReport | None = None
        self._activity: Activity | None = None
        self._started = clock()

    def start(self, run: RunInfo) -> None:
        self._run = run
        atexit.register(self.close)  # a cursor hidden for ever is worse than a panel that stays
        self._screen.header(run)

    def step(self, report: StepReport) -> None:
        assert self._run is not None
        self._activity = None
        self._losses.setdefault(report.task, Loss()).add(report.loss)
        self._last = report
        if ends_epoch(report, self._run):
            self.flush()

    def flush(self) -> None:
        if self._last is not None:
            self._screen.training(self._last, self._losses[self._last.task])
            self._last = None

    def progress(self, what: str, done: int, total: int) -> None:
        if self._activity is None or self._activity.what != what or done < self._activity.done:
            self._activity = Activity(what, self._clock())
        self._activity.done, self._activity.total = done, total
        self._screen.activity(self._activity)

    def evaluation(self, report: EvaluationReport) -> None:
        self._activity = None
        self._screen.activity(None)
        self._screen.say(evaluation_line(report))

    def note(self, message: str) -> None:
        for line in message.splitlines():
            self._screen.say(line)

    def finish(self, outcome: Outcome) -> None:
        if self._run is None:  # it ended before there was anything to report; the error speaks for itself
            return
        self.close()
        if outcome.rows:
            self._screen.say("")
            self._screen.results(result_table(outcome.rows, self._run.is_demo))
        if outcome.locations:
            self._screen.say("")
            self._screen.locations(outcome.locations)
        self._screen.say("")
        # without the message: what a run raises is printed by whoever called it
        self.note(ending_line(replace(outcome, message=""), self._clock() - self._started))

    def close(self) -> None:
        atexit.unregister(self.close)
        self._screen.close()


class PlainScreen:
    """Single lines without control characters, for files, pipes and batch systems."""

    def __init__(self, stream: TextIO, every_seconds: float, clock: Clock) -> None:
        self._stream = stream
        self._every_seconds = every_seconds
        self._clock = clock
        self._run: RunInfo | None = None
        self._last_training = -math.inf
        self._last_activity = -math.inf

    def header(self, run: RunInfo) -> None:
        self._run = run
        for line in header_lines(run):
            self.say(line)

    def say(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(plain(line).encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()

    def training(self, report: StepReport, loss: Loss) -> None:
        assert self._run is not None
        if ends_epoch(report, self._run) or self._clock() - self._last_training >= self._every_seconds:
            self._last_training = self._clock()
            self.say(step_line(report, self._run, loss.smoothed))

    def activity(self, activity: Activity | None) -> None:
        if activity is None:
            return
        since = max(activity.started, self._last_activity)  # short ones pass without a word
        if self._clock() - since >= _PROGRESS_SECONDS:
            self._last_activity = self._clock()
            self.say(
                progress_line(activity.what, activity.done, activity.total, self._last_activity - activity.started)
            )

    def results(self, table: ResultTable) -> None:
        for line in table.as_lines():
            self.say(line)

    def locations(self, locations: Sequence[tuple[str, str]]) -> None:
        width = max(len(label) for label, _ in locations)
        for label, place in locations:
            self.say(f"{label:<{width}}  {place}")

    def close(self) -> None: ...


def is_live_terminal(stream: TextIO) -> bool:
    """Whether a panel can be redrawn on ``stream``: a terminal that moves its cursor and shows more than ASCII."""
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and encoding.startswith("utf")
