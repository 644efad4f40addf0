"""Stopping on request: a signal is remembered, and training ends at the next step with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from vlrun.engine.launch import STOP_SIGNALS
from vlrun.errors import StoppedOnRequest

if TYPE_CHECKING:
    from vlrun.engine.ranks import Ranks


class StopRequest:
    """Set by SIGTERM, SIGUSR1 (batch systems send it before the time is up) or the first Ctrl-C."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, _: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.signal = signal.Signals(number)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collects stop signals while it is open; outside the main thread no handlers can be set, and none are."""
    request = StopRequest()
    try:
        before = {number: signal.signal(number, request.receive) for number in STOP_SIGNALS}
    except ValueError:
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_if_asked(ranks: Ranks, stop: StopRequest, during: str = "an evaluation") -> None:
    """Ends what is going on, on all ranks together, once a signal has reached any of them.

    Raises:
        StoppedOnRequest: the caller sees to it that nothing is lost.
    """
    if ranks.any(bool(stop)):
        raise StoppedOnRequest(f"stopped on request during {during}; run again with --resume to continue")
