"""The console: what a person sees on a terminal, in a pipe and in a log file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vlrun.interfaces.examples import Score
from vlrun.interfaces.reporter import EvaluationReport, Outcome, ResultRow, RunInfo, StepReport
from vlrun.reporting.console import ConsoleReporter, is_live_terminal
from vlrun.reporting.log import LogReporter
from vlrun.reporting.published import DEMO_REASON
from vlrun.reporting.wording import duration_text, evaluation_line, rate_text

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_info(folder: Path = Path("runs/x"), **changes: Any) -> RunInfo:
    values = {
        "experiment": "toy_refcoco+",
        "folder": folder,
        "facts": [("backbone", "toy [tiny], 8 hidden"), ("images", "split  found"), ("images", "val    3")],
        "total_steps": 100,
        "steps_per_epoch": 50,
        "epochs": 2,
    }
    return RunInfo(**{**values, **changes})


def step_report(step: int, **changes: Any) -> StepReport:
    values = {
        "step": step,
        "epoch": (step - 1) // 50 + 1,
        "task": "rec",
        "losses": {"ranking": 0.75, "box": 0.25},
        "loss": 1.0,
        "learning_rate": 4e-5,
        "gradient_norm": 2.5,
        "examples_per_second": 812.4,
        "data_wait_share": 0.034,
        "seconds_left": 200.0,
    }
    return StepReport(**{**values, **changes})


def evaluation(split: str = "testA", **changes: Any) -> EvaluationReport:
    scores = [Score("accuracy", 82.014, count=5726, primary=True), Score("by-referent", 81.5, count=1975)]
    values = {"task": "rec", "split": split, "step": 50, "epoch": 1, "scores": scores, "seconds": 12.3}
    return EvaluationReport(**{**values, "num_examples": 5726, **changes})


def outcome(**changes: Any) -> Outcome:
    row = ResultRow("rec", "testA", Score("accuracy", 81.8), 82.01, "Cui et al. 2021")
    values = {"status": "done", "message": "", "rows": [row], "locations": [("report", "/runs/toy [1]/report.html")]}
    return Outcome(**{**values, **changes})


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def plain_reporter() -> tuple[ConsoleReporter, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return ConsoleReporter(stream, clock=clock), stream, clock


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ConsoleReporter, io.StringIO, Clock]]:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream, clock = io.StringIO(), Clock()
    reporter = ConsoleReporter(console=Console(file=stream, force_terminal=True, width=100), clock=clock)
    yield reporter, stream, clock
    reporter.close()


def words(stream: io.StringIO) -> str:
    """What is left to read without escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def whole_run(reporter: ConsoleReporter, run: RunInfo, **ending: Any) -> None:
    reporter.start(run)
    reporter.note("a note with [brackets] and \x1b[31mcolour\x07")
    for step in range(1, 101):
        reporter.step(step_report(step))
        reporter.flush()
    reporter.progress("evaluating testA", 1, 2)
    reporter.evaluation(evaluation())
    reporter.finish(outcome(**ending))


def test_without_a_terminal_there_are_no_control_characters_and_only_ascii() -> None:
    reporter, stream, _ = plain_reporter()
    whole_run(reporter, run_info(facts=[("tabbed", "a\tb\x1b[2J")]))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stream.getvalue())
    assert stream.getvalue().isascii()


def test_without_a_terminal_training_lines_come_every_five_seconds_at_most() -> None:
    reporter, stream, clock = plain_reporter()
    reporter.start(run_info())
    for step in range(1, 41):  # half a second each: 20 s
        clock.now += 0.5
        reporter.step(step_report(step))
        reporter.flush()
    steps = [line.split()[1] for line in lines_of(stream) if line.startswith("step")]
    assert steps == ["1/100", "11/100", "21/100", "31/100"]


