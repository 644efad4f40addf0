"""``runner list-plugins``: what is installed, what it offers, and what is wrong with it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vlrun.errors import PluginError
from vlrun.foreign.printing import say, say_json
from vlrun.plugins.manager import PluginRecord, create_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes --strict, --check and --json."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--strict", action="store_true", help="exit with status 4 if any plugin is not ok")
    parser.add_argument(
        "--check", action="store_true", help="import all options and code that the plugins name; implies --strict"
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints every plugin with its status, and raises PluginError if asked to be strict and one is not ok."""
    plugins = create_plugins()
    if arguments.check:
        from vlrun.config.components import check_references

        check_references(plugins)
    if arguments.json:
        say_json([asdict(record) for record in plugins.records])
    else:
        say(*_lines(plugins.records))
    failed = [record.label for record in plugins.records if record.status != "ok"]
    if failed and (arguments.strict or arguments.check):
        raise PluginError(f"not ok: {', '.join(failed)}")
    return 0


def _lines(records: list[PluginRecord]) -> list[str]:
    """One line per plugin, with lines on its offers and problems below it.

    No table: importing what draws one takes longer than everything else that this verb does.
    """
    lines = []
    for record in records:
        lines.append(f"{record.label}: {record.status}")
        lines += [f"    {kind}: {', '.join(names)}" for kind, names in record.offers.items() if names]
        lines += [f"    ! {reason}" for reason in record.reasons]
    return lines
