"""The checks that hold for every plugin: paths that lead somewhere, and no private imports."""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint
from pathlib import Path

from vlrun.config.components import check_references
from vlrun.plugins.manager import create_plugins

PUBLIC = (
    "vlrun",
    "vlrun.blocks.answering",
    "vlrun.blocks.answers",
    "vlrun.blocks.attention",
    "vlrun.blocks.boxes",
    "vlrun.blocks.decoders",
    "vlrun.blocks.dropout",
    "vlrun.blocks.heads",
    "vlrun.blocks.object_tags",
    "vlrun.blocks.pair_encoding",
    "vlrun.blocks.pair_scoring",
    "vlrun.blocks.pictures",
    "vlrun.blocks.predictions",
    "vlrun.blocks.proposals",
    "vlrun.blocks.sign_test",
    "vlrun.blocks.tokenizer",
    "vlrun.blocks.wordpiece",
    "vlrun.cli.arguments",
    "vlrun.cli.detectors",
    "vlrun.data.annotations",
    "vlrun.data.json_stream",
    "vlrun.data.splits",
    "vlrun.data.submissions",
    "vlrun.features.formats",
    "vlrun.features.formats.npz",
    "vlrun.files",
    "vlrun.foreign.json",
    "vlrun.foreign.printing",
    "vlrun.runs.again",
    "vlrun.seeds",
    "vlrun.testing",
)
"""The modules that plugins may import. Everything else may change at any time."""


def private_imports(folder: Path) -> list[str]:
    """Every import of something private in vlrun, in the files of a plugin below ``folder``; one line each."""
    problems = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module, name, line in _imports(node):
                if module.split(".")[0] != "vlrun":
                    continue
                if module not in PUBLIC and f"{module}.{name}" not in PUBLIC:
                    problems.append(f"{path}:{line}: {module} is not public")
                elif name.startswith("_") and not name.startswith("__"):
                    problems.append(f"{path}:{line}: {module}.{name} is not public")
    return problems


def _imports(node: ast.AST) -> list[tuple[str, str, int]]:
    """(module, name, line) of an import statement."""
    if isinstance(node, ast.Import):
        return [(alias.name, "", node.lineno) for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [(node.module, alias.name, node.lineno) for alias in node.names]
    return []


def check_plugin(module: str) -> None:
    """Asserts that the entry-point module of a plugin can be loaded, and that everything it names can be imported."""
    plugins = create_plugins([EntryPoint("checked", module, "vlrun")])
    check_references(plugins)
    (record,) = plugins.records
    assert record.status == "ok", "\n".join(record.reasons)
    assert record.offers, f"{module} offers nothing"
