"""``report.html``: one page on one run that can be kept, mailed and read anywhere. It needs no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vlrun import __version__
from vlrun.files import write_text
from vlrun.interfaces.reporter import Outcome, Reporter, ResultRow, RunInfo
from vlrun.reporting.charts import Point, Series, line_chart, smooth, thin, thin_steps
from vlrun.reporting.jsonl import FILE_NAME as METRICS_NAME
from vlrun.reporting.jsonl import read_metrics
from vlrun.reporting.lines import DEMO_NOTICE, grouped_facts, plain, rate_text, score_text, share_text
from vlrun.reporting.page_style import STYLE
from vlrun.reporting.results import (
    Protocols,
    compare_protocols,
    label_of,
    result_cells,
    value_text,
    with_published_columns,
)
from vlrun.reporting.run_record import config_text, read_header, read_run, score_of, write_header

FILE_NAME = "report.html"

_STATUS_WORDS = {
    "done": "finished",
    "stopped": "stopped on request; it can be continued",
    "failed": "failed",
    "running": "not finished",
}


class HtmlReporter(Reporter):
    """Writes the page when the run ends, however it ends, and ``header.json`` with the recipe when it starts."""

    def __init__(self) -> None:
        self._run: RunInfo | None = None

    def start(self, run: RunInfo) -> None:
        self._run = run
        write_header(run.folder, run.facts)

    def finish(self, outcome: Outcome) -> None:
        if self._run is not None:
            write_report(self._run.folder, outcome, self._run)


def write_report(run_folder: Path, outcome: Outcome, info: RunInfo) -> Path:
    """Writes ``report.html`` from ``metrics.jsonl``, the configuration and what is given."""
    path = run_folder / FILE_NAME
    write_text(path, render_report(run_folder, outcome, info))
    return path


def rewrite_report(run_folder: Path) -> Path:
    """Writes ``report.html`` from the run folder alone, for a run that is under way or was killed."""
    run = read_run(run_folder)
    times = [(label, time) for label, time in (("started", run.started), ("finished", run.finished)) if time]
    info = RunInfo(
        run.experiment, run_folder, [*read_header(run_folder), *times], run.total_steps, 0, 0, is_demo=run.is_demo
    )
    files = [(path.name, str(path)) for path in sorted(run_folder.iterdir()) if not path.name.startswith(".")]
    return write_report(run_folder, Outcome(run.status, run.message, run.rows, files), info)


def render_report(run_folder: Path, outcome: Outcome, info: RunInfo) -> str:
    curves = _read_curves(run_folder / METRICS_NAME)
    title = f"{info.experiment}: {run_folder.name}"
    sections = [
        _results(outcome.rows, info.is_demo),
        _charts(curves),
        _facts(info, curves),
        _locations(outcome.locations, run_folder),
        _configuration(run_folder),
    ]
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{_heading(run_folder, outcome, info)}\n<main>\n{''.join(section for section in sections if section)}</main>\n"
        f"<footer>Written by vlrun {_text(__version__)}.</footer>\n</body>\n</html>\n"
    )


@dataclass
class _Curves:
    """What ``metrics.jsonl`` says over time, losses by task. ``scores`` are those of evaluations during training."""

    loss: dict[str, list[Point]] = field(default_factory=dict)
    losses: dict[str, dict[str, list[Point]]] = field(default_factory=dict)
    learning_rate: list[Point] = field(default_factory=list)
    examples_per_second: list[float] = field(default_factory=list)
    data_wait_share: list[float] = field(default_factory=list)
    scores: dict[tuple[str, str, str], list[tuple[int, int, str, float]]] = field(default_factory=dict)


def _read_curves(path: Path) -> _Curves:
    curves = _Curves()
    scores: dict[tuple[str, str, str], list[tuple[int, int, str, float]]] = {}
    primary: set[tuple[str, str, str]] = set()
    for line in read_metrics(path):
        if line["kind"] == "step":
            task, step = str(line.get("task", "")), float(line["step"])
            curves.loss.setdefault(task, []).append((step, _number(line.get("loss"))))
            curves.learning_rate.append((step, _number(line.get("learning_rate"))))
            curves.examples_per_second.append(_number(line.get("examples_per_second")))
            curves.data_wait_share.append(_number(line.get("data_wait_share")))
            for name, value in (line.get("losses") or {}).items():
                curves.losses.setdefault(task, {}).setdefault(str(name), []).append((step, _number(value)))
        elif line["kind"] == "result" and not line.get("final"):
            score = score_of(line)
            key = (str(line.get("task", "")), str(line.get("split", "")), score.name)
            if score.primary:
                primary.add(key)
            scores.setdefault(key, []).append((line["step"], int(line.get("epoch") or 0), score.unit, score.value))
    curves.scores = {key: points for key, points in scores.items() if key in primary or not primary}
    return curves


def _heading(run_folder: Path, outcome: Outcome, info: RunInfo) -> str:
    status = _STATUS_WORDS.get(outcome.status, outcome.status)
    message = f'<p class="message">{_text(outcome.message)}</p>' if outcome.message else ""
    banner = f'<p class="banner" role="note">{_text(DEMO_NOTICE)}</p>' if info.is_demo else ""
    kind = outcome.status if outcome.status in _STATUS_WORDS else "running"
    return (
        f'<header>\n<h1>{_text(info.experiment)}</h1>\n<p class="run">{_text(run_folder.name)} '
        f'<span class="status {kind}">{_text(status)}</span></p>\n{message}{banner}</header>'
    )


def _results(rows: Sequence[ResultRow], is_demo: bool) -> str:
    if not rows:
        return _section("Results", "<p>There are no final results.</p>")
    main = [row for row in rows if not row.score.detail]
    details = [row for row in rows if row.score.detail]
    protocols = compare_protocols(main)
    caption = "Final results" + (" on demo data" if is_demo else "")
    table = _result_table(main, protocols.marks, caption, is_demo)
    sources = list(dict.fromkeys(row.published_source for row in rows if row.published is not None))
    published = f"<p>Published numbers: {_text('; '.join(filter(None, sources)))}</p>" if any(sources) else ""
    groups = ""
    if details:
        inner = _result_table(details, [None] * len(details), "More scores", is_demo)
        groups = f"<details><summary>More scores ({len(details)})</summary>\n{inner}</details>\n"
    return _section("Results", table + published + groups + _protocols(protocols))


def _result_table(rows: Sequence[ResultRow], marks: Sequence[int | None], caption: str, is_demo: bool) -> str:
    columns = ["task", "split", "score", "result", "examples", "published", "difference"]
    if len({row.task for row in rows}) == 1:
        columns.remove("task")
    columns = with_published_columns(columns, rows, is_demo)
    body = []
    for row, mark in zip(rows, marks, strict=True):
        cells = {key: _text(value) for key, value in result_cells(row, None, is_demo).items()}
        cells["examples"] = f"{row.score.count:,}" if row.score.count else "-"
        if mark:
            cells["result"] += f'<sup><a href="#protocol-{mark}" aria-label="protocol note {mark}">{mark}</a></sup>'
        kind = ' class="primary"' if row.score.primary else ""
        body.append("".join([f"<tr{kind}>", *(_cell(column, cells[column]) for column in columns), "</tr>\n"]))
    head = "".join(f'<th scope="col"{_numeric(column)}>{column}</th>' for column in columns)
    table = f"<table>\n{_caption(caption)}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(body)}</tbody>\n</table>"
    return _scrolling(caption, table)


def _protocols(protocols: Protocols) -> str:
    if not (protocols.shared or protocols.by_column or protocols.notes):
        return ""
    lines = [("all results", "", protocols.shared)] if protocols.shared else []
    lines += [(cell, "", items) for cell, items in protocols.by_column]
    lines += [(f"marked {number}", f' id="protocol-{number}"', note) for number, note in enumerate(protocols.notes, 1)]
    rows = "".join(
        f'<tr{anchor}><th scope="row">{_text(label)}</th><td>{_items(items)}</td></tr>\n'
        for label, anchor, items in lines
    )
    return (
        "<h3>Protocol</h3>\n<p>Results are comparable only where their protocols agree.</p>\n"
        f'<table class="facts">{_caption("Protocol")}\n<tbody>\n{rows}</tbody></table>\n'
    )


def _items(values: Mapping[str, Any]) -> str:
    items = "".join(
        f'<li><span class="key">{_text(label_of(key))}</span> {_text(value_text(value))}</li>'
        for key, value in values.items()
    )
    return f'<ul class="items">{items}</ul>'


def _charts(curves: _Curves) -> str:
    losses = [_loss_figure(curves, task) for task in curves.loss]
    figures = [*losses, _score_figure(curves), _rate_figure(curves)]
    if not any(figures):
        return ""
    return _section("Curves", f'<div class="charts">{"".join(figures)}</div>{_score_table(curves)}')


def _loss_figure(curves: _Curves, task: str) -> str:
    loss = [point for point in curves.loss[task] if math.isfinite(point[1])]
    if not loss:
        return ""
    window = max(1, min(50, len(loss) // 20))
    lines = [Series("loss", thin(smooth(loss, window)), 0)]
    if window > 1:
        lines.insert(0, Series("each step", thin(loss), 0, is_faint=True))
        lines[1] = Series("loss, smoothed", lines[1].points, 0)
    named = curves.losses.get(task, {})
    if len(named) > 1:
        lines += [
            Series(name, thin(smooth(points, window)), style) for style, (name, points) in enumerate(named.items(), 1)
        ]
    text = f"from {loss[0][1]:.4g} at step {loss[0][0]:,.0f} to {loss[-1][1]:.4g} at step {loss[-1][0]:,.0f}"
    place = list(curves.loss).index(task)
    name, title = (f"loss-{place}", f"Training loss of {task}") if len(curves.loss) > 1 else ("loss", "Training loss")
    return _figure(name, title, f"{title} over steps, {text}.", lines, "step")


def _rate_figure(curves: _Curves) -> str:
    rates = [point for point in curves.learning_rate if math.isfinite(point[1])]
    if not rates:
        return ""
    peak = max(rate for _, rate in rates)
    text = f"Learning rate over steps: {rates[0][1]:.3g} first, {peak:.3g} at its peak, {rates[-1][1]:.3g} last."
    return _figure("rate", "Learning rate", text, [Series("learning rate", thin_steps(rates), 0)], "step")


def _score_figure(curves: _Curves) -> str:
    lines = [
        Series(_score_name(key, curves), [(float(epoch), value) for _, epoch, _, value in points], style, has_dots=True)
        for style, (key, points) in enumerate(curves.scores.items())
    ]
    units = {unit for points in curves.scores.values() for _, _, unit, _ in points}
    unit = f" in {next(iter(units))}" if len(units) == 1 and "" not in units else ""
    text = "Scores of the evaluations during training, by epoch; the table below has the numbers."
    return _figure("scores", f"Scores after each epoch{unit}", text, lines, "epoch")


def _score_table(curves: _Curves) -> str:
    """The numbers behind the chart of scores."""
    if not curves.scores:
        return ""
    keys = list(curves.scores)
    by_epoch: dict[tuple[int, int], dict[tuple[str, str, str], str]] = {}
    for key, points in curves.scores.items():
        for step, epoch, unit, value in points:
            by_epoch.setdefault((epoch, step), {})[key] = score_text(value, unit)
    head = "".join(f'<th scope="col" class="number">{_text(_score_name(key, curves))}</th>' for key in keys)
    rows = "".join(
        f'<tr><th scope="row" class="number">{epoch}</th><td class="number">{step:,}</td>'
        + "".join(f'<td class="number">{_text(cells.get(key, "-"))}</td>' for key in keys)
        + "</tr>\n"
        for (epoch, step), cells in sorted(by_epoch.items())
    )
    when = "".join(f'<th scope="col" class="number">{name}</th>' for name in ("epoch", "step"))
    table = (
        f"<table>{_caption('Scores during training')}\n<thead><tr>{when}{head}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody></table>"
    )
    return f"<details><summary>Scores as a table</summary>{_scrolling('Scores during training', table)}</details>\n"


def _score_name(key: tuple[str, str, str], curves: _Curves) -> str:
    """As short as tells the scores apart."""
    task, split, name = key
    tasks = {task for task, _, _ in curves.scores}
    return " ".join([task, split, name] if len(tasks) > 1 else [split, name])


def _figure(identifier: str, title: str, description: str, lines: Sequence[Series], x_label: str) -> str:
    svg = line_chart(identifier, title, description, lines, x_label)
    if not svg:
        return ""
    names = [line for line in lines if line.name != title.lower()]
    keys = "".join(f"<li>{_swatch(line)}{_text(line.name)}</li>" for line in names)
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    return f"<figure><figcaption>{_text(title)}</figcaption>{svg}{legend}</figure>\n"


def _swatch(series: Series) -> str:
    """The line of a series as the legend shows it."""
    kind = f"line s{series.style % 6}" + (" faint" if series.is_faint else "")
    return (
        f'<svg class="swatch" viewBox="0 0 24 8" aria-hidden="true"><g class="{kind}">'
        '<polyline points="0,4 24,4"/></g></svg>'
    )


def _facts(info: RunInfo, curves: _Curves) -> str:
    facts = grouped_facts(info.facts)
    rates = sorted(value for value in curves.examples_per_second if math.isfinite(value))
    waits = [value for value in curves.data_wait_share if math.isfinite(value)]
    if rates and waits:
        middle, share = rates[len(rates) // 2], sum(waits) / len(waits)
        facts.append(("speed", f"{rate_text(middle)} examples/s (median), {share_text(share)} waiting for data"))
    if not facts:
        return ""
    rows = "".join(f'<tr><th scope="row">{_text(label)}</th><td>{_fact(value)}</td></tr>\n' for label, value in facts)
    table = f'<table class="facts">{_caption("What was run, and how")}\n<tbody>\n{rows}</tbody></table>'
    return _section("Recipe", table)


def _locations(locations: Sequence[tuple[str, str]], run_folder: Path) -> str:
    if not locations:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(label)}</th><td>{_place(place, run_folder)}</td></tr>\n'
        for label, place in locations
    )
    table = f'<table class="facts">{_caption("Files of this run")}\n<tbody>\n{rows}</tbody></table>'
    return _section("Where everything lies", table)


def _place(place: str, run_folder: Path) -> str:
    """A path, as a link where it lies beside the page and so moves with it."""
    code = f"<code>{_text(place)}</code>"
    try:
        relative = Path(place).relative_to(run_folder)
    except ValueError:
        return code
    return f'<a href="{escape(quote(f"./{relative.as_posix()}"))}">{code}</a>'


def _configuration(run_folder: Path) -> str:
    text = config_text(run_folder)
    if not text:
        return ""
    body = f'<pre tabindex="0">{_text(text)}</pre>'
    return _section("Configuration", f"<details><summary>config.yaml, as it ran</summary>{body}</details>")


def _section(heading: str, body: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{body}\n</section>\n"


def _scrolling(label: str, table: str) -> str:
    """A wide table scrolls by itself, by keyboard too, instead of widening the page."""
    return f'<div class="scroll" role="region" aria-label="{_text(label)}" tabindex="0">{table}</div>\n'


def _caption(text: str) -> str:
    """Names a table for those who hear the page; others see the heading above it."""
    return f'<caption><span class="unseen">{_text(text)}</span></caption>'


def _cell(column: str, content: str) -> str:
    if column == "split":
        return f'<th scope="row">{content}</th>'
    return f"<td{_numeric(column)}>{content}</td>"


def _numeric(column: str) -> str:
    return ' class="number"' if column in ("result", "examples", "published", "difference") else ""


def _fact(value: str) -> str:
    """A fact of several lines is a small table made with spaces."""
    return f'<div class="lines" tabindex="0">{_text(value)}</div>' if "\n" in value else _text(value)


def _text(text: str) -> str:
    """Text that stays text: escaped, and without control characters, which HTML forbids."""
    return escape("\n".join(plain(line) for line in text.split("\n")))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
