"""Tables: as wide as they need to be in files and pipes, as wide as it is on a terminal."""

from __future__ import annotations

import io
import re

import pytest

from vlrun.reporting.tables import TextTable, print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


TABLE = TextTable(
    ["run", "score", "result"],
    [["a", "x" * 200, "7 %"], ["[b] \x1b[31m", "", "81.80 %"]],
    numeric=["result"],
    footnotes=["(demo) " + "y" * 200],
)


def test_without_a_terminal_a_row_is_one_plain_line_whatever_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    print_table(TABLE, stream)
    assert stream.getvalue().splitlines() == [
        f"run        {'score':<200}   result",
        f"---------  {'-' * 200}  -------",
        f"a          {'x' * 200}      7 %",
        f"[b]  [31m  {'':<200}  81.80 %",
        "(demo) " + "y" * 200,
    ]


def test_on_a_terminal_cells_are_folded_to_its_width_and_numbers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    print_table(TABLE, stream)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(line.count("x") for line in lines) == 200
    assert any(line.rstrip().endswith("81.80 %") for line in lines)


def test_a_stream_that_knows_only_ascii_gets_ascii() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_table(TextTable(["a"], [["81.80 ± 0.39 % é"]]), stream)
    stream.seek(0)
    assert stream.read().splitlines()[-1] == "81.80 +- 0.39 % ?"


def test_characters_that_turn_the_text_after_them_are_left_out() -> None:
    assert TextTable(["a"], [["ab\u202ecd\u2066"]]).as_lines()[-1] == "ab cd"


def test_facts_have_no_header_and_may_have_several_lines() -> None:
    facts = TextTable((), [("backbone", "toy"), ("images", "split  found\nval    3")])
    assert facts.as_lines(indent=2) == ["  backbone  toy", "  images    split  found", "            val    3"]
    assert TextTable((), []).as_lines() == []
