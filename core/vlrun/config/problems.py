"""Turns pydantic's findings into lines that say where, what, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from vlrun.foreign.yaml import KeyPath

_LARGEST = 1e12


@dataclass
class Sources:
    """Where each value of an experiment comes from: a line of the file, or a layer such as the command line."""

    file: str
    lines: Mapping[KeyPath, int]
    layers: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where to mend a problem with the key: the layer that set it, or ``file:line`` of it or of its section."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.layers:
                return self.layers[path[:length]]
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return f"{self.file}:1"

    def origin(self, path: KeyPath) -> str:
        """Where the value of the key comes from: ``file:line``, the name of a layer, or ``default``."""
        for layered in (path[:length] for length in range(len(path), 0, -1)):
            if layered in self.layers:
                return self.layers[layered]
        return f"{self.file}:{self.lines[path]}" if path in self.lines else "default"


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at ``path``; ``is_plugin`` marks a broken or clashing plugin as the cause."""

    path: KeyPath
    message: str
    is_plugin: bool = False

    def line(self, sources: Sources) -> str:
        """The problem as one line: where, which key, what."""
        key = dotted(self.path)
        return f"{sources.place(self.path)}: {key + ': ' if key else ''}{self.message}"


def dotted(path: Sequence[str | int]) -> str:
    """A path of keys as users write it: ``tasks.0.dataset``."""
    return ".".join(str(part) for part in path)


def validation_problems(
    error: ValidationError, model: type[BaseModel], raw: Any, prefix: KeyPath = ()
) -> list[Problem]:
    """One problem for each finding of pydantic; ``raw`` is what was validated, and ``prefix`` leads to it."""
    problems: dict[tuple[KeyPath, str], Problem] = {}
    for finding in error.errors(include_url=False):
        path = _real_path(finding["loc"], raw, missing=finding["type"] == "missing")
        message = _message(finding, model, path)
        problems.setdefault((prefix + path, message), Problem(prefix + path, message))
    return list(problems.values())


def unknown_option(key: str, options: Iterable[str]) -> str:
    """The message on an option that does not exist, with the nearest of ``options`` or all of them."""
    names = sorted(options)
    near = difflib.get_close_matches(key, names, n=1)
    if near:
        return f"unknown option. Did you mean '{near[0]}'?"
    return f"unknown option. Known here: {', '.join(names)}"


def _real_path(loc: Sequence[str | int], raw: Any, missing: bool) -> KeyPath:
    """``loc`` without the names of union members, which pydantic adds."""
    path: list[str | int] = []
    for index, part in enumerate(loc):
        is_last = index == len(loc) - 1
        if _has(raw, part):
            raw = raw[part]
        elif not (is_last and missing):
            continue
        path.append(part)
    return tuple(path)


def _has(raw: Any, part: str | int) -> bool:
    if isinstance(raw, list):
        return isinstance(part, int) and part < len(raw)
    return isinstance(raw, Mapping) and part in raw


def _message(finding: Any, model: type[BaseModel], path: KeyPath) -> str:
    kind = finding["type"]
    if kind == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        return unknown_option(str(path[-1]), owner.model_fields if owner else [])
    if kind == "missing":
        owner = _model_at(model, path[:-1])
        field_info = owner.model_fields.get(str(path[-1])) if owner else None
        about = f": {field_info.description}" if field_info and field_info.description else ""
        return f"required option is missing{about}"
    text = str(finding["msg"]).removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    value = finding["input"]
    return f"{text} (got {short(value)})" if not isinstance(value, Mapping | BaseModel) else text


def short(value: Any, limit: int = 80) -> str:
    """What was given, as Python writes it, on one line that can be read."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def value_problems(raw: Any, path: KeyPath = ()) -> Iterator[Problem]:
    """One problem for each number that is larger than any option can mean, and each text that no file can keep.

    A seed may be as large as it likes. Bytes of a command line that are not UTF-8 arrive as halves of characters.
    """
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from value_problems(value, (*path, key))
    elif isinstance(raw, list):
        for index, value in enumerate(raw):
            yield from value_problems(value, (*path, index))
    elif isinstance(raw, str) and not raw.isascii() and raw.encode(errors="replace").decode() != raw:
        yield Problem(path, f"not UTF-8 (got {short(raw)})")
    elif isinstance(raw, int | float) and abs(raw) > _LARGEST and not str(path[-1]).endswith("seed"):
        yield Problem(path, f"larger than any option can mean (got {raw:g})")


def _model_at(model: type[BaseModel] | None, path: KeyPath) -> type[BaseModel] | None:
    """The pydantic model that describes the mapping at ``path``, as far as annotations tell."""
    for part in path:
        if model is None:
            return None
        if isinstance(part, str):
            info = model.model_fields.get(part)
            model = _model_in(info.annotation) if info else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := _model_in(argument))), None)
