"""Signals reach those who can stop, and the platforms that lack some of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vlrun.engine.stopping import STOP_SIGNALS, StopRequest, stop_on_signals, stop_signals_passed_to


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
    with pytest.raises(KeyboardInterrupt):
        stop.receive(signal.SIGINT, None)


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
