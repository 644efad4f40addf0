"""The live panel of a terminal."""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlrun.foreign.printing import plain
from vlrun.interfaces.reporter import RunInfo, StepReport
from vlrun.reporting.progress import Bar, Clock, LiveArea, bars, work_bar
from vlrun.reporting.tables import TextTable, plain_text
from vlrun.reporting.wording import (
    DEMO_NOTICE,
    duration_text,
    ends_epoch,
    grouped_facts,
    loss_text,
    rate_text,
    share_text,
)

_MUCH_WAITING = 0.2  # share of time above which the loader deserves attention
_NARROW = 72  # columns; below that, facts have one column


class LiveScreen(LiveArea):
    """One panel that shows how the training goes."""

    def __init__(self, console: Console, clock: Clock) -> None:
        super().__init__(console, clock)
        self._run: RunInfo | None = None
        self._report: StepReport | None = None
        self._loss = math.nan
        self._started = clock()

    def header(self, run: RunInfo) -> None:
        """Prints the facts of the run in a frame."""
        self._run = run
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        if run.start_step:
            facts.add_row("continues", Text(f"after step {run.start_step:,} of {run.total_steps:,}"))
        for label, value in grouped_facts(run.facts):
            facts.add_row(plain_text(label), plain_text(value))
        title = Text(plain(run.experiment), style="bold")
        parts: list[RenderableType] = [Text(DEMO_NOTICE, style="bold yellow"), facts] if run.is_demo else [facts]
        self._console.print(Panel(Group(*parts), title=title, title_align="left", border_style="dim"))
        self.draw(always=True)

    def training(self, report: StepReport, smoothed_loss: float) -> None:
        """Updates the panel."""
        assert self._run is not None
        is_first = self._report is None
        self._report, self._loss, self._work = report, smoothed_loss, None
        self.draw(always=is_first or ends_epoch(report, self._run))

    def results(self, table: TextTable) -> None:
        """Prints the table and its footnotes."""
        self._console.print(table.as_rich())
        for note in table.footnotes:
            self._console.print(Text(plain(note), style="bold yellow" if note == DEMO_NOTICE else "dim"))

    def locations(self, table: TextTable) -> None:
        """Prints paths without breaking them, so that they can be copied."""
        for line in table.as_lines():
            self._console.print(Text(line), soft_wrap=True)

    def content(self) -> RenderableType:
        if self._run is None:
            return super().content()
        run, report = self._run, self._report
        parts: list[RenderableType] = []
        if report is not None:
            parts.append(self._facts(report))
        rows: list[Bar] = []
        if run.total_steps:
            step = report.step if report else run.start_step
            left = f"{duration_text(report.seconds_left)} left" if report else "waiting for the first steps"
            bar = ProgressBar(total=run.total_steps, completed=step)
            rows.append(("training", bar, f"step {step:,}/{run.total_steps:,}  {left}"))
        if self._work is not None:
            rows.append(work_bar(self._work))
        parts.append(bars(rows))
        epoch = f"  epoch {report.epoch} of {run.epochs}" if report else ""
        demo = ("  demo", "bold yellow") if run.is_demo else ""
        title = Text.assemble((plain(run.experiment), "bold"), demo, epoch)
        return Panel(Group(*parts), title=title, title_align="left", border_style="cyan")

    def _facts(self, report: StepReport) -> Table:
        waits = report.data_wait_share >= _MUCH_WAITING
        loss = f"{loss_text(self._loss)}  (last {loss_text(report.loss)})"
        is_joint = self._run is not None and self._run.num_tasks > 1
        facts = [
            *([("task", Text(f"{plain(report.task)}, its epoch {report.task_epoch}"))] if is_joint else []),
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
        facts += [(plain(name), Text(loss_text(value))) for name, value in report.scalars.items()]
        columns = 1 if self._console.width < _NARROW else 2
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(columns):
            grid.add_column(style="bold", no_wrap=True)
            grid.add_column(ratio=1)
        for start in range(0, len(facts), columns):
            grid.add_row(*(cell for fact in facts[start : start + columns] for cell in fact))
        return grid
