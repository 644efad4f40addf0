"""The table of results: scores beside published numbers, and marks where protocols differ.

Two numbers of different protocols are not comparable even where they carry the same name (candidate pools, captions
per image, box sources), so a table says once what all its rows share and marks each row with what it does not share.
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
        by_column: what a cell of the table already tells apart: (its text, items that all its rows agree in). A split
            has its file, a score its rule; wherever the split or the score stands, so do these.
        marks: per row the number of its note, from 1; None for a row that says no more than the above.
        notes: what the rows of each mark say beyond that, in the order of the marks.
    """

    shared: Mapping[str, Any]
    by_column: Sequence[tuple[str, Mapping[str, Any]]]
    marks: Sequence[int | None]
    notes: Sequence[Mapping[str, Any]]


NUMERIC = ("result", "published", "difference")


def compare_protocols(rows: Sequence[ResultRow]) -> Protocols:
    """Rows of the same split, score and mark have the same protocol; a key that some rows lack is a difference."""
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
        telling = next((place for place, cells in enumerate(columns) if _is_told_by(cells, values)), None)
        for row, protocol in enumerate(protocols):
            if key in protocol:
                items = rest[row] if telling is None else by_column[telling].setdefault(columns[telling][row], {})
                items[key] = protocol[key]
    notes = {_canonical(items): items for items in rest if items}
    marks = [list(notes).index(_canonical(items)) + 1 if items else None for items in rest]
    return Protocols(shared, [pair for cells in by_column for pair in _joined(cells)], marks, list(notes.values()))


def _joined(by_cell: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Cells that say the same, together."""
    groups: dict[str, list[str]] = {}
    for cell, items in by_cell.items():
        groups.setdefault(_canonical(items), []).append(cell)
    return [(", ".join(cells), dict(by_cell[cells[0]])) for cells in groups.values()]


def _is_told_by(cells: Sequence[str], values: Sequence[str | None]) -> bool:
    """Whether equal cells always come with equal values."""
    return len(set(cells)) == len(set(zip(cells, values, strict=True)))


def protocol_of(row: ResultRow) -> dict[str, Any]:
    """The protocol without what the row's own columns say."""
    said = (("split", row.split), ("task", row.task))
    return {key: value for key, value in row.score.protocol.items() if (key, value) not in said}


def result_table(rows: Sequence[ResultRow], is_demo: bool) -> TextTable:
    """The final table of one run, without details. Beside a demo run, published numbers say that they are of the real
    data."""
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
    """Leaves out what has nothing to say: a difference from a number of other data, or an empty column."""
    nothing = {"published", "difference"} if all(row.published is None for row in rows) else set()
    return [column for column in columns if column not in nothing | ({"difference"} if is_demo else set())]


def protocol_footnotes(protocols: Protocols) -> list[str]:
    """Lines on what all results share, what comes with a split or a score, and what each mark means."""
    lines = [f"Protocol of all results: {protocol_text(protocols.shared)}"] if protocols.shared else []
    lines += [f"{cell}: {protocol_text(items)}" for cell, items in protocols.by_column]
    lines += [f"[{number}] {protocol_text(note)}" for number, note in enumerate(protocols.notes, 1)]
    return lines


def published_footnotes(rows: Sequence[ResultRow]) -> list[str]:
    """Lines on where published numbers come from."""
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
    """The key of a protocol as people read it."""
    return key.replace("_", " ")


def value_text(value: Any, shorten: bool = False) -> str:
    """A value of a protocol for people; ``shorten`` cuts hashes to the length that people compare."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", text) if shorten else text


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
