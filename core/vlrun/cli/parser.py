"""The parser of the command line: verbs of the core and of plugins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from vlrun.errors import PluginError
from vlrun.foreign.printing import plain
from vlrun.plugins.builtin import vlrun_commands
from vlrun.plugins.entries import Command


class Parser(argparse.ArgumentParser):
    """A parser whose messages repeat what was typed without what controls a terminal."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Ends the command with a status and a message."""
        super().exit(status, message and "".join(f"{plain(line)}\n" for line in message.splitlines()))


def built_in_commands() -> list[Command]:
    """The verbs of the core, in the order of the help."""
    return vlrun_commands()


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Makes the parser for a command line; only the verb among ``words`` gets its arguments, so that start-up is quick.

    Raises:
        PluginError: the module of the verb cannot be imported, or several plugins offer the verb.
    """
    from importlib.metadata import version

    parser = Parser(prog="runner", description="Plugin-based experiment runner for vision-and-language research.")
    parser.add_argument("--version", action="version", version=f"vlrun {version('vlrun')}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for command in _commands(chosen):
        verb = verbs.add_parser(command.name, help=command.summary, description=sentence(command.summary))
        if command.name == chosen:
            module = command.load()
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
    return parser


def sentence(summary: str) -> str:
    """Makes a sentence of a verb's summary, for the first line of its help."""
    return f"{summary[0].upper()}{summary[1:]}."


def _commands(chosen: str | None) -> list[Command]:
    """The verbs of the core; also those of plugins, unless a verb of the core was chosen."""
    built_in = built_in_commands()
    if any(command.name == chosen for command in built_in):
        return built_in
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    commands = plugins.commands()
    names = [command.name for command in commands]
    if chosen is not None and chosen not in names and plugins.is_broken("command", chosen):
        raise PluginError(plugins.why_missing("command", chosen))
    return commands
