"""``runner list KIND``: components that an experiment can name, submission formats, or experiments."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vlrun.foreign.printing import say, say_json
from vlrun.plugins.entries import Entry
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.reporting.tables import TextTable, print_table

SUBMISSIONS = "submissions"
EXPERIMENTS = "experiments"
KINDS = (
    "backbones",
    "tasks",
    "datasets",
    "metrics",
    "reporters",
    "optimizers",
    "schedules",
    "callbacks",
    "detectors",
    SUBMISSIONS,
    EXPERIMENTS,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a kind, --options and --json."""
    parser.add_argument("kind", choices=KINDS, metavar="|".join(KINDS))
    parser.add_argument("--options", action="store_true", help="show the options of each, with types and defaults")
    parser.add_argument("--json", action="store_true", help="machine-readable output, with the schema of the options")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each component of the kind, with its options on request."""
    if arguments.kind == EXPERIMENTS:
        return _experiments(arguments.json)
    plugins = create_plugins()
    if arguments.kind == SUBMISSIONS:
        return _submissions(plugins, arguments.json)
    kind = arguments.kind.removesuffix("s")
    entries = plugins.entries(kind)
    if arguments.json:
        say_json([_as_json(plugins, kind, entry) for entry in entries])
        return 0
    if not entries:
        say(f"no {arguments.kind} are installed")
    rows = [(entry.name, f"{entry.summary}  [{plugins.provider_of(kind, entry.name).label}]") for entry in entries]
    if not arguments.options:
        print_table(TextTable((), rows))
        return 0
    for entry, line in zip(entries, TextTable((), rows).as_lines(), strict=True):
        say(line)
        say(*_options(kind, entry))
    return 0


def _experiments(as_json: bool) -> int:
    """Prints the experiments below ``experiments/``, or those that ship with vlrun, each with its first comment."""
    from vlrun.config.shipped import SHIPPED, experiment_files

    files = experiment_files()
    rows = [(name, _first_comment(file)) for name, file in files.items()]
    if as_json:
        say_json([{"file": file, "summary": summary} for file, summary in rows])
        return 0
    print_table(TextTable((), rows))
    if all(file.is_relative_to(SHIPPED) for file in files.values()):
        say(f"These ship with vlrun, in {SHIPPED}; copy one to change it.", to=sys.stderr)
    return 0


def _first_comment(file: Path) -> str:
    """The first comment of a file up to its first empty line; empty if it begins with anything else."""
    words: list[str] = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            text = line.removeprefix("#").strip()
            if not line.startswith("#") or not text:
                break
            words.append(text)
    return " ".join(words)


def _submissions(plugins: Plugins, as_json: bool) -> int:
    """Prints the files that ``runner submit-check`` knows; they have no options."""
    formats = plugins.submissions()
    if as_json:
        rows = [
            {"name": name, "dataset": file.dataset, "splits": file.splits, "summary": file.summary}
            for name, file in formats.items()
        ]
        say_json(rows)
        return 0
    print_table(TextTable((), [(name, file.summary) for name, file in formats.items()]))
    return 0


def _as_json(plugins: Plugins, kind: str, entry: Entry) -> dict[str, Any]:
    from vlrun.config.components import config_model

    provider = plugins.provider_of(kind, entry.name)
    return {
        "name": entry.name,
        "summary": entry.summary,
        "target": entry.target,
        "distribution": provider.distribution,
        "version": provider.version,
        "options": config_model(kind, entry).model_json_schema(),
    }


def _options(kind: str, entry: Entry) -> list[str]:
    from vlrun.config.components import config_model

    lines = []
    for name, field in config_model(kind, entry).model_fields.items():
        if name == "name":
            continue
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)}"
        lines.append(f"    {name}: {field.description or ''} ({default})")
    return lines