def test_without_a_terminal_the_last_step_of_a_burst_is_the_one_shown() -> None:
    reporter, stream, _ = plain_reporter()
    reporter.start(run_info())
    for step in range(1, 11):
        reporter.step(step_report(step))
    reporter.flush()
    assert [line.split()[1] for line in lines_of(stream) if line.startswith("step")] == ["10/100"]


def test_every_end_of_an_epoch_has_its_line() -> None:
    reporter, stream, _ = plain_reporter()
    whole_run(reporter, run_info())
    done = [line.split("  ")[:2] for line in lines_of(stream) if " done " in line]
    assert done == [["step 50/100", "epoch 1/2 done"], ["step 100/100", "epoch 2/2 done"]]


def test_a_training_line_says_everything_that_the_panel_says() -> None:
    reporter, stream, _ = plain_reporter()
    reporter.start(run_info())
    reporter.step(step_report(7, loss=3.0, seconds_left=3700))
    reporter.flush()
    assert lines_of(stream)[-1] == (
        "step 7/100  epoch 1/2  loss 3.0000 (last 3.0000, ranking 0.7500, box 0.2500)  lr 4e-05  812 examples/s  "
        "waiting for data 3 %  1 h 01 min left"
    )


def test_numbers_beside_the_losses_are_on_the_line_and_in_the_panel(
    live: tuple[ConsoleReporter, io.StringIO, Clock],
) -> None:
    reporter, stream, _ = plain_reporter()
    for each in (reporter, live[0]):
        each.start(run_info())
        each.step(step_report(50, scalars={"told apart": 0.875}))
        each.flush()
    assert "told apart 0.8750  lr" in stream.getvalue()
    assert re.search(r"told apart\s+0\.8750", words(live[1]))


def test_a_joint_line_names_the_task_and_smooths_its_own_loss() -> None:
    stream, clock = io.StringIO(), iter(range(0, 1000, 10))
    reporter = ConsoleReporter(stream, clock=lambda: float(next(clock)))
    reporter.start(run_info(num_tasks=2))
    for step, (task, loss) in enumerate((("vqa", 300.0), ("nlvr2", 0.7)), 1):
        reporter.step(step_report(step, task=task, task_epoch=3, losses={"loss": loss}, loss=loss))
        reporter.flush()
    assert "vqa, its epoch 3  loss 300.0" in lines_of(stream)[-2]
    assert "nlvr2, its epoch 3  loss 0.7" in lines_of(stream)[-1]


def test_the_smoothed_loss_starts_at_the_first_loss_and_follows_slowly() -> None:
    reporter, stream, _clock = plain_reporter()
    reporter.start(run_info())
    reporter.step(step_report(1, loss=2.0))
    reporter.step(step_report(2, loss=float("nan")))
    reporter.step(step_report(3, loss=1.0))
    reporter.flush()
    smoothed = float(re.search(r"loss ([0-9.]+) \(last 1.0000", stream.getvalue()).group(1))  # type: ignore[union-attr]
    assert 1.4 < smoothed < 1.6


def test_an_evaluation_line_gives_split_scores_units_counts_and_seconds() -> None:
    reporter, stream, _ = plain_reporter()
    reporter.start(run_info())
    reporter.evaluation(evaluation(final=True))
    assert lines_of(stream)[-1] == (
        "final rec testA  accuracy 82.01 %, by-referent 81.50 % of 1,975  (5,726 examples in 12 s, after step 50)"
    )


def test_a_long_evaluation_says_how_far_it_is_and_a_short_one_does_not() -> None:
    reporter, stream, clock = plain_reporter()
    reporter.start(run_info())
    before = len(lines_of(stream))
    for done in range(1, 101):
        reporter.progress("evaluating testA", done, 100)
        clock.now += 1.0
    assert lines_of(stream)[before:] == [
        "evaluating testA: 31 of 100, 1/s, 1 min 09 s left",
        "evaluating testA: 61 of 100, 1/s, 39 s left",
        "evaluating testA: 91 of 100, 1/s, 9.0 s left",
    ]


