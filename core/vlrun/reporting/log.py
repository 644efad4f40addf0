"""``log.txt``: what the console says, with the time in front of each line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO

from vlrun.files import open_itself, room_for
from vlrun.foreign.printing import plain
from vlrun.interfaces.reporter import EvaluationReport, Outcome, Reporter, RunInfo, StepReport
from vlrun.reporting.results import result_table
from vlrun.reporting.wording import ending_line, ends_epoch, evaluation_line, header_lines, step_line

FILE_NAME = "log.txt"
_LINE_SECONDS = 10.0  # between lines of the training


class LogReporter(Reporter):
    """Appends to the log of a run, also when the run is continued.

    On the training it writes a line every ten seconds at most, and one per epoch. Notes that come before the run folder
    is known are kept until then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._last_line = -math.inf
        self._file: IO[str] | None = None
        self._early: list[str] = []
        self._run: RunInfo | None = None
        self._last: StepReport | None = None

    def start(self, run: RunInfo) -> None:
        """Opens the file and writes early notes and the header."""
        self._run = run
        run.folder.mkdir(parents=True, exist_ok=True)
        self._file = open_itself(run.folder / FILE_NAME, "a")
        for line in [*self._early, *header_lines(run)]:
            self._write(line)

    def step(self, report: StepReport) -> None:
        """Keeps the step for ``flush``; the last one of an epoch is written at once."""
        assert self._run is not None
        self._last = report
        if ends_epoch(report, self._run):
            self.flush()

    def flush(self) -> None:
        report, run = self._last, self._run
        if report is None or run is None:
            return
        self._last = None
        if ends_epoch(report, run) or self._clock() - self._last_line >= _LINE_SECONDS:
            self._last_line = self._clock()
            self._write(step_line(report, run))

    def evaluation(self, report: EvaluationReport) -> None:
        """Writes a line on the scores."""
        self._write(evaluation_line(report))

    def note(self, message: str) -> None:
        for line in message.splitlines():
            self._write(line)

    def finish(self, outcome: Outcome) -> None:
        """Writes results, places and how the run ended."""
        if outcome.rows and self._run is not None:
            for line in result_table(outcome.rows, self._run.is_demo).as_lines():
                self._write(line)
        for label, place in outcome.locations:
            self._write(f"{label}: {place}")
        self.note(ending_line(outcome, self._clock() - self._started))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: str) -> None:
        if self._file is None:
            self._early.append(line)
        else:
            with room_for(Path(self._file.name)):
                moment = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                self._file.write(f"{moment}  {plain(line)}\n")
