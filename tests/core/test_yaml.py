"""YAML is read as people mean it, safely, with the line of every key."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from vlrun.foreign.yaml import dump_yaml, parse_value, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e-4", 1e-4),
        ("1.0e+3", 1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("012", 12),
        ("0x10", 16),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("'5e-5'", "5e-5"),
        ("2026-01-31", "2026-01-31"),
        ("1:30", "1:30"),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        (".inf", float("inf")),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_keys_know_their_lines() -> None:
    located = parse_yaml("a:\n  b: 1\nc:\n  - x\n  - y: 2\n")
    assert located.lines["a", "b"] == 2
    assert located.lines["c", 1, "y"] == 5


def test_duplicate_keys_are_problems_with_both_lines() -> None:
    located = parse_yaml("a: 1\nb: 2\na: 3\n")
    assert located.problems == [(3, "a: duplicate key, first given on line 1")]


def test_an_alias_bomb_is_stopped() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{key}: &{key} [{', '.join(['*' + before] * 10)}]\n" for before, key in pairwise("abcdefgh"))
    assert "too large or too deep" in parse_yaml(bomb).problems[0][1]


def test_an_alias_to_itself_is_a_problem() -> None:
    assert parse_yaml("a: &a [*a]\n").problems == [(1, "an alias refers to itself")]


def test_tags_that_build_objects_are_refused() -> None:
    located = parse_yaml("a: !!python/object/apply:os.system ['true']\n")
    assert located.data["a"] in (None, ["true"])
    assert parse_yaml("a: !thing 1\n").problems == [(1, "tag '!thing' is not allowed; write plain values")]


def test_broken_yaml_names_its_line() -> None:
    (line, message), *_ = parse_yaml("a: 1\nb: [1,\n").problems
    assert line >= 2
    assert message.startswith("not valid YAML")


@pytest.mark.parametrize(
    "data",
    [
        {"rate": 5e-5, "tiny": 1e-9, "text": "1e-4", "word": "no", "truth": True, "nothing": None, "list": [1, "true"]},
        {"nested": {"a": [{"b": "x: y"}, {"c": "#"}], "empty": [], "none": {}}, "unicode": "Ärger"},
    ],
    ids=["scalars", "nested"],
)
def test_what_is_written_reads_back_the_same(data: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(data)).data == data


def test_merge_keys_bring_what_is_not_given() -> None:
    text = "a: &a {x: 1, y: {z: 2}}\nb: &b {x: 3, w: 4}\none:\n  x: 5\n  <<: *a\nboth: {<<: [*a, *b], v: 6}\n"
    located = parse_yaml(text)
    assert located.problems == []
    assert located.data["one"] == {"x": 5, "y": {"z": 2}}
    assert located.data["both"] == {"x": 1, "y": {"z": 2}, "w": 4, "v": 6}
    assert located.lines[("one", "x")] == 4
    assert parse_yaml("a: {'<<': {x: 1}}").data == {"a": {"<<": {"x": 1}}}  # quoted, it is a word


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: {<<: 3}", (1, "the merge key '<<' takes a mapping, or a list of mappings")),
        ("a:\n  <<: [{x: 1}, y]", (2, "the merge key '<<' takes a mapping, or a list of mappings")),
        ("a: &a\n  <<: *a", (1, "an alias refers to itself")),
        ("a: {<<: {x: 1}, x: 2, x: 3}", (1, "a.x: duplicate key, first given on line 1")),
    ],
)
def test_wrong_merge_keys_are_problems(text: str, problem: tuple[int, str]) -> None:
    assert parse_yaml(text).problems == [problem]
