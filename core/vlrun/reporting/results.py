"""The table of results: scores beside published numbers, and marks where protocols differ.

Numbers of different protocols (candidate pools, captions per image, box sources) are not comparable, even if the score
has the same name. So a table states once what all its rows share, and marks rows that differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrun.interfaces.reporter import ResultRow
from vlrun.reporting.tables import TextTable
from vlrun.reporting.wording import DEMO_NOTICE, difference_text, score_text


@dataclass(frozen=True)
class Protocols:
    """How the protocols of the rows of a table relate.

    Attributes:
        shared: what all of them say.
        by_column: (text of a cell, items) for items that follow from a split or a score, such as the file of a split or
            the rule of a score; rows with the same cell need no mark for them.
        marks: for each row the number of its note, from 1; None for a row without other items.
        notes: the other items of the rows with each mark, in the order of the marks.
    """

    shared: Mapping[str, Any]
    by_column: Sequence[tuple[str, Mapping[str, Any]]]
    marks: Sequence[int | None]
    notes: Sequence[Mapping[str, Any]]


NUMERIC = ("result", "published", "difference")


def compare_protocols(rows: Sequence[ResultRow]) -> Protocols:
    """Compares the protocols of the rows; a key that only some rows have is a difference.

    Rows with the same split, score and mark have the same protocol.
    """
    protocols = [protocol_of(row) for row in rows]
    has_tasks = len({row.task for row in rows}) > 1
    columns = [
        [" ".join((row.task, cell) if has_tasks else (cell,)) for row, cell in zip(rows, cells, strict=True)]
        for cells in ([row.split for row in rows], [row.score.name for row in rows])
    ]
    shared: dict[str, Any] = {}
    by_column: list[dict[str, dict[str, Any]]] = [{}, {}]
    rest: list[dict[str, Any]] = [{} for _ in rows]
    for key in dict.fromkeys(key for protocol in protocols for key in protocol):
        values = [_canonical(protocol[key]) if key in protocol else None for protocol in protocols]
        if len(set(values)) == 1:
            shared[key] = protocols[0][key]
            continue
        column = next((place for place, cells in enumerate(columns) if _follow_from(cells, values)), None)
        for row, protocol in enumerate(protocols):
            if key in protocol:
                items = rest[row] if column is None else by_column[column].setdefault(columns[column][row], {})
                items[key] = protocol[key]
    notes = {_canonical(items): items for items in rest if items}
    marks = [list(notes).index(_canonical(items)) + 1 if items else None for items in rest]
    return Protocols(shared, [pair for cells in by_column for pair in _joined(cells)], marks, list(notes.values()))


def _joined(by_cell: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Joins cells that have the same items."""
    groups: dict[str, list[str]] = {}
    for cell, items in by_cell.items():
        groups.setdefault(_canonical(items), []).append(cell)
    return [(", ".join(cells), dict(by_cell[cells[0]])) for cells in groups.values()]


def _follow_from(cells: Sequence[str], values: Sequence[str | None]) -> bool:
    """Whether rows with equal cells have equal values."""
    return len(set(cells)) == len(set(zip(cells, values, strict=True)))


def protocol_of(row: ResultRow) -> dict[str, Any]:
    """The protocol of a row without what its cells say."""
    in_cells = (("split", row.split), ("task", row.task))
    return {key: value for key, value in row.score.protocol.items() if (key, value) not in in_cells}


def result_table(rows: Sequence[ResultRow], is_demo: bool) -> TextTable:
    """The final table of one run, without details; in a demo, published numbers are marked as those of real data."""
    details = sum(row.score.detail for row in rows)
    rows = [row for row in rows if not row.score.detail]
    protocols = compare_protocols(rows)
    columns = ["task", "split", "score", "result", "published", "difference"]
    if len({row.task for row in rows}) < 2:
        columns.remove("task")
    columns = with_published_columns(columns, rows, is_demo)
    cells = [result_cells(row, mark, is_demo) for row, mark in zip(rows, protocols.marks, strict=True)]
    footnotes = [*protocol_footnotes(protocols), *published_footnotes(rows)]
    if details:
        footnotes.append(f"{details} more scores are in the report and in metrics.jsonl")
    if is_demo:
        footnotes.append(DEMO_NOTICE)
    return TextTable(columns, [[row[column] for column in columns] for row in cells], NUMERIC, footnotes)


def result_cells(row: ResultRow, mark: int | None, is_demo: bool) -> dict[str, str]:
    """The texts of a row, by column."""
    unit = row.score.unit
    published = "-" if row.published is None else score_text(row.published, unit)
    is_comparable = row.published is not None and not is_demo
    return {
        "task": row.task,
        "split": row.split,
        "score": row.score.name,
        "result": score_text(row.score.value, unit) + (f" [{mark}]" if mark else ""),
        "published": f"{published} (real data)" if is_demo and row.published is not None else published,
        "difference": difference_text(row.score.value - (row.published or 0.0), unit) if is_comparable else "-",
    }


def with_published_columns(columns: Sequence[str], rows: Sequence[ResultRow], is_demo: bool) -> list[str]:
    """Leaves out the columns on published numbers if there are none, and differences if this is a demo."""
    omitted = {"published", "difference"} if all(row.published is None for row in rows) else set()
    return [column for column in columns if column not in omitted | ({"difference"} if is_demo else set())]


def protocol_footnotes(protocols: Protocols) -> list[str]:
    """Lines on what all results share, what belongs to a split or a score, and what each mark means."""
    lines = [f"Protocol of all results: {protocol_text(protocols.shared)}"] if protocols.shared else []
    lines += [f"{cell}: {protocol_text(items)}" for cell, items in protocols.by_column]
    lines += [f"[{number}] {protocol_text(note)}" for number, note in enumerate(protocols.notes, 1)]
    return lines


def published_footnotes(rows: Sequence[ResultRow]) -> list[str]:
    """Lines on the sources of published numbers."""
    sources: dict[str, list[str]] = {}
    for row in rows:
        if row.published is not None and row.published_source:
            sources.setdefault(row.published_source, []).append(f"{row.task} {row.split} {row.score.name}")
    if len(sources) == 1:
        return [f"Published numbers: {next(iter(sources))}"]
    return [f"Published numbers of {', '.join(where)}: {source}" for source, where in sources.items()]


def protocol_text(protocol: Mapping[str, Any], shorten: bool = True) -> str:
    """A protocol on one line."""
    return "; ".join(f"{label_of(key)} {value_text(value, shorten)}" for key, value in protocol.items())


def label_of(key: str) -> str:
    """The key of a protocol in words."""
    return key.replace("_", " ")


def value_text(value: Any, shorten: bool = False) -> str:
    """The text of a value of a protocol; ``shorten`` cuts hashes to a length that people can compare."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", text) if shorten else text


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
