"""``runner report``: the results of runs in one table, read from their folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vlrun.config.roots import usual_runs_root
from vlrun.errors import DataError, UsageError
from vlrun.foreign.printing import say, say_json
from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.comparison import backbone_of, tables_of, task_of, tasks_of
from vlrun.reporting.options import flat_options, is_recipe, shown
from vlrun.reporting.repeats import repeated_scores
from vlrun.reporting.results import difference_to_published
from vlrun.reporting.run_record import RunRecord, is_run_folder, read_run
from vlrun.reporting.tables import print_table
from vlrun.reporting.wording import DEMO_NOTICE

_KEYS = ("run", "experiment", "status", "backbone", "task", "dataset", "split", "score")
"""What ``--where`` knows besides options."""

_MAX_DEPTH = 3  # runs/<experiment>/<run>, and a folder of such runs folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes folders, --json and --html."""
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="RUN_OR_RUNS_FOLDER",
        help="run folders, or folders that hold runs (default: $VLRUN_RUNS, else runs)",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=PATTERN",
        help="only what matches, as in 'experiment=rosita_*' (repeatable; all must match): "
        f"{', '.join(_KEYS)}, or an option such as backbone.size",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output, with the whole protocols")
    parser.add_argument("--html", action="store_true", help="also rewrite the report.html of each run")


def run(arguments: argparse.Namespace) -> int:
    """Prints tables, or JSON, of the results of all runs in the folders."""
    folders = arguments.folders or [usual_runs_root()]
    runs = matching([read_run(folder) for folder in find_runs(folders)], arguments.where)
    say(*(line for record in runs for line in record.damage), to=sys.stderr)
    pages = {record.folder: _write_page(record) for record in runs} if arguments.html else {}
    if arguments.json:
        content = {
            "runs": [_as_json(record, pages.get(record.folder)) for record in runs],
            "repeats": [score.as_json() for score in repeated_scores(runs)],
        }
        say_json(content, default=str)
        return 0
    for place, (title, tables) in enumerate(tables_of(runs)):
        say(*([""] if place else []), f"{title}:")
        for table in tables:
            say("")
            print_table(table)
    if any(record.is_demo for record in runs):
        say("", DEMO_NOTICE)
    for page in pages.values():
        say(f"wrote {page}")
    return 0


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Every run folder at or below ``folders``, each once, the oldest of a folder first (names start with the time).

    Raises:
        UsageError: a folder does not exist.
        DataError: a folder holds no run.
    """
    runs: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder}")
        below = [path.resolve() for path in _runs_below(folder, _MAX_DEPTH)]
        if not below:
            raise DataError(f"{folder} holds no run (a run folder has a status.json)")
        runs.update(dict.fromkeys(below))
    return list(runs)


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if is_run_folder(folder):
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink():  # ``latest`` links to a run that is listed anyway
                yield from _runs_below(child, depth - 1)


def matching(runs: Sequence[RunRecord], conditions: Sequence[str]) -> list[RunRecord]:
    """The runs, with those of their results, that meet all conditions.

    Raises:
        UsageError: a condition is not ``KEY=PATTERN``, or no run has such a key.
        DataError: nothing matches.
    """
    options = {record.folder: flat_options(record.config) for record in runs}
    known = list(dict.fromkeys([*_KEYS, *(key for own in options.values() for key in own)]))
    wanted = [_condition(condition, known) for condition in conditions]
    kept = []
    for record in runs:
        own = {key: shown(value) for key, value in options[record.folder].items()}
        own |= {"run": record.folder.name, "experiment": record.experiment, "status": record.status}
        own["backbone"] = backbone_of(record)
        rows = [row for row in record.rows if _matches({**own, **_facts(record, row)}, wanted)]
        of_run = [(key, pattern) for key, pattern in wanted if key != "score"]  # none says which score it lacks
        if rows or (not record.rows and any(_matches({**own, **facts}, of_run) for facts in _intended(record))):
            kept.append(replace(record, rows=rows))
    if runs and not kept:
        raise DataError(f"none of {len(runs)} runs matches {' and '.join(map(repr, conditions))}")
    return kept


def _condition(text: str, known: Sequence[str]) -> tuple[str, str]:
    key, equals, pattern = text.partition("=")
    if not (key and equals):
        raise UsageError(f"--where {text}: write KEY=PATTERN, such as 'experiment=rosita_*'")
    if key not in known:
        near = get_close_matches(key, known, n=1)
        hint = f". Did you mean '{near[0]}'?" if near else f" (there is: {', '.join(_KEYS)}, and options)"
        raise UsageError(f"--where {text}: no run has '{key}'{hint}")
    return key, pattern


def _matches(facts: Mapping[str, str], wanted: Sequence[tuple[str, str]]) -> bool:
    return all(fnmatchcase(facts.get(key, ""), pattern) for key, pattern in wanted)


def _facts(record: RunRecord, row: ResultRow) -> dict[str, str]:
    return {
        "task": row.task,
        "dataset": task_of(record, row.task)[2],
        "split": row.split,
        "score": row.score.name,
    }


def _intended(record: RunRecord) -> Iterator[dict[str, str]]:
    """What a run without results was to score."""
    options, tasks = flat_options(record.config), list(tasks_of(record))
    for position, (label, _, dataset) in enumerate(tasks):
        splits = options.get(f"tasks.{position}.dataset.evaluate")
        for split in splits if isinstance(splits, list) else [""]:
            yield {"task": label, "dataset": dataset, "split": str(split)}
    if not tasks:
        yield {}


def _as_json(record: RunRecord, page: Path | None) -> dict[str, Any]:
    return {
        "run": str(record.folder),
        "experiment": record.experiment,
        "status": record.status,
        "message": record.message,
        "demo": record.is_demo,
        "step": record.step,
        "total_steps": record.total_steps,
        "started": record.started,
        "finished": record.finished,
        "backbone": backbone_of(record),
        "options": {key: value for key, value in flat_options(record.config).items() if is_recipe(key)},
        **({"report": str(page)} if page else {}),
        "results": [
            {
                "task": row.task,
                "split": row.split,
                "name": row.score.name,
                "value": row.score.value,
                "unit": row.score.unit,
                "count": row.score.count,
                "standard_error": row.score.standard_error,
                "primary": row.score.primary,
                "published": row.published,
                "published_source": row.published_source,
                "difference": difference_to_published(row),
                "not_comparable": list(row.not_comparable),
                "protocol": dict(row.score.protocol),
            }
            for row in record.rows
        ],
    }


def _write_page(record: RunRecord) -> Path:
    from vlrun.reporting.html import rewrite_report

    return rewrite_report(record.folder)
