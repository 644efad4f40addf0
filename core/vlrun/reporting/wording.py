"""The wording of reports: lines of plain text for logs and pipes, and how all reporters write numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlrun.foreign.printing import plain
from vlrun.interfaces.reporter import EvaluationReport, Outcome, RunInfo, StepReport
from vlrun.reporting.tables import TextTable

DEMO_NOTICE = (
    "DEMO RUN: generated data, a tiny model and a short schedule. "
    "Its numbers are not comparable with published ones or with runs on real data."
)


def header_lines(run: RunInfo) -> list[str]:
    """Lines on the experiment, whether it is a demo, and the facts."""
    lines = [f"experiment {run.experiment}"]
    if run.is_demo:
        lines.append(DEMO_NOTICE)
    if run.start_step:
        lines.append(f"continues after step {run.start_step:,} of {run.total_steps:,}")
    return [*map(plain, lines), *TextTable((), grouped_facts(run.facts)).as_lines(indent=2)]


def grouped_facts(facts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Joins neighbouring facts with the same label into one fact of several lines."""
    grouped: list[tuple[str, str]] = []
    for label, value in facts:
        if grouped and grouped[-1][0] == label:
            grouped[-1] = (label, f"{grouped[-1][1]}\n{value}")
        else:
            grouped.append((label, value))
    return grouped


def ends_epoch(report: StepReport, run: RunInfo) -> bool:
    """Whether this step is the last one of an epoch or of the run."""
    return report.step == run.total_steps or report.step % max(1, run.steps_per_epoch) == 0


def step_line(report: StepReport, run: RunInfo, smoothed_loss: float | None = None) -> str:
    """One line on a step, with the loss of the step, or with the smoothed loss and that of the step beside it."""
    loss = report.loss if smoothed_loss is None else smoothed_loss
    last = "" if smoothed_loss is None else f"last {loss_text(report.loss)}"
    named = [f"{name} {loss_text(value)}" for name, value in report.losses.items()] if len(report.losses) > 1 else []
    details = ", ".join(part for part in (last, *named) if part)
    parts = [
        f"step {report.step}/{run.total_steps}",
        f"epoch {report.epoch}/{run.epochs}" + (" done" if ends_epoch(report, run) else ""),
        *([f"{report.task}, its epoch {report.task_epoch}"] if run.num_tasks > 1 else []),
        f"loss {loss_text(loss)}" + (f" ({details})" if details else ""),
        *(f"{name} {loss_text(value)}" for name, value in report.scalars.items()),
        f"lr {report.learning_rate:.3g}",
        f"{rate_text(report.examples_per_second)} examples/s",
        f"waiting for data {share_text(report.data_wait_share)}",
    ]
    if report.step < run.total_steps:
        parts.append(f"{duration_text(report.seconds_left)} left")
    return plain("  ".join(parts))


def evaluation_line(report: EvaluationReport) -> str:
    """One line on the scores of a split, without details."""
    scores = ", ".join(
        f"{score.name} {score_text(score.value, score.unit, score.standard_error)}"
        + (f" of {score.count:,}" if score.count not in (0, report.num_examples) else "")
        for score in report.scores
        if not score.detail
    )
    final = "final " if report.final else ""
    work = f"{report.num_examples:,} examples in {duration_text(report.seconds)}"
    weights = f"checkpoint {report.checkpoint}" if report.checkpoint else f"after step {report.step:,}"
    return plain(f"{final}{report.task} {report.split}  {scores}  ({work}, {weights})")


def ending_line(outcome: Outcome, seconds: float) -> str:
    """One line on how a run ended and how long it took."""
    message = f": {outcome.message}" if outcome.message else ""
    return f"{outcome.status} after {duration_text(seconds)}{message}"


def score_text(value: float, unit: str, standard_error: float | None = None) -> str:
    """A score with its standard error and unit: two decimals of a percentage, four digits of anything else."""
    if not math.isfinite(value):
        return str(value)
    is_percentage = unit == "%"
    error = "" if standard_error is None else f" ± {standard_error:{'.2f' if is_percentage else '.2g'}}"
    return f"{value:.2f}{error} %" if is_percentage else f"{value:.4g}{error} {unit}".rstrip()


def difference_text(difference: float, unit: str) -> str:
    """A difference of two scores, with its sign."""
    return f"{difference:+.2f}" if unit == "%" else f"{difference:+.4g}"


def loss_text(value: float) -> str:
    """A loss with four decimals, or four significant digits if it is very small or large."""
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"


def rate_text(value: float) -> str:
    """A rate as a whole number, or with two digits if it is small."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def share_text(share: float) -> str:
    """A share in [0, 1] as a whole percentage."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else "unknown"


def duration_text(seconds: float) -> str:
    """A duration such as ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
