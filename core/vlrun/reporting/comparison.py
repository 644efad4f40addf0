"""Runs side by side: a table for each kind of data, what differs between its runs, and the runs without results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from vlrun.foreign.printing import plain
from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.options import is_recipe, portable_options, shown
from vlrun.reporting.repeats import CHECKPOINT, repeat_table, repeated_scores
from vlrun.reporting.results import (
    NUMERIC,
    compare_protocols,
    protocol_footnotes,
    published_footnotes,
    reasons_against,
    result_cells,
    with_published_columns,
)
from vlrun.reporting.run_record import RunRecord
from vlrun.reporting.tables import TextTable

_MOST_DIFFERENCES = 8  # in a cell; a row that differs in more is another experiment

_LONGEST_REASON = 160  # characters

_FILES = ("weights", "vocabulary", "annotations", "features")
"""Options that name files. Runs of one recipe on others of them differ."""


@dataclass(frozen=True)
class Place:
    """What a row is of: a task on a dataset; rows of different places are never compared."""

    task: str
    dataset: str
    is_demo: bool

    def __str__(self) -> str:
        on = f" on {self.dataset}" if self.dataset else ""
        return f"{self.task}{on}{', demo data' if self.is_demo else ''}"


@dataclass(frozen=True)
class _Line:
    """A result of a run, which has a number in the whole report."""

    number: int
    run: RunRecord
    row: ResultRow


def tables_of(runs: Sequence[RunRecord]) -> list[tuple[str, list[TextTable]]]:
    """For each place, in order of their names, its runs and their results; then means over seeds, where runs differ in
    nothing else; at last the runs without results."""
    places: dict[Place, list[tuple[RunRecord, ResultRow]]] = {}
    ordered = sorted(runs, key=lambda run: (run.experiment, run.folder.name))
    for run in ordered:
        for row in run.rows:
            if not row.score.detail:
                places.setdefault(Place(*task_of(run, row.task)[1:], run.is_demo), []).append((run, row))
    numbers: dict[Path, int] = {}
    tables = []
    for place, results in sorted(places.items(), key=lambda at: str(at[0])):
        lines = [_Line(numbers.setdefault(run.folder, len(numbers) + 1), run, row) for run, row in results]
        tables.append((plain(str(place)), [_runs(lines), _results(lines)]))
    if repeats := repeated_scores(ordered):
        tables.append(("one recipe with several seeds", [repeat_table(repeats)]))
    if without := [run for run in ordered if not run.rows]:
        tables.append(("runs without results", [_without_results(without, len(numbers) + 1)]))
    return tables


def task_of(run: RunRecord, label: str) -> tuple[int | None, str, str]:
    """Position, name and dataset of the task that the run calls ``label``; of a damaged configuration what is left."""
    for position, (own, name, dataset) in enumerate(tasks_of(run)):
        if own == label:
            return position, name, dataset
    return None, label, ""


def tasks_of(run: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Label, name and dataset of each task in the configuration."""
    tasks = run.config.get("tasks")
    for task in map(_section, tasks if isinstance(tasks, list) else []):
        name = str(task.get("name", ""))
        yield str(task.get("label") or name), name, str(_section(task.get("dataset")).get("name", ""))


def backbone_of(run: RunRecord) -> str:
    """Name of the backbone; empty if the configuration is damaged."""
    return str(_section(run.config.get("backbone")).get("name", ""))


