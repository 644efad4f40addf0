"""Reads YAML safely: with the numbers and booleans of YAML 1.2, no duplicate keys, and the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from vlrun.config.problems import KeyPath, Sources, dotted

_MAX_NODES = 20_000  # far more than any experiment has; nested aliases expand to many more
_MAX_DEPTH = 40

_INT = re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


@dataclass
class Located:
    """Plain data, the line (from 1) of each key or item, and everything that is wrong with the text."""

    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


def parse_scalar(text: str) -> Any:
    """The value of a plain scalar by the YAML 1.2 core schema: ``5e-5`` is a number, ``no`` is text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        digits = text.replace("_", "")
        return int(digits, 0) if digits[:2] in ("0o", "0x") else int(digits)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if _INF.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def parse_yaml(text: str) -> Located:
    """Parses one document; problems are collected instead of raised."""
    located = Located()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        located.problems.append((mark.line + 1 if mark else 1, f"not valid YAML: {error.problem}"))
    except yaml.YAMLError as error:
        located.problems.append((1, f"not valid YAML: {error}"))
    else:
        if node is not None:
            located.data = _Walk(located).value(node, ())
    return located


def parse_value(text: str) -> Any:
    """Parses a value from the command line as YAML; what is not valid YAML is taken as text."""
    located = parse_yaml(text)
    return text if located.problems else located.data


def dump_yaml(data: Any) -> str:
    """Writes block-style YAML that ``parse_yaml`` reads back unchanged."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


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
        if node.tag.startswith("!"):
            return self._problem(line, f"tag '{node.tag}' is not allowed; write plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return parse_scalar(node.value) if is_plain else node.value

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
            key = str(key_node.value)
            here = (*path, key)
            if key in given:
                first = self.located.lines[here]
                self._problem(line, f"{dotted(here)}: duplicate key, first given on line {first}")
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


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and key.style is None


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``parse_scalar`` would not read back as the same text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = isinstance(parse_scalar(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _represent_text)


def annotate(data: dict[str, Any], sources: Sources | None) -> str:
    """Writes block-style YAML with a comment after each value: ``file:line``, the name of a layer, or ``default``."""
    lines = []
    for path, indent, head, value in _rows(data, (), ""):
        origin = "" if value is None else f" {value}  # {sources.origin(path) if sources else 'default'}"
        lines.append(f"{indent}{head}{origin}")
    return "\n".join(lines) + "\n"


def _rows(value: Any, path: KeyPath, indent: str) -> Iterator[tuple[KeyPath, str, str, str | None]]:
    """(path, indentation, key or dash, text of the value); None for a value that is on the lines below."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        here = (*path, key)
        head = f"{key}:" if isinstance(value, dict) else "-"
        if _is_nested(item):
            yield here, indent, head, None
            yield from _rows(item, here, indent + "  ")
        else:
            yield here, indent, head, _inline(item)


def _is_nested(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict | list) for item in value)
    return isinstance(value, dict) and bool(value)


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return "{}" if value == {} else dump_yaml([value]).strip().removeprefix("- ")
