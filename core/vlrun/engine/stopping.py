"""Stopping on request: a stop signal is remembered, and the run ends at the next step with a checkpoint.

One that comes before there is anything to save ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, Any

from vlrun.errors import INTERRUPTED, StoppedOnRequest
from vlrun.foreign.printing import say

if TYPE_CHECKING:
    from vlrun.engine.ranks import Ranks

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))

_START, _BEGIN = (BaseProcess.__dict__[name].__code__ for name in ("start", "_bootstrap"))
_BUSY_SECONDS = 0.02
"""After which a signal that breaks in on an import comes again."""

_STOPPED_EARLY = "stopped on request before the run began"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another signal that means now.

    A plain KeyboardInterrupt that leaves an ``exec`` or ``eval``, which imports are full of, makes Python end the
    process by SIGINT at last, even if it was handled.
    """


class StopRequest:
    """Set by SIGTERM, SIGUSR1 (batch systems send it before the time is up) or the first Ctrl-C.

    Attributes:
        signal: what came; None so far.
        at_once: nobody looks at the request yet, so a signal ends what is going on, as Ctrl-C does elsewhere.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.signal: signal.Signals | None = None
        self.at_once = at_once

    def __bool__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal; see ``comes_again``."""
        if self.at_once and comes_again(number, frame):
            return
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise Interrupted  # a second Ctrl-C means now
        self.signal = signal.Signals(number)
        if self.at_once:
            raise Interrupted


class _Again:
    """A signal that is sent once more, a moment later."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def send(self, number: int) -> None:
        if self._timer is None or not self._timer.is_alive():  # one is enough
            self._timer = threading.Timer(_BUSY_SECONDS, os.kill, (os.getpid(), number))
            self._timer.daemon = True
            self._timer.start()


_AGAIN = _Again()


def comes_again(number: int, frame: FrameType | None) -> bool:
    """Whether a signal breaks in on what no exception may leave half-way; then it is sent again.

    That is an import, where an exception may be swallowed and leaves a module that is broken, and the start of a
    process, which would wait for the rest of what it is to do.
    """
    while frame is not None and frame.f_code is not _BEGIN:  # of a forked process
        if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap") or frame.f_code is _START:
            _AGAIN.send(number)
            return True
        frame = frame.f_back
    return False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Collects stop signals while it is open; none outside the main thread, where no handler can be set.

    Raises:
        StoppedOnRequest: one came before, where ``stop_at_once_on_signals`` is open around it.
    """
    leave_if_stopped_early()
    outer, request = _outer_request(), StopRequest()
    with handled_by(request.receive):
        yield request
    if outer is not None:
        outer.signal = request.signal  # came too late for this run, and in time for the next


@contextmanager
def stop_at_once_on_signals() -> Iterator[None]:
    """Ends what is going on inside when a stop signal comes: there is nothing to lose yet, or any more.

    Raises:
        StoppedOnRequest: SIGTERM or SIGUSR1 came.
        KeyboardInterrupt: Ctrl-C came.
    """
    request = StopRequest(at_once=True)
    try:
        with handled_by(request.receive):
            yield
    except KeyboardInterrupt:
        if request.signal in (None, signal.SIGINT):
            raise
        raise _stopped_early() from None


def leave_if_stopped_early() -> None:
    """Notices a stop signal whose exception was swallowed by what it interrupted, as imports may.

    Raises:
        StoppedOnRequest: one came.
    """
    if _outer_request():
        raise _stopped_early()


def _outer_request() -> StopRequest | None:
    """Who collects stop signals now, if somebody does."""
    owner = getattr(signal.getsignal(STOP_SIGNALS[0]), "__self__", None)
    return owner if isinstance(owner, StopRequest) else None


def _stopped_early() -> StoppedOnRequest:
    stopped = StoppedOnRequest(_STOPPED_EARLY)
    stopped.is_shown_elsewhere = os.environ.get("RANK", "0") != "0"
    return stopped


@contextmanager
def stop_signals_passed_to(send: Callable[[int], None]) -> Iterator[None]:
    """Passes stop signals on to started processes, which then finish their step, and keeps this one alive."""

    def forward(number: int, _: FrameType | None) -> None:
        if not is_from_terminal(number):
            send(number)

    with handled_by(forward):
        yield


def is_from_terminal(number: int) -> bool:
    """Whether it is Ctrl-C, which a terminal sends to all processes."""
    return number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty()


def leave_if_asked(ranks: Ranks, stop: StopRequest, during: str = "an evaluation") -> None:
    """Stops the current work, on all ranks together, once a signal has reached any of them.

    Raises:
        StoppedOnRequest: a signal came; the caller must make sure that nothing is lost.
    """
    if ranks.any(bool(stop)):
        raise StoppedOnRequest(f"stopped on request during {during}; run again with --resume to continue")


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Sets a handler of the stop signals, and puts back those before it; outside the main thread it sets none."""
    try:
        before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def leave_on_signals() -> None:
    """Until something else handles them, stop signals end this process with the status of a stop and a message."""

    def leave(_: int, __: FrameType | None) -> None:
        os.write(2, b"stopped on request\n")  # what was interrupted may be printing
        os._exit(StoppedOnRequest.exit_status)

    for number in STOP_SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, leave)


def interrupt_on_ctrl_c() -> None:
    """From now on Ctrl-C raises ``Interrupted``, where nothing else handles it."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise Interrupted

    signal.signal(signal.SIGINT, interrupt)


def ignore_stop_signals() -> None:
    """From now on they change nothing, for the exit status of what is over is known; done in the main thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def say_stopped_early(received: Collection[int]) -> int:
    """Says that a stop signal came before a run began; returns the exit status of that."""
    if signal.SIGINT in received:
        say("interrupted", to=sys.stderr)
        return INTERRUPTED
    say(_STOPPED_EARLY, to=sys.stderr)
    return StoppedOnRequest.exit_status
