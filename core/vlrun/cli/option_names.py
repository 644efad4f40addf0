"""The names of options, read from the source of their models, so that completing them imports no pydantic."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_WITHOUT_OPTIONS = sys.stdlib_module_names | {"pydantic", "typing_extensions"}
_ITEM = "*"


def option_names(path: str) -> list[str]:
    """Names of the options of the model at ``"package.module:name"``, base classes first; none if it is missing.

    A section is followed by its options (``optimizer``, ``optimizer.name``); ``*`` stands for the index of an item in a
    list (``tasks.*.name``).
    """
    module, _, name = path.partition(":")
    return list(dict.fromkeys(_names_in(module, name, frozenset())))


def _names_in(module: str, name: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
    """The options of a class, or of all models that an alias, such as a union, names."""
    if (module, name) in seen:
        return
    seen |= {(module, name)}
    home, definition = _definition(module, name)
    if isinstance(definition, ast.ClassDef):
        for base in definition.bases:
            yield from _names_in_annotation(home, base, seen)
        for statement in definition.body:
            yield from _field(home, statement, seen)
    elif definition is not None:
        yield from _names_in_annotation(home, definition, seen)


def _names_in_annotation(module: str, annotation: ast.AST, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name):
            yield from _names_in(module, node.id, seen)


def _field(module: str, statement: ast.stmt, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
    if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
        return
    name, annotation = statement.target.id, statement.annotation
    words = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    if name.startswith("_") or "ClassVar" in words:
        return
    yield name
    section = f"{name}.{_ITEM}" if "list" in words else name
    for inner in _names_in_annotation(module, annotation, seen):
        yield f"{section}.{inner}"


def _definition(module: str, name: str) -> tuple[str, ast.AST | None]:
    """The module that defines ``name``, found by following imports, and the class or value there."""
    for node in _nodes(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [name]:
            return module, node.value
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _definition(node.module, alias.name)
    return module, None


@cache
def _nodes(module: str) -> list[ast.stmt]:
    """The statements of a module that define or import something, also those under ``if``."""
    if module.partition(".")[0] in _WITHOUT_OPTIONS:
        return []
    try:
        spec = find_spec(module)  # imports the packages above it, not the module
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else ast.Module([], [])
    except (ImportError, OSError, SyntaxError, ValueError):
        return []
    conditional = [inner for node in tree.body if isinstance(node, ast.If) for inner in node.body]
    return [node for node in [*tree.body, *conditional] if isinstance(node, ast.ClassDef | ast.Assign | ast.ImportFrom)]
