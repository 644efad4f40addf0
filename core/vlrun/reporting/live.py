"""The live panel of a terminal, drawn with rich."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlrun.interfaces.reporter import RunInfo, StepReport
from vlrun.reporting.lines import (
    DEMO_NOTICE,
    duration_text,
    ends_epoch,
    grouped_facts,
    loss_text,
    plain,
    rate_text,
    share_text,
)
from vlrun.reporting.results import ResultTable

if TYPE_CHECKING:
    from vlrun.reporting.console import Activity, Clock, Loss

_REDRAW_SECONDS = 0.1
_WAITING_IS_MUCH = 0.2  # share of time from which on the loader is worth a look
_NARROW = 72  # columns below which facts stand below each other


class LiveScreen:
    """One panel that is redrawn in place; lasting lines scroll above it.

    Nothing is drawn from a thread: loader workers are forked, and a fork must not copy a lock that a thread holds.
    """

    def __init__(self, console: Console | None, stream: TextIO, clock: Clock) -> None:
        self._console = console or Console(file=stream, force_terminal=True)
        self._clock = clock
        self._live: Live | None = None
        self._show_control_keys: Callable[[], None] = lambda: None
        self._run: RunInfo | None = None
        self._report: StepReport | None = None
        self._loss = math.nan
        self._activity: Activity | None = None
        self._started = clock()
        self._drawn = -math.inf

    def header(self, run: RunInfo) -> None:
        self._run = run
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        if run.start_step:
            facts.add_row("continues", Text(f"after step {run.start_step:,} of {run.total_steps:,}"))
        for label, value in grouped_facts(run.facts):
            facts.add_row(_text(label), _text(value))
        title = Text(plain(run.experiment), style="bold")
        parts: list[RenderableType] = [Text(DEMO_NOTICE, style="bold yellow"), facts] if run.is_demo else [facts]
        self._console.print(Panel(Group(*parts), title=title, title_align="left", border_style="dim"))
        # what is redirected elsewhere must not turn up on the terminal
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._show_control_keys = hide_control_keys()
        self._live.start()
        self._draw(always=True)

    def say(self, line: str) -> None:
        self._console.print(Text(plain(line)))

    def training(self, report: StepReport, loss: Loss) -> None:
        assert self._run is not None
        is_first = self._report is None
        self._report, self._loss, self._activity = report, loss.smoothed, None
        self._draw(always=is_first or ends_epoch(report, self._run))

    def activity(self, activity: Activity | None) -> None:
        self._activity = activity
        self._draw(always=activity is None)

    def results(self, table: ResultTable) -> None:
        rich_table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in table.headers:
            is_number = header in table.NUMERIC
            rich_table.add_column(header, justify="right" if is_number else "left", no_wrap=is_number)
        for row in table.rows:
            rich_table.add_row(*(_text(cell) for cell in row))
        self._console.print(rich_table)
        for note in table.footnotes:
            self._console.print(Text(plain(note), style="bold yellow" if note == DEMO_NOTICE else "dim"))

    def locations(self, locations: Sequence[tuple[str, str]]) -> None:
        width = max(len(label) for label, _ in locations)
        for label, place in locations:  # in one piece whatever the width, so that a path can be copied
            line = Text.assemble((f"{plain(label):<{width}}  ", "bold"), plain(place))
            self._console.print(line, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
            self._show_control_keys()

    @property
    def _is_joint(self) -> bool:
        return self._run is not None and self._run.num_tasks > 1

    def _draw(self, always: bool) -> None:
        if self._live is not None and (always or self._clock() - self._drawn >= _REDRAW_SECONDS):
            self._drawn = self._clock()
            self._live.update(self._panel(), refresh=True)

    def _panel(self) -> Panel:
        assert self._run is not None
        run, report = self._run, self._report
        parts: list[RenderableType] = []
        if report is not None:
            parts.append(self._facts(report))
        bars = Table.grid(padding=(0, 2), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(no_wrap=True, justify="right")
        if run.total_steps:
            step = report.step if report else run.start_step
            left = f"{duration_text(report.seconds_left)} left" if report else "waiting for the first steps"
            bars.add_row("training", _bar(step, run.total_steps), f"step {step:,}/{run.total_steps:,}  {left}")
        if self._activity is not None:
            doing = self._activity
            bars.add_row(_text(doing.what), _bar(doing.done, doing.total), f"{doing.done:,}/{doing.total:,}")
        parts.append(bars)
        epoch = f"  epoch {report.epoch} of {run.epochs}" if report else ""
        demo = ("  demo", "bold yellow") if run.is_demo else ""
        title = Text.assemble((plain(run.experiment), "bold"), demo, epoch)
        return Panel(Group(*parts), title=title, title_align="left", border_style="cyan")

    def _facts(self, report: StepReport) -> Table:
        waits = report.data_wait_share >= _WAITING_IS_MUCH
        loss = f"{loss_text(self._loss)}  (last {loss_text(report.loss)})"
        facts = [
            *([("task", Text(f"{plain(report.task)}, its epoch {report.task_epoch}"))] if self._is_joint else []),
            ("loss", Text(loss)),
            ("learning rate", Text(f"{report.learning_rate:.3g}")),
            ("examples/s", Text(rate_text(report.examples_per_second))),
            ("waiting for data", Text(share_text(report.data_wait_share), style="yellow" if waits else "")),
            ("gradient norm", Text(loss_text(report.gradient_norm))),
            ("elapsed", Text(duration_text(self._clock() - self._started))),
        ]
        if len(report.losses) > 1:
            named = "  ".join(f"{plain(name)} {loss_text(value)}" for name, value in report.losses.items())
            facts.append(("last losses", Text(named)))
        columns = 1 if self._console.width < _NARROW else 2
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(columns):
            grid.add_column(style="bold", no_wrap=True)
            grid.add_column(ratio=1)
        for start in range(0, len(facts), columns):
            grid.add_row(*(cell for fact in facts[start : start + columns] for cell in fact))
        return grid


def hide_control_keys() -> Callable[[], None]:
    """Keeps the terminal from printing ``^C`` into the panel, which would be redrawn in the wrong place.

    Returns:
        What undoes it.
    """
    try:
        import termios
    except ImportError:  # not a Unix
        return lambda: None
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        is_in_front = os.getpgrp() == os.tcgetpgrp(terminal)  # a job in the background would be stopped for it
    except (AttributeError, OSError, ValueError, termios.error):
        return lambda: None
    if not is_in_front:
        return lambda: None
    termios.tcsetattr(terminal, termios.TCSADRAIN, [*before[:3], before[3] & ~termios.ECHOCTL, *before[4:]])
    return lambda: termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=done)


def _text(text: str) -> Text:
    """``text`` as it is: what looks like markup stays, what would move the cursor goes."""
    return Text("\n".join(plain(line) for line in text.splitlines()))
