"""The progress of long work: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import atexit
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlrun.foreign.printing import encodable, plain
from vlrun.interfaces.reporter import Reporter, Reporters
from vlrun.reporting.tables import plain_text
from vlrun.reporting.wording import duration_text, rate_text

Clock = Callable[[], float]

_REDRAW_SECONDS = 0.1
_PLAIN_SECONDS = 15.0  # between lines of a command that prints results


class Work:
    """The progress of work other than training; its rate is counted from the first report, not from its start."""

    def __init__(self, what: str, done: int, clock: Clock) -> None:
        self.what, self.done, self.total = what, done, 0
        self._first_done, self._clock, self.started = done, clock, clock()

    def text(self) -> str:
        """The progress in words, such as ``31 of 100, 2.5/s, 28 s left``."""
        text = f"{self.done:,} of {self.total:,}"
        done, seconds = self.done - self._first_done, self._clock() - self.started
        if done > 0 and seconds > 0:
            text += f", {rate_text(done / seconds)}/s, {duration_text(seconds / done * (self.total - self.done))} left"
        return text


class Output(Protocol):
    """Where notes and progress are shown."""

    def say(self, line: str) -> None:
        """Shows a line that stays."""

    def progress(self, work: Work | None) -> None:
        """Shows work that goes on; None when it has ended."""

    def close(self) -> None:
        """Restores the terminal."""


class ProgressReporter(Reporter):
    """Shows notes and progress."""

    shows_notes = True

    def __init__(self, output: Output, clock: Clock = time.monotonic) -> None:
        self._output, self._clock = output, clock
        self._work: Work | None = None

    def note(self, message: str) -> None:
        for line in message.splitlines():
            self._output.say(line)

    def progress(self, what: str, done: int, total: int) -> None:
        if self._work is None or self._work.what != what or done < self._work.done:
            self._work = Work(what, done, self._clock)
        self._work.done, self._work.total = done, total
        self._output.progress(self._work)

    def close(self) -> None:
        self._output.close()


def progress_on_stderr(is_main: bool = True) -> Reporters:
    """Reporters for a command that prints results on standard output; none if this is not the main process."""
    if not is_main:
        return Reporters([])
    stream = sys.stderr
    is_live = is_live_terminal(stream)
    return Reporters(
        [
            ProgressReporter(
                LiveArea(Console(file=stream, force_terminal=True)) if is_live else PlainLines(stream, _PLAIN_SECONDS)
            )
        ]
    )


class PlainLines:
    """Plain lines without control characters, for files, pipes and batch systems."""

    def __init__(self, stream: TextIO, progress_seconds: float, clock: Clock = time.monotonic) -> None:
        """``progress_seconds`` lie between two lines on progress; work that takes less time is not shown."""
        self._stream, self._clock = stream, clock
        self._progress_seconds, self._last_progress = progress_seconds, -math.inf

    def say(self, line: str) -> None:
        """Writes a line, with ``?`` for characters that the stream cannot encode."""
        self._stream.write(encodable(plain(line), self._stream) + "\n")
        self._stream.flush()

    def progress(self, work: Work | None) -> None:
        """Writes a line, if the last one is long enough ago."""
        now = self._clock()
        if work is not None and now - max(work.started, self._last_progress) >= self._progress_seconds:
            self._last_progress = now
            self.say(f"{work.what}: {work.text()}")

    def close(self) -> None:
        """Does nothing: lines need no end."""


class LiveArea:
    """A few lines at the bottom of a terminal that are redrawn in place, while lasting lines scroll above them.

    No thread draws them: loader workers are forked, and a fork must not copy a lock that a thread holds.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._live: Live | None = None
        self._show_control_keys: Callable[[], None] = lambda: None
        self._work: Work | None = None
        self._drawn = -math.inf

    def say(self, line: str) -> None:
        """Prints a lasting line above the area."""
        self._console.print(Text(plain(line)))

    def progress(self, work: Work | None) -> None:
        """Shows work in the area, or removes it."""
        self._work = work
        if work is not None or self._live is not None:
            self.draw(always=work is None)

    def draw(self, always: bool) -> None:
        """Redraws the area if the last time is long enough ago, or if ``always`` is set."""
        if self._live is None:
            self._open()
        elif not always and self._clock() - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = self._clock()
        assert self._live is not None
        self._live.update(self.content(), refresh=True)

    def content(self) -> RenderableType:
        """What the area shows now."""
        return bars([work_bar(self._work)] if self._work else [])

    def close(self) -> None:
        """Removes the area and restores the terminal."""
        atexit.unregister(self.close)
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            self._show_control_keys()

    def _open(self) -> None:
        atexit.register(self.close)  # else a program that ends early leaves the cursor hidden
        # rich must not pull output that is redirected elsewhere onto the terminal
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._show_control_keys = hide_control_keys()
        self._live.start()


Bar = tuple[str, ProgressBar, str]


def work_bar(work: Work) -> Bar:
    """The bar of a piece of work, for ``bars``."""
    return work.what, ProgressBar(total=max(1, work.total), completed=work.done), work.text()


def bars(rows: Sequence[Bar]) -> Table:
    """A grid with name, bar and numbers in each row."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(no_wrap=True, justify="right")
    for name, bar, numbers in rows:
        table.add_row(plain_text(name), bar, plain_text(numbers))
    return table


def is_live_terminal(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that can move its cursor and show more than ASCII, as redrawing needs."""
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" and encoding.startswith("utf")


def hide_control_keys() -> Callable[[], None]:
    """Stops the terminal from printing ``^C``, which would shift the area that is redrawn.

    Returns:
        A function that undoes it.
    """
    try:
        import termios
    except ImportError:  # not a Unix
        return lambda: None
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        is_in_front = os.getpgrp() == os.tcgetpgrp(terminal)  # the system would stop a background job that changes this
    except (AttributeError, OSError, ValueError, termios.error):
        return lambda: None
    if not is_in_front:
        return lambda: None
    termios.tcsetattr(terminal, termios.TCSADRAIN, [*before[:3], before[3] & ~termios.ECHOCTL, *before[4:]])
    return lambda: termios.tcsetattr(terminal, termios.TCSADRAIN, before)
