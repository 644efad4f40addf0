"""The kit's check of reporters: the built-in ones pass, and each mistake is caught with a sentence."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest

from vlrun import EvaluationReport, Outcome, Reporter, RunInfo, StepReport
from vlrun.reporting.console import ConsoleReporter
from vlrun.reporting.html import HtmlReporter
from vlrun.reporting.jsonl import JsonLinesReporter
from vlrun.reporting.log import LogReporter
from vlrun.reporting.tensorboard import TensorBoardReporter
from vlrun.testing import check_reporter


class Lines(Reporter):
    """The losses as lines of a file."""

    file: IO[str] | None = None

    def start(self, run: RunInfo) -> None:
        self.file = (run.folder / "lines.txt").open("a", encoding="utf-8")

    def step(self, report: StepReport) -> None:
        assert self.file is not None
        self.file.write(f"{report.loss}\n")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class NeedsAStep(Lines):
    loss: float | None = None

    def step(self, report: StepReport) -> None:
        self.loss = report.loss

    def finish(self, outcome: Outcome) -> None:
        if self.loss is None:
            raise ValueError("no loss")


class NeedsRows(Lines):
    def finish(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            print(outcome.rows[0])


class NeedsOneTask(Lines):
    def evaluation(self, report: EvaluationReport) -> None:
        assert report.task == "checked", "one task"


class NeedsANewFolder(Lines):
    def start(self, run: RunInfo) -> None:
        self.file = (run.folder / "lines.txt").open("x", encoding="utf-8")


class NeedsAStart(Lines):
    def close(self) -> None:
        self.file.close()  # type: ignore[union-attr]


class Fails(Lines):
    """Raises where it is told so."""

    def __init__(self, method: str) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("broken")

        setattr(self, method, fail)


class PrintsTracebacks(Lines):
    def note(self, message: str) -> None:
        try:
            raise ValueError(message)
        except ValueError:
            traceback.print_exc()


class LogsTracebacks(Lines):
    def finish(self, outcome: Outcome) -> None:
        handler = logging.StreamHandler(sys.stdout)
        log = logging.Logger("kit")
        log.addHandler(handler)
        try:
            raise ValueError(outcome.message)
        except ValueError:
            log.exception("failed")


class NeverCloses(Lines):
    def close(self) -> None:
        pass


class WritesWhereItIs(Lines):
    def evaluation(self, report: EvaluationReport) -> None:
        Path("scores.txt").write_text(str(report.scores))


class WritesAtHome(Lines):
    def evaluation(self, report: EvaluationReport) -> None:
        (Path.home() / ".scores").write_text(str(report.scores))


class WritesBeside(Lines):
    def start(self, run: RunInfo) -> None:
        super().start(run)
        (run.folder.parent / "latest.txt").write_text(run.experiment)


class SharesAFolder(Lines):
    """Forgets which run it is told of: the first folder is the class's."""

    folder: ClassVar[list[Path]] = []

    def start(self, run: RunInfo) -> None:
        if not self.folder or not self.folder[0].is_dir():
            self.folder[:] = [run.folder]
        self.file = (self.folder[0] / "lines.txt").open("a", encoding="utf-8")


class TidiesUp(Lines):
    def start(self, run: RunInfo) -> None:
        super().start(run)
        for path in run.folder.parent.glob("*/lines.txt"):
            if path.parent != run.folder:
                path.unlink()


@pytest.mark.parametrize(
    "make",
    [Reporter, Lines, ConsoleReporter, HtmlReporter, JsonLinesReporter, LogReporter, TensorBoardReporter],
)
def test_a_right_reporter_passes(make: Callable[[], Reporter]) -> None:
    check_reporter(make)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (dict, r"make\(\) must return a Reporter, not \{\}"),
        (lambda one=Lines(): one, r"make\(\) must return a new reporter at each call"),  # noqa: B008
        (NeedsAStep, r"finish\(\) raises in a run without steps, .*: ValueError: no loss"),
        (NeedsRows, r"finish\(\) raises in a run that fails, .*: IndexError"),
        (NeedsOneTask, r"evaluation\(\) raises in a run of several tasks, .*: AssertionError: one task"),
        (NeedsANewFolder, r"start\(\) raises in a run that is continued, .*: FileExistsError"),
        (NeedsAStart, r"close\(\) raises in a run that ends before it starts, .*: AttributeError"),
        *(
            (lambda method=method: Fails(method), rf"{method}\(\) raises in a run that is stopped, .*: broken")
            for method in ("start", "step", "flush", "progress", "evaluation", "note", "finish", "close")
        ),
        (PrintsTracebacks, "the reporter prints a traceback in a run that is stopped:"),
        (LogsTracebacks, "the reporter prints a traceback in a run that is stopped:"),
        (NeverCloses, r"close\(\) must close what the reporter opened, and leaves open: lines.txt"),
        (WritesWhereItIs, "writes outside the run folder, in a run that is stopped: working directory/scores.txt"),
        (WritesAtHome, "writes outside the run folder, in a run that is stopped: home/.scores"),
        (WritesBeside, "writes outside the run folder, in a run that is stopped: runs/latest.txt"),
        (SharesAFolder, "writes outside the run folder, in a run that fails: runs/one/lines.txt"),
        (TidiesUp, "deletes outside the run folder, in a run that fails: runs/one/lines.txt"),
    ],
    ids=lambda value: getattr(value, "__name__", value)[:40],
)
def test_a_mistake_in_a_reporter_is_said(make: Callable[[], Reporter], sentence: str) -> None:
    before = Path.cwd(), Path.home()
    with pytest.raises(AssertionError, match=sentence):
        check_reporter(make)
    assert (Path.cwd(), Path.home()) == before
