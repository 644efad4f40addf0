"""Where each value of an experiment comes from, as comments beside the values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlrun.config.problems import Sources
from vlrun.foreign.yaml import KeyPath, dump_yaml


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
