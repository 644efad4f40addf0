"""``runner report``: the results of runs in one table, read from their folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlrun.errors import DataError, UsageError
from vlrun.files import folder_from
from vlrun.reporting.jsonl import finite
from vlrun.reporting.results import (
    NUMERIC,
    compare_protocols,
    protocol_footnotes,
    published_footnotes,
    result_cells,
)
from vlrun.reporting.run_record import RunRecord, is_run_folder, read_run
from vlrun.reporting.tables import TextTable, print_table
from vlrun.reporting.wording import DEMO_NOTICE

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
    parser.add_argument("--json", action="store_true", help="machine-readable output, with the whole protocols")
    parser.add_argument("--html", action="store_true", help="also rewrite the report.html of each run")


def run(arguments: argparse.Namespace) -> int:
    """Prints one table, or JSON, of the results of all runs in the folders."""
    folders = arguments.folders or [folder_from("VLRUN_RUNS", "runs")]
    runs = [read_run(folder) for folder in find_runs(folders)]
    pages = {record.folder: _write_page(record) for record in runs} if arguments.html else {}
    if arguments.json:
        content = {"runs": [_as_json(record, pages.get(record.folder)) for record in runs]}
        print(json.dumps(finite(content), indent=2, ensure_ascii=False, default=str))
        return 0
    print_table(comparison(runs))
    for page in pages.values():
        print(f"wrote {page}")
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


def comparison(runs: Sequence[RunRecord]) -> TextTable:
    """All results of all runs; a mark shows that a number has another protocol than its neighbours."""
    headers = ["run", "experiment", "task", "split", "score", "result", "published", "difference"]
    main_rows = {record.folder: [row for row in record.rows if not row.score.detail] for record in runs}
    rows = [row for record in runs for row in main_rows[record.folder]]
    protocols = compare_protocols(rows)
    marks = iter(protocols.marks)
    cells = []
    for record in runs:
        start = {"run": record.folder.name + (" (demo)" if record.is_demo else ""), "experiment": record.experiment}
        for row in main_rows[record.folder]:
            cells.append({**start, **result_cells(row, next(marks), record.is_demo)})
        if not record.rows:
            nothing = dict.fromkeys(headers[2:], "-")
            cells.append({**start, **nothing, "result": _progress(record)})
    footnotes = [*protocol_footnotes(protocols), *published_footnotes(rows)]
    footnotes += [
        f"{record.folder.name}: {_progress(record)}; results may be missing"
        for record in runs
        if record.rows and record.status != "done"
    ]
    if any(record.is_demo for record in runs):
        footnotes.append(f"(demo) {DEMO_NOTICE}")
    return TextTable(headers, [[row[header] for header in headers] for row in cells], NUMERIC, footnotes)


def _progress(record: RunRecord) -> str:
    steps = f" at step {record.step:,} of {record.total_steps:,}" if record.total_steps else ""
    return f"{record.status}{steps}"


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
        **({"report": str(page)} if page else {}),
        "results": [
            {
                "task": row.task,
                "split": row.split,
                "name": row.score.name,
                "value": row.score.value,
                "unit": row.score.unit,
                "count": row.score.count,
                "primary": row.score.primary,
                "published": row.published,
                "published_source": row.published_source,
                "difference": None if record.is_demo or row.published is None else row.score.value - row.published,
                "protocol": dict(row.score.protocol),
            }
            for row in record.rows
        ],
    }


def _write_page(record: RunRecord) -> Path:
    from vlrun.reporting.html import rewrite_report

    return rewrite_report(record.folder)