def _section(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def progress_of(run: RunRecord) -> str:
    """How far the run is, and how."""
    return f"{run.status} at step {run.step:,} of {run.total_steps:,}" if run.total_steps else run.status


def reason_of(run: RunRecord) -> str:
    """The first line of what the run said when it ended, or the beginning of a long one."""
    line = next((line.strip() for line in run.message.splitlines() if line.strip()), "")
    return shorten(line, _LONGEST_REASON, placeholder=" ... (status.json has all)")


def differing_options(run: RunRecord, label: str, others: Sequence[RunRecord]) -> dict[str, Any]:
    """The options of a run, as far as they concern one of its tasks, that are not the same in all of ``others``."""
    own = _options(run, label)
    theirs = [_options(other, label) for other in others]
    keys = dict.fromkeys(key for options in (own, *theirs) for key in options)
    return {key: own.get(key) for key in keys if any(other.get(key) != own.get(key) for other in theirs)}


def _options(run: RunRecord, label: str) -> dict[str, Any]:
    """Recipe, seed and files of one task, under names without its position; files relative to the data root."""
    own = f"tasks.{task_of(run, label)[0]}."
    return {
        key.removeprefix(own): value
        for key, value in portable_options(run.config).items()
        if key == "seed"
        or (key.startswith((own, "backbone.", "train.")) and (is_recipe(key) or key.rpartition(".")[2] in _FILES))
    }


def _runs(lines: Sequence[_Line]) -> TextTable:
    """The runs, with what concerns all of their results: weights, and what they do otherwise."""
    cells = []
    for number in dict.fromkeys(line.number for line in lines):
        own = [line for line in lines if line.number == number]
        run = own[0].run
        checkpoints = dict.fromkeys(str(line.row.score.protocol.get(CHECKPOINT, "-")) for line in own)
        cells.append(
            {
                "no.": str(number),
                "run": run.folder.name,
                "experiment": run.experiment,
                "backbone": backbone_of(run) or "-",
                "checkpoint": "; ".join(checkpoints),
                "differs in": _differences(run, own[0].row.task, lines),
            }
        )
    headers = [header for header in cells[0] if header != "differs in" or any(cell[header] for cell in cells)]
    unfinished = dict.fromkeys(
        f"{line.number}: {progress_of(line.run)}{_because(line.run)}; results may be missing"
        for line in lines
        if line.run.status != "done"
    )
    return TextTable(headers, [[plain(cell[header]) for header in headers] for cell in cells], ("no.",), [*unfinished])


def _results(lines: Sequence[_Line]) -> TextTable:
    """The scores, those of one split and name under one another."""
    order = {key: place for place, key in enumerate(dict.fromkeys(map(_score_key, lines)))}
    lines = sorted(lines, key=lambda line: order[_score_key(line)])
    rows = [_without_checkpoint(line.row) for line in lines]
    protocols, reasons = compare_protocols(rows), reasons_against(rows)
    cells = [
        {"no.": str(line.number), **result_cells(row, mark, letters)}
        for line, row, mark, letters in zip(lines, rows, protocols.marks, reasons.letters, strict=True)
    ]
    headers = ["task", "split", "score", "no.", "result", "examples", "published", "difference"]
    if len({row.task for row in rows}) == 1:
        headers.remove("task")
    headers = with_published_columns(headers, rows)
    footnotes = [*protocol_footnotes(protocols), *published_footnotes(rows), *reasons.footnotes]
    texts = [[plain(cell[header]) for header in headers] for cell in cells]
    return TextTable(headers, texts, ("no.", *NUMERIC), footnotes)


def _score_key(line: _Line) -> tuple[str, str, str]:
    return line.row.task, line.row.split, line.row.score.name


def _without_checkpoint(row: ResultRow) -> ResultRow:
    """The row without the checkpoint in its protocol: that has a column, and differs between nearly all runs."""
    protocol = {key: value for key, value in row.score.protocol.items() if key != CHECKPOINT}
    return replace(row, score=replace(row.score, protocol=protocol))


def _differences(run: RunRecord, label: str, lines: Sequence[_Line]) -> str:
    """What a run does otherwise than others with the same backbone, in short."""
    backbone = backbone_of(run)
    others = {line.run.folder: line.run for line in lines if backbone_of(line.run) == backbone}
    options = differing_options(run, label, list(others.values()))
    last = [key.rpartition(".")[2] for key in options]
    texts = [
        f"{short if last.count(short) == 1 else key} {shown(value)}"
        for short, (key, value) in zip(last, options.items(), strict=True)
    ]
    more = len(texts) - _MOST_DIFFERENCES
    return ", ".join([*texts[:_MOST_DIFFERENCES], *([f"and {more} more (--json)"] if more > 0 else [])])


def _without_results(runs: Sequence[RunRecord], first: int) -> TextTable:
    headers = ["no.", "run", "experiment", "state", "why"]
    rows = [
        [str(number), run.folder.name, run.experiment, progress_of(run), reason_of(run) or "-"]
        for number, run in enumerate(runs, first)
    ]
    return TextTable(headers, [[plain(cell) for cell in row] for row in rows], ("no.",))


def _because(run: RunRecord) -> str:
    reason = reason_of(run)
    return f" ({plain(reason)})" if reason else ""
