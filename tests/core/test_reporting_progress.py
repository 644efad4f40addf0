"""How far long work is, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from vlrun.reporting.progress import LiveArea, PlainLines, ProgressReporter, progress_on_stderr

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_a_line_comes_every_few_seconds_at_most() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = ProgressReporter(PlainLines(stream, 5.0, clock), clock)
    for second in range(12):
        reporter.progress("importing images", 100 * second, 10_000)
        clock.now += 1
    assert stream.getvalue().splitlines() == [
        "importing images: 500 of 10,000, 100/s, 1 min 35 s left",
        "importing images: 1,000 of 10,000, 100/s, 1 min 30 s left",
    ]


def test_the_rate_is_that_of_the_work_done_since_the_first_report() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = ProgressReporter(PlainLines(stream, 5.0, clock), clock)
    reporter.progress("scoring val", 9_000, 10_000)  # a continued one, after a first tile that warms everything up
    clock.now += 10
    reporter.progress("scoring val", 9_500, 10_000)
    assert stream.getvalue() == "scoring val: 9,500 of 10,000, 50/s, 10 s left\n"


def test_work_that_begins_anew_is_measured_anew() -> None:
    stream, clock = io.StringIO(), Clock()
    reporter = ProgressReporter(PlainLines(stream, 5.0, clock), clock)
    for what, done in (("evaluating val", 1), ("evaluating test", 1), ("evaluating test", 11)):
        reporter.progress(what, done, 21)
        clock.now += 10
    assert stream.getvalue() == "evaluating test: 11 of 21, 1/s, 10 s left\n"


def test_on_a_terminal_a_bar_stays_below_the_notes_and_goes_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, clock = io.StringIO(), Clock()
    reporter = ProgressReporter(LiveArea(Console(file=stream, force_terminal=True, width=80), clock), clock)
    reporter.progress("scoring val", 1, 3)
    clock.now += 1
    reporter.progress("scoring val", 2, 3)
    reporter.note("a note with [brackets]")
    reporter.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert re.search(r"scoring val .*2 of 3, 1/s, 1\.0 s left", shown)
    assert "a note with [brackets]" in shown
    assert stream.getvalue().rindex(SHOW_CURSOR) > stream.getvalue().rindex(HIDE_CURSOR)


def test_of_several_processes_only_the_main_one_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr(is_main=False) as silent, progress_on_stderr(is_main=True) as told:
        silent.note("not this")
        told.note("this")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "this\n")