def test_a_demo_run_is_announced_in_plain_words_and_compared_with_no_published_number() -> None:
    reporter, stream, _ = plain_reporter()
    row = ResultRow("rec", "testA", Score("accuracy", 81.8), 82.01, "Cui et al. 2021", [DEMO_REASON])
    whole_run(reporter, run_info(is_demo=True), rows=[row])
    assert lines_of(stream)[1].startswith("DEMO RUN: generated data")
    assert stream.getvalue().count("not comparable with published ones") == 2  # at the start and below the table
    assert "82.01 %  not comparable\n" in stream.getvalue()
    assert f"Not comparable with the published numbers: {DEMO_REASON}\n" in stream.getvalue()


def test_a_final_evaluation_names_the_checkpoint_that_it_is_of() -> None:
    scores = [Score("accuracy", 81.8, standard_error=0.5)]
    report = EvaluationReport("rec", "testA", 1352, 3, scores, 1.0, 5726, True, "best on val (step 1014)")
    work = "5,726 examples in 1.0 s, checkpoint best on val (step 1014)"
    assert evaluation_line(report) == f"final rec testA  accuracy 81.80 ± 0.50 %  ({work})"
    assert "after step 1,352)" in evaluation_line(replace(report, checkpoint=""))


def test_the_end_shows_results_beside_published_numbers_and_where_things_lie() -> None:
    reporter, stream, _ = plain_reporter()
    whole_run(reporter, run_info())
    assert "testA  accuracy  81.80 %    82.01 %       -0.21" in stream.getvalue()
    assert "Published numbers: Cui et al. 2021" in stream.getvalue()
    assert "report  /runs/toy [1]/report.html" in stream.getvalue()
    assert lines_of(stream)[-1] == "done after 0.0 s"


def test_a_continued_run_says_after_which_step() -> None:
    reporter, stream, _ = plain_reporter()
    reporter.start(run_info(start_step=40))
    assert "continues after step 40 of 100" in stream.getvalue()


def test_a_run_that_fails_before_it_starts_shows_its_notes_and_nothing_else() -> None:
    reporter, stream, _ = plain_reporter()
    reporter.note("checkpoint step_10 is damaged; the one before is used")
    reporter.finish(Outcome("failed", "no features"))
    assert lines_of(stream) == ["checkpoint step_10 is damaged; the one before is used"]


def test_text_that_the_stream_cannot_encode_is_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    reporter = ConsoleReporter(stream)
    reporter.start(run_info(facts=[("folder", "/données")]))
    assert b"/donn?es" in raw.getvalue()


def test_the_panel_shows_training_and_the_evaluation_that_is_going_on(
    live: tuple[ConsoleReporter, io.StringIO, Clock],
) -> None:
    reporter, stream, clock = live
    reporter.start(run_info())
    reporter.step(step_report(60))
    reporter.flush()
    clock.now += 1
    reporter.progress("evaluating testA", 120, 500)
    text = words(stream)
    assert "epoch 2 of 2" in text
    assert "step 60/100  3 min 20 s left" in text
    assert re.search(r"examples/s +812 +waiting for data +3 %", text)
    assert re.search(r"loss +1\.0000 +\(last 1\.0000\) +learning rate +4e-05", text)
    assert re.search(r"evaluating testA.*120 of 500", text)
    assert "toy [tiny], 8 hidden" in text  # no markup


def test_a_finished_run_leaves_the_terminal_as_it_was(live: tuple[ConsoleReporter, io.StringIO, Clock]) -> None:
    reporter, stream, _ = live
    whole_run(reporter, run_info())
    assert HIDE_CURSOR in stream.getvalue()
    assert stream.getvalue().rindex(SHOW_CURSOR) > stream.getvalue().rindex(HIDE_CURSOR)
    assert "a note with [brackets] and  [31mcolour" in words(stream)
    assert re.search(r"testA +accuracy +81\.80 % +82\.01 % +-0\.21", words(stream))
    assert words(stream).endswith("done after 0.0 s\n")


