"""Reads YAML safely: with the numbers and booleans of YAML 1.2, no duplicate keys, and the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]
"""Keys and positions that lead to a value."""

_MAX_NODES = 20_000  # far more than any experiment has; nested aliases expand to many more
_MAX_DEPTH = 40
_MAX_LENGTH = 10_000_000  # characters
_MAX_DIGITS = 18  # so that every whole number fits into 64 bits

_INT = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


_TAGS = frozenset({"str", "int", "float", "bool", "null", "seq", "map", "timestamp", "merge", "value"})
"""What YAML itself sees in plain text and brackets."""


@dataclass
class Located:
    """Plain data, the line (from 1) of each key or item, and everything that is wrong with the text."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


def parse_scalar(text: str) -> Any:
    """The value of a plain scalar by the YAML 1.2 core schema: ``5e-5`` is a number, ``no`` is text.

    Raises:
        ValueError: it is a whole number that does not fit into 64 bits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        if len(digits.lstrip("-+0ox")) > _MAX_DIGITS:
            raise ValueError(f"a number of {len(digits):,} digits, which no 64 bits hold")
        return int(digits, 0) if digits[:2] in ("0o", "0x") else int(digits)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if _INF.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def parse_yaml(text: str) -> Located:
    """Parses one document; problems are collected instead of raised."""
    located = Located()
    if len(text) > _MAX_LENGTH:
        located.problems.append((1, f"{len(text):,} characters; no experiment is so long"))
        return located
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        located.problems.append((mark.line + 1 if mark else 1, f"not valid YAML: {error.problem}"))
    except yaml.YAMLError as error:
        located.problems.append((1, f"not valid YAML: {error}"))
    else:
        if node is not None:
            located.data = _Walk(located).value(node, ())
    return located


def parse_mapping(text: str) -> dict[str, Any]:
    """The mapping that YAML of anywhere says; empty if it is none, or anything is wrong with it."""
    located = parse_yaml(text)
    return located.data if isinstance(located.data, dict) and not located.problems else {}


def parse_value(text: str) -> Any:
    """Parses a value from the command line as YAML; what is not valid YAML is taken as text."""
    located = parse_yaml(text)
    return text if located.problems else located.data


def dump_yaml(data: Any) -> str:
    """Writes block-style YAML that ``parse_yaml`` reads back unchanged."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Loader(yaml.SafeLoader):
    """Makes nodes of text, and stops where they are too many or too deep."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._count = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node with all that is in it."""
        self._count += 1
        self._depth += 1
        if self._count > _MAX_NODES or self._depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="too large or too deep", problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Walk:
    """Turns a graph of YAML nodes into plain data, with a budget against alias bombs."""

    def __init__(self, located: Located) -> None:
        self.located = located
        self.visited = 0
        self.open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.visited += 1
        line = node.start_mark.line + 1
        self.located.lines.setdefault(path, line)
        if self.visited > _MAX_NODES or len(path) > _MAX_DEPTH:
            if self.visited <= _MAX_NODES + 1:
                self._problem(line, "too large or too deep: are aliases nested in aliases?")
            self.visited = _MAX_NODES + 1
            return None
        if id(node) in self.open:
            return self._problem(line, "an alias refers to itself")
        self.open.add(id(node))
        try:
            return self._content(node, path, line)
        finally:
            self.open.discard(id(node))

    def _content(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
            return self._problem(line, f"tag '{node.tag}' is not allowed; write plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            return node.value
        try:
            return parse_scalar(node.value) if node.style is None else _whole(node.value)
        except ValueError as error:
            return self._problem(line, str(error))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                result = {**self._merged(value_node, path), **result}
        given: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if _is_merge(key_node):
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(line, "a key must be a plain word")
                continue
            key = key_node.value if key_node.style is None else self._content(key_node, path, line)
            if key is None:
                continue
            here = (*path, key)
            if key in given:
                first = self.located.lines[here]
                self._problem(line, f"{'.'.join(map(str, here))}: duplicate key, first given on line {first}")
                continue
            given.add(key)
            self.located.lines[here] = line
            result[key] = self.value(value_node, here)
        return result

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """What a merge key brings: a mapping, or several of which an earlier one goes before a later one."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Any] = {}
        for part in reversed(parts):
            if not isinstance(part, yaml.MappingNode):
                self._problem(part.start_mark.line + 1, "the merge key '<<' takes a mapping, or a list of mappings")
                continue
            result |= self.value(part, path) or {}
        return result

    def _problem(self, line: int, message: str) -> None:
        self.located.problems.append((line, message))


def _whole(text: str) -> str:
    """A quoted text, whose escapes may stand for one half of a character in UTF-16, which no file takes."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half a character (a lone surrogate)")
    return text


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``parse_scalar`` would not read back as the same text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    try:
        plain = isinstance(parse_scalar(text), str)
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _represent_text)
