"""Values laid over those of an experiment file: the command line, the environment, what a verb sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrun.config.problems import Problem, Sources
from vlrun.errors import UsageError
from vlrun.foreign.yaml import KeyPath, parse_value

_INDEX = re.compile("[0-9]{1,9}")
_MAX_DEPTH = 40


@dataclass(frozen=True)
class Layer:
    """Values that replace those of the file: dotted key -> value; ``origin`` is what messages call the layer."""

    origin: str
    values: Mapping[str, Any]


def parse_overrides(arguments: Sequence[str]) -> Layer:
    """Parses ``key.path=value`` arguments of the command line; values are YAML.

    Raises:
        UsageError: an argument has no ``=``.
    """
    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not (key and equals):
            raise UsageError(f"'{argument}' is not an override; write key.path=value, such as train.epochs=2")
        values[key] = parse_value(value)
    return Layer("command line", values)


def lay_over(raw: dict[str, Any], layer: Layer, sources: Sources) -> list[Problem]:
    """Sets each dotted key of ``layer`` in ``raw``, and creates missing mappings on the way."""
    problems = []
    for key, value in layer.values.items():
        path: KeyPath = tuple(int(part) if _INDEX.fullmatch(part) else part for part in key.split("."))
        if len(path) > _MAX_DEPTH:
            problems.append(Problem(path[:_MAX_DEPTH], "there is no place so deep in an experiment"))
            continue
        sources.layers[path] = layer.origin
        holder: Any = raw
        for part in path[:-1]:
            if isinstance(holder, dict) and holder.get(str(part)) is None:
                holder[str(part)] = {}
            holder = _item(holder, part)
        if isinstance(holder, dict):
            holder[str(path[-1])] = value
        elif isinstance(holder, list) and isinstance(path[-1], int) and path[-1] < len(holder):
            holder[path[-1]] = value
        else:
            problems.append(Problem(path, "there is no such place in the experiment"))
    return problems


def _item(holder: Any, part: str | int) -> Any:
    if isinstance(holder, list):
        return holder[part] if isinstance(part, int) and part < len(holder) else None
    return holder.get(str(part)) if isinstance(holder, dict) else None
