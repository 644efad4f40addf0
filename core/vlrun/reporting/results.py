"""The table of results: scores beside published numbers, and marks where protocols differ.

Numbers of different protocols (candidate pools, captions per image, box sources) are not comparable, even if the score
has the same name. So a table states once what all its rows share, and marks rows that differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
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


NUMERIC = ("result", "examples", "published", "difference")


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
    """The final table of one run, without details."""
    details = sum(row.score.detail for row in rows)
    rows = [row for row in rows if not row.score.detail]
    protocols = compare_protocols(rows)
    columns = ["task", "split", "score", "result", "published", "difference"]
    if len({row.task for row in rows}) < 2:
        columns.remove("task")
    columns = with_published_columns(columns, rows)
    reasons = reasons_against(rows)
    cells = [
        result_cells(row, mark, letters)
        for row, mark, letters in zip(rows, protocols.marks, reasons.letters, strict=True)
    ]
    footnotes = [*protocol_footnotes(protocols), *published_footnotes(rows), *reasons.footnotes]
    if details:
        footnotes.append(f"{details} more scores are in the report and in metrics.jsonl")
    if is_demo:
        footnotes.append(DEMO_NOTICE)
    return TextTable(columns, [[row[column] for column in columns] for row in cells], NUMERIC, footnotes)


def result_cells(row: ResultRow, mark: int | None, letters: str) -> dict[str, str]:
    """The texts of a row, by column.

    Args:
        mark: number of the note on its protocol.
        letters: those of the notes that say why it cannot be compared with the published number.
    """
    score, difference = row.score, difference_to_published(row)
    without = "-" if row.published is None else "not comparable" + (f" [{letters}]" if letters else "")
    return {
        "task": row.task,
        "split": row.split,
        "score": score.name,
        "result": score_text(score.value, score.unit, score.standard_error) + (f" [{mark}]" if mark else ""),
        "examples": f"{score.count:,}" if score.count else "-",
        "published": "-" if row.published is None else score_text(row.published, score.unit),
        "difference": without if difference is None else difference_text(difference, score.unit),
    }


def difference_to_published(row: ResultRow) -> float | None:
    """Our score less the published one; None where there is none, or where the two are not comparable."""
    return None if row.published is None or row.not_comparable else row.score.value - row.published


@dataclass(frozen=True)
class Reasons:
    """Why rows cannot be compared with published numbers, each reason said once.

    Attributes:
        letters: for each row those of its notes, such as ``a,c``; empty for what holds for all that have reasons.
        notes: (letter, text).
    """

    letters: Sequence[str]
    notes: Sequence[tuple[str, str]]

    @property
    def footnotes(self) -> list[str]:
        """The notes as lines."""
        return [f"{f'[{letter}] ' if letter else ''}{text}" for letter, text in self.notes]


def reasons_against(rows: Sequence[ResultRow]) -> Reasons:
    """Joins the reasons that hold for the same rows in one note."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        for reason in row.not_comparable:
            places.setdefault(reason, []).append(place)
    joined: dict[tuple[int, ...], list[str]] = {}
    for reason, at in places.items():
        joined.setdefault(tuple(at), []).append(reason)
    everywhere = tuple(place for place, row in enumerate(rows) if row.not_comparable)
    letters: list[list[str]] = [[] for _ in rows]
    notes: list[tuple[str, str]] = []
    for rows_of_note in sorted(joined, key=lambda note: note != everywhere):
        letter = "" if rows_of_note == everywhere else _letter(sum(bool(before) for before, _ in notes))
        notes.append((letter, f"Not comparable with the published numbers: {'; '.join(joined[rows_of_note])}"))
        for place in rows_of_note:
            letters[place] += [letter] if letter else []
    return Reasons([",".join(own) for own in letters], notes)


def _letter(number: int) -> str:
    """a, b, ... z, aa, ab, ..."""
    before, last = divmod(number, 26)
    return (_letter(before - 1) if before else "") + ascii_lowercase[last]


def with_published_columns(columns: Sequence[str], rows: Sequence[ResultRow]) -> list[str]:
    """Leaves out the columns on published numbers if there are none."""
    omitted = {"published", "difference"} if all(row.published is None for row in rows) else set()
    return [column for column in columns if column not in omitted]


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
