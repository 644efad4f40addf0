"""Signals reach those who can stop, and the platforms that lack some of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from vlrun.cli import main
from vlrun.cli import report as report_verb
from vlrun.engine import launch as module
from vlrun.engine.stopping import STOP_SIGNALS, Interrupted, StopRequest, stop_on_signals, stop_signals_passed_to
from vlrun.errors import INTERRUPTED


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_is_remembered_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop.signal is number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_means_now() -> None:
    stop = StopRequest()
    stop.receive(signal.SIGINT, None)
    with pytest.raises(Interrupted):  # a plain KeyboardInterrupt may end the process by the signal after all
        stop.receive(signal.SIGINT, None)


def test_two_interrupts_and_a_third_end_a_verb_with_one_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object) -> int:
        with stop_on_signals():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(report_verb, "run", work)
    try:
        assert main(["report", "."]) == INTERRUPTED
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_before_the_ranks_are_there_has_its_status(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.distributed.launcher import api

    def nobody_there(*_: object) -> Callable[..., None]:
        return lambda *_: os.kill(os.getpid(), number)

    monkeypatch.setattr(api, "elastic_launch", nobody_there)
    monkeypatch.setattr(module, "_start_quiet_resource_tracker", lambda: None)
    monkeypatch.setattr("logging.disable", lambda level: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    is_interrupt = number == signal.SIGINT
    assert module.launch(print, [], 2) == (INTERRUPTED if is_interrupt else 75)  # type: ignore[arg-type]
    said = "interrupted" if is_interrupt else "stopped on request before the run began"
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 75)])
def test_a_rank_that_is_stopped_before_it_trains_leaves_with_a_status_and_no_traceback(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(module, "end_with_parent", lambda: None)
    monkeypatch.setattr(module, "ignore_stop_signals", lambda: None)
    monkeypatch.setattr(os, "_exit", left.append)
    module._rank_main(lambda _: signal.raise_signal(number) or 0, [])
    assert left == [status]
    assert capsys.readouterr().err == ""


def test_a_signal_is_passed_on_unless_the_terminal_has_sent_it_already(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    with stop_signals_passed_to(passed.append):
        os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
        os.kill(os.getpid(), signal.SIGINT)
    assert passed == [signal.SIGTERM, signal.SIGINT]


def test_a_platform_without_a_signal_has_the_others() -> None:
    code = "import signal; del signal.SIGUSR1; from vlrun.engine.stopping import STOP_SIGNALS; print(len(STOP_SIGNALS))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "2\n"
