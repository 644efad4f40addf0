"""``report.html``: one page on one run, which needs no other file and can be kept, mailed and read anywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from vlrun.files import write_text
from vlrun.foreign.printing import plain
from vlrun.interfaces.reporter import Outcome, Reporter, ResultRow, RunInfo
from vlrun.reporting.charts import Chart, Line, Point, smooth, thin
from vlrun.reporting.examples import read_examples
from vlrun.reporting.jsonl import FILE_NAME as METRICS_NAME
from vlrun.reporting.jsonl import read_metrics
from vlrun.reporting.results import (
    NUMERIC,
    Protocols,
    Reasons,
    compare_protocols,
    label_of,
    reasons_against,
    result_cells,
    value_text,
    with_published_columns,
)
from vlrun.reporting.run_record import config_text, read_header, read_run, score_of, write_header
from vlrun.reporting.wording import DEMO_NOTICE, grouped_facts, rate_text, score_text, share_text

FILE_NAME = "report.html"

_STATUS_TEXTS = {
    "done": "finished",
    "stopped": "stopped on request; it can be continued",
    "failed": "failed",
    "running": "not finished",
}

Metrics = Mapping[str, Any]  # a line of metrics.jsonl
ScoreKey = tuple[str, str, str]  # task, split, name


class HtmlReporter(Reporter):
    """Writes ``header.json``, with the recipe, when the run starts, and the page when it ends."""

    leaves = MappingProxyType({"report": "report.html"})

    def __init__(self) -> None:
        self._run: RunInfo | None = None

    def start(self, run: RunInfo) -> None:
        """Keeps the facts of the run for a page that is written later."""
        self._run = run
        write_header(run.folder, run.facts)

    def finish(self, outcome: Outcome) -> None:
        """Writes the page, however the run ended."""
        if self._run is not None:
            write_report(self._run.folder, outcome, self._run)


def write_report(run_folder: Path, outcome: Outcome, info: RunInfo) -> Path:
    """Writes ``report.html`` from the arguments and from ``metrics.jsonl`` and ``config.yaml`` in the folder."""
    path = run_folder / FILE_NAME
    write_text(path, render_report(run_folder, outcome, info))
    return path


def rewrite_report(run_folder: Path) -> Path:
    """Writes ``report.html`` from the run folder alone, for a run that goes on or was killed."""
    run = read_run(run_folder)
    times = [(label, time) for label, time in (("started", run.started), ("finished", run.finished)) if time]
    info = RunInfo(
        run.experiment, run_folder, [*read_header(run_folder), *times], run.total_steps, 0, 0, is_demo=run.is_demo
    )
    files = [(path.name, str(path)) for path in sorted(run_folder.iterdir()) if not path.name.startswith(".")]
    return write_report(run_folder, Outcome(run.status, run.message, run.rows, files), info)


def render_report(run_folder: Path, outcome: Outcome, info: RunInfo) -> str:
    """The text of the page, made with ``templates/report.html``."""
    metrics = list(read_metrics(run_folder / METRICS_NAME))
    steps = [entry for entry in metrics if entry["kind"] == "step"]
    scores = _scores_during_training(metrics)
    main = [row for row in outcome.rows if not row.score.detail]
    details = [row for row in outcome.rows if row.score.detail]
    protocols = compare_protocols(main)
    against, against_details = reasons_against(main), reasons_against(details)
    caption = "Final results" + (" on demo data" if info.is_demo else "")
    return page_template(FILE_NAME).render(
        run=info,
        folder=run_folder,
        outcome=outcome,
        status=outcome.status if outcome.status in _STATUS_TEXTS else "running",
        status_text=_STATUS_TEXTS.get(outcome.status, outcome.status),
        demo_notice=DEMO_NOTICE,
        version=version("vlrun"),
        results=_result_table(caption, main, protocols.marks, against),
        reasons=against.footnotes,
        details=_result_table("More scores", details, [None] * len(details), against_details),
        detail_reasons=against_details.footnotes,
        sources=list(
            dict.fromkeys(
                row.published_source for row in outcome.rows if row.published is not None and row.published_source
            )
        ),
        protocols=_protocol_lines(protocols),
        charts=[*_loss_charts(steps), _score_chart(scores), _rate_chart(steps), *_scalar_charts(steps)],
        scores=_score_table(scores),
        examples=read_examples(run_folder, [(row.task, row.split) for row in main]),
        facts=[*grouped_facts(info.facts), *_speed(steps)],
        locations=[(label, place, _link(Path(place), run_folder)) for label, place in outcome.locations],
        config=config_text(run_folder),
    )


def page_template(name: str) -> Template:
    """Loads one of our templates; values are escaped and lose control characters, which HTML forbids."""

    def printable(value: Any) -> Any:
        return "\n".join(map(plain, value.split("\n"))) if type(value) is str else value

    pages = Environment(
        loader=PackageLoader("vlrun.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(name)


@dataclass(frozen=True)
class _Table:
    """Rows of texts by column; ``names_row`` is the column of row headers, ``numeric`` ones are aligned right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    names_row: str
    numeric: Collection[str]


