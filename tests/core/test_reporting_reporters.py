"""The fan-out to several reporters, and what the built-in ones promise to the plugin manager."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vlrun.config.components import config_model
from vlrun.interfaces.reporter import Outcome, Reporter, Reporters, RunInfo, StepReport
from vlrun.plugins.builtin import vlrun_reporters
from vlrun.plugins.entries import Entry


class Recorder(Reporter):
    """Remembers what it is told."""

    shows_notes = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def start(self, run: RunInfo) -> None:
        self.calls.append(("start", run.experiment))

    def step(self, report: StepReport) -> None:
        self.calls.append(("step", report.step))

    def flush(self) -> None:
        self.calls.append(("flush", None))

    def note(self, message: str) -> None:
        self.calls.append(("note", message))

    def finish(self, outcome: Outcome) -> None:
        self.calls.append(("finish", outcome.status))

    def close(self) -> None:
        self.calls.append(("close", None))

    def of(self, kind: str) -> list[object]:
        return [value for name, value in self.calls if name == kind]


class FullDisk(Recorder):
    """Fails in every step."""

    def step(self, report: StepReport) -> None:
        super().step(report)
        raise OSError(28, "No space left on device")


class Mute(Recorder):
    """Fails when it is told of another one's failure."""

    def note(self, message: str) -> None:
        raise RuntimeError("cannot speak")


def run_info(folder: Path) -> RunInfo:
    return RunInfo("toy", folder, [("backbone", "toy")], total_steps=4, steps_per_epoch=2, epochs=2)


def step_report(step: int) -> StepReport:
    return StepReport(step, (step + 1) // 2, "rec", {"loss": 0.5}, 0.5, 1e-4, 1.0, 100.0, 0.1, 3.0)


def test_a_failing_reporter_is_left_out_and_named_once_while_the_others_go_on(tmp_path: Path) -> None:
    good, bad = Recorder(), FullDisk()
    reporters = Reporters([bad, good])
    reporters.start(run_info(tmp_path))
    reporters.steps([step_report(1), step_report(2)])
    reporters.finish(Outcome("done", ""))
    assert good.of("step") == [1, 2]
    assert good.of("finish") == ["done"]
    assert bad.of("step") == [1]
    (note,) = good.of("note")
    assert "FullDisk failed in step()" in str(note)
    assert "No space left on device" in str(note)
    assert "test_reporting_reporters.py:" in str(note)  # where the bug is


def test_a_failing_reporter_still_gives_back_what_it_holds(tmp_path: Path) -> None:
    bad = FullDisk()
    Reporters([bad]).steps([step_report(1)])
    assert bad.of("close") == [None]


def test_a_reporter_that_fails_on_the_news_of_a_failure_is_left_out_too() -> None:
    good, mute = Recorder(), Mute()
    reporters = Reporters([FullDisk(), mute, good])
    reporters.steps([step_report(1), step_report(2)])
    assert mute.of("step") == []
    assert good.of("step") == [1, 2]
    assert len(good.of("note")) == 2


def test_when_nobody_shows_notes_a_failure_is_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Reporters([FullDisk()]).step(step_report(1))
    assert "FullDisk failed in step()" in capsys.readouterr().err


def test_an_interrupt_is_not_taken_for_a_failing_reporter() -> None:
    class Interrupted(Recorder):
        def step(self, report: StepReport) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reporters([Interrupted()]).step(step_report(1))


def test_a_burst_is_flushed_once_and_a_single_step_is_a_burst_of_one() -> None:
    recorder = Recorder()
    reporters = Reporters([recorder])
    reporters.steps([step_report(1), step_report(2)])
    reporters.step(step_report(3))
    assert [name for name, _ in recorder.calls] == ["step", "step", "flush", "step", "flush"]


def test_reporters_are_closed_once_after_the_end_and_after_an_exception(tmp_path: Path) -> None:
    finished, interrupted = Recorder(), Recorder()
    with Reporters([finished]) as reporters:
        reporters.finish(Outcome("done", ""))
    with pytest.raises(ValueError, match="training broke"), Reporters([interrupted]):
        raise ValueError("training broke")
    assert finished.of("close") == [None]
    assert interrupted.of("close") == [None]


@pytest.mark.parametrize("entry", vlrun_reporters(), ids=lambda entry: entry.name)
def test_built_in_reporters_build_from_their_name_alone(entry: Entry) -> None:
    config = config_model("reporter", entry)(name=entry.name)
    assert isinstance(entry.build(config), Reporter)


def test_all_five_reporters_are_built_in() -> None:
    assert [entry.name for entry in vlrun_reporters()] == ["console", "log", "jsonl", "tensorboard", "html"]


def test_listing_the_reporters_loads_neither_rich_nor_torch() -> None:
    code = (
        "import sys; import vlrun.config.reporters, vlrun.plugins.builtin; "
        "print(sorted({'rich', 'torch', 'tensorboard', 'numpy'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
