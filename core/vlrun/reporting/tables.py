"""Tables of text: fitted to the width of a terminal; elsewhere one plain line per row, for grep and for files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Literal, TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from vlrun.foreign.printing import encodable, plain

_ANY_WIDTH = 100_000  # columns; more than any row has


@dataclass(frozen=True)
class TextTable:
    """Cells of text, which may have several lines.

    Attributes:
        headers: names of the columns; empty for a list of labelled facts.
        numeric: headers of columns that are aligned to the right.
        footnotes: lines below the table.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Collection[str] = ()
    footnotes: Sequence[str] = field(default_factory=list)

    def as_lines(self, indent: int = 0) -> list[str]:
        """Plain lines, with two spaces between columns."""
        table = Table.grid(padding=(0, 2))
        self._add_columns(table)
        if self.headers:
            table.add_row(*map(plain_text, self.headers))
            table.add_row(*(Rule(characters="-") for _ in self.headers))
        self._add_rows(table)
        lines = _rendered(table) if table.rows else []
        return [*(f"{' ' * indent}{line}".rstrip() for line in lines), *(plain(note) for note in self.footnotes)]

    def as_rich(self) -> Table:
        """A table for a terminal; texts are folded to its width, numbers are not."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False) if self.headers else Table.grid(padding=(0, 2))
        self._add_columns(table)
        self._add_rows(table)
        return table

    def _add_columns(self, table: Table) -> None:
        for header in self.headers or ("",) * max(map(len, self.rows), default=0):
            is_number = header in self.numeric
            justify: Literal["right", "left"] = "right" if is_number else "left"
            table.add_column(plain_text(header), justify=justify, no_wrap=is_number, overflow="fold")

    def _add_rows(self, table: Table) -> None:
        for row in self.rows:
            table.add_row(*map(plain_text, row))


def print_table(table: TextTable, stream: TextIO | None = None) -> None:
    """Prints ``table`` on ``stream`` or on standard output: fitted to a terminal, or as plain lines."""
    stream = sys.stdout if stream is None else stream
    if stream.isatty():
        console = Console(file=stream)
        console.print(table.as_rich(), *map(plain_text, table.footnotes), sep="\n")
        return
    for line in table.as_lines():
        stream.write(f"{encodable(line, stream)}\n")


def plain_text(text: str, style: str = "") -> Text:
    """``text`` as rich shows it unchanged: markup is not interpreted, and control characters are removed."""
    return Text("\n".join(plain(line) for line in text.splitlines()), style=style)


def _rendered(content: RenderableType) -> list[str]:
    stream = StringIO()
    Console(file=stream, width=_ANY_WIDTH, color_system=None, legacy_windows=False).print(content)
    return stream.getvalue().splitlines()