def _result_table(caption: str, rows: Sequence[ResultRow], marks: Sequence[int | None], against: Reasons) -> _Table:
    columns = ["task", "split", "score", "result", "examples", "published", "difference"]
    if len({row.task for row in rows}) == 1:
        columns.remove("task")
    cells = [
        {
            **result_cells(row, None, letters),
            "mark": mark,
            "is_primary": row.score.primary,
        }
        for row, mark, letters in zip(rows, marks, against.letters, strict=True)
    ]
    return _Table(caption, with_published_columns(columns, rows), cells, "split", NUMERIC)


def _protocol_lines(protocols: Protocols) -> list[tuple[str, int | None, list[tuple[str, str]]]]:
    """(results that have the protocol, mark that links to it, items) of each protocol."""
    lines: list[tuple[str, int | None, Mapping[str, Any]]] = []
    if protocols.shared:
        lines.append(("all results", None, protocols.shared))
    lines += [(cell, None, items) for cell, items in protocols.by_column]
    lines += [(f"marked {mark}", mark, note) for mark, note in enumerate(protocols.notes, 1)]
    return [
        (label, mark, [(label_of(key), value_text(value)) for key, value in items.items()])
        for label, mark, items in lines
    ]


def _loss_charts(steps: Sequence[Metrics]) -> list[Chart]:
    """One chart for each task."""
    by_task: dict[str, list[Metrics]] = {}
    for step in steps:
        by_task.setdefault(str(step.get("task", "")), []).append(step)
    return [
        _loss_chart(f"loss-{place}", f"Training loss of {task}" if len(by_task) > 1 else "Training loss", task_steps)
        for place, (task, task_steps) in enumerate(by_task.items())
    ]


def _loss_chart(name: str, title: str, steps: Sequence[Metrics]) -> Chart:
    loss = _points(steps, "loss")
    window = _window(loss)
    lines = [Line("each step", thin(loss), is_faint=True)] if window > 1 else []
    lines.append(Line("loss, smoothed" if window > 1 else "loss", thin(smooth(loss, window))))
    parts = list(dict.fromkeys(part for step in steps for part in step.get("losses") or {}))
    if len(parts) > 1:
        lines += [
            Line(part, thin(smooth(_points(steps, part, "losses"), window)), place)
            for place, part in enumerate(parts, 1)
        ]
    ends = [f"{value:.4g} at step {step:,.0f}" for step, value in (*loss[:1], *loss[-1:])]
    return Chart(name, title, f"{title} over steps, from {' to '.join(ends)}.", lines, "step")