def test_closing_without_an_end_gives_the_cursor_back(live: tuple[ConsoleReporter, io.StringIO, Clock]) -> None:
    reporter, stream, _ = live
    reporter.start(run_info())
    reporter.step(step_report(1))
    reporter.flush()
    reporter.close()
    reporter.close()
    assert stream.getvalue().rindex(SHOW_CURSOR) > stream.getvalue().rindex(HIDE_CURSOR)


def test_the_panel_is_not_redrawn_for_every_step(live: tuple[ConsoleReporter, io.StringIO, Clock]) -> None:
    reporter, stream, _ = live
    reporter.start(run_info())
    reporter.step(step_report(1))
    reporter.flush()
    length = len(stream.getvalue())
    reporter.step(step_report(2))
    reporter.flush()
    assert len(stream.getvalue()) == length


def test_a_demo_run_is_marked_in_the_header_and_in_the_panel(live: tuple[ConsoleReporter, io.StringIO, Clock]) -> None:
    reporter, stream, _ = live
    reporter.start(run_info(is_demo=True))
    assert "DEMO RUN: generated data" in words(stream)
    assert "toy_refcoco+  demo" in words(stream)


def test_a_narrow_terminal_cuts_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    reporter = ConsoleReporter(console=Console(file=stream, force_terminal=True, width=50))
    whole_run(reporter, run_info())
    reporter.close()
    assert re.search(r"waiting for data +3 %", words(stream))
    assert re.search(r"81\.80 % +82\.01 % +-0\.21", words(stream))


@pytest.mark.parametrize(
    ("is_tty", "term", "encoding", "expected"),
    [
        (True, "xterm", "utf-8", True),
        (False, "xterm", "utf-8", False),
        (True, "dumb", "utf-8", False),
        (True, "xterm", "ascii", False),
    ],
)
def test_a_panel_needs_a_terminal_that_can_show_it(
    monkeypatch: pytest.MonkeyPatch, is_tty: bool, term: str, encoding: str, expected: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(stream, "isatty", lambda: is_tty)
    assert is_live_terminal(stream) is expected


def test_the_log_has_the_time_in_front_of_each_line_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    first, second = LogReporter(), LogReporter()
    first.note("before the folder is known")
    first.start(run_info(tmp_path))
    first.evaluation(evaluation())
    first.finish(Outcome("stopped", "on request"))
    first.close()
    second.start(run_info(tmp_path, start_step=50))
    second.finish(outcome())
    second.close()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  ", line) for line in lines)
    said = [line.split("  ", 1)[1] for line in lines]
    assert said[:2] == ["before the folder is known", "experiment toy_refcoco+"]
    assert "rec testA  accuracy 82.01 %, by-referent 81.50 % of 1,975  (5,726 examples in 12 s, after step 50)" in said
    assert "continues after step 50 of 100" in said
    assert "testA  accuracy  81.80 %    82.01 %       -0.21" in said


def test_the_log_keeps_a_line_of_the_training_every_ten_seconds(tmp_path: Path) -> None:
    clock = Clock()
    reporter = LogReporter(clock)
    reporter.start(run_info(tmp_path))
    for step in range(1, 31):
        clock.now += 1
        reporter.step(step_report(step))
        reporter.flush()
    reporter.close()
    steps = re.findall(r"  step (\d+)/", (tmp_path / "log.txt").read_text())
    assert steps == ["1", "11", "21"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (273_700, "3 d 4 h"),
        (float("inf"), "unknown"),
    ],
)
def test_durations_read_like_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_rates_keep_two_digits_when_small() -> None:
    assert [rate_text(value) for value in (1234.5, 12.3, 0.123)] == ["1,234", "12", "0.12"]