def _window(points: Sequence[Point]) -> int:
    """Over how many points a curve is smoothed."""
    return max(1, min(50, len(points) // 20))


def _rate_chart(steps: Sequence[Metrics]) -> Chart:
    points = _points(steps, "learning_rate")
    rates = [rate for _, rate in points] or [math.nan]
    text = f"Learning rate over steps: {rates[0]:.3g} first, {max(rates):.3g} at its peak, {rates[-1]:.3g} last."
    return Chart("rate", "Learning rate", text, [Line("learning rate", thin(points))], "step")


def _scalar_charts(steps: Sequence[Metrics]) -> list[Chart]:
    """What is reported beside losses: a chart for each name, and one for all names that begin alike before a slash."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for step in steps for name in step.get("scalars") or {}):
        groups.setdefault(name.partition("/")[0], []).append(name)
    charts = []
    for place, (title, names) in enumerate(groups.items()):
        lines = []
        for number, name in enumerate(names):
            points = _points(steps, name, "scalars")
            lines.append(Line(name.partition("/")[2] or name, thin(smooth(points, _window(points))), number))
        charts.append(
            Chart(f"scalar-{place}", title, f"{title} over steps, as the training reports it.", lines, "step")
        )
    return charts


def _scores_during_training(metrics: Sequence[Metrics]) -> dict[ScoreKey, list[Metrics]]:
    """The evaluations during training by score: the primary ones, or all where none is."""
    results = [entry for entry in metrics if entry["kind"] == "result" and not entry.get("final")]
    scores: dict[ScoreKey, list[Metrics]] = {}
    for entry in results:
        key = (str(entry.get("task", "")), str(entry.get("split", "")), score_of(entry).name)
        scores.setdefault(key, []).append(entry)
    primary = {key: entries for key, entries in scores.items() if any(score_of(entry).primary for entry in entries)}
    return primary or scores


def _score_chart(scores: Mapping[ScoreKey, Sequence[Metrics]]) -> Chart:
    lines = [
        Line(name, [(_epoch(entry), score_of(entry).value) for entry in entries], place, has_dots=True)
        for place, (name, entries) in enumerate(zip(_short_names(scores), scores.values(), strict=True))
    ]
    units = {score_of(entry).unit for entries in scores.values() for entry in entries}
    unit = f" in {next(iter(units))}" if len(units) == 1 and "" not in units else ""
    text = "Scores of the evaluations during training, by epoch; the table below has the numbers."
    return Chart("scores", f"Scores after each epoch{unit}", text, lines, "epoch")


def _score_table(scores: Mapping[ScoreKey, Sequence[Metrics]]) -> _Table:
    """The numbers behind the chart of scores."""
    names = _short_names(scores)
    rows: dict[tuple[int, int], dict[str, str]] = {}
    for name, entries in zip(names, scores.values(), strict=True):
        for entry in entries:
            score, epoch, step = score_of(entry), _epoch(entry), entry["step"]
            row = rows.setdefault(
                (epoch, step), {"epoch": str(epoch), "step": f"{step:,}", **dict.fromkeys(names, "-")}
            )
            row[name] = score_text(score.value, score.unit, score.standard_error)
    columns = ["epoch", "step", *names]
    return _Table("Scores during training", columns, [rows[when] for when in sorted(rows)], "epoch", columns)


def _short_names(scores: Collection[ScoreKey]) -> list[str]:
    """Names without the task if all scores are of the same one."""
    is_joint = len({task for task, _, _ in scores}) > 1
    return [" ".join(key if is_joint else key[1:]) for key in scores]


def _speed(steps: Sequence[Metrics]) -> list[tuple[str, str]]:
    rates = sorted(rate for _, rate in _points(steps, "examples_per_second"))
    waits = [share for _, share in _points(steps, "data_wait_share")]
    if not rates or not waits:
        return []
    middle, share = rates[len(rates) // 2], sum(waits) / len(waits)
    return [("speed", f"{rate_text(middle)} examples/s (median), {share_text(share)} waiting for data")]


def _link(place: Path, run_folder: Path) -> str:
    """A relative link to a file in the run folder, which stays valid when the folder moves; empty for other places."""
    return quote(f"./{place.relative_to(run_folder).as_posix()}") if place.is_relative_to(run_folder) else ""


def _points(steps: Sequence[Metrics], key: str, within: str | None = None) -> list[Point]:
    """The finite values of ``key`` over steps."""
    values = ((float(step["step"]), (step if within is None else step.get(within) or {}).get(key)) for step in steps)
    return [(step, float(value)) for step, value in values if isinstance(value, int | float) and math.isfinite(value)]


def _epoch(entry: Metrics) -> int:
    return int(entry.get("epoch") or 0)
