"""The parser of the command line: verbs of the core and of plugins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vlrun.errors import PluginError
from vlrun.plugins.builtin import vlrun_commands
from vlrun.plugins.entries import Command


def built_in_commands() -> list[Command]:
    """The verbs of the core, in the order of the help."""
    return vlrun_commands()


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line; only the verb among ``words`` has its arguments, so start-up stays quick.

    Raises:
        PluginError: the module of the verb cannot be imported, or plugins fight over the verb.
    """
    from importlib.metadata import version

    parser = argparse.ArgumentParser(
        prog="runner", description="Plugin-based experiment runner for vision-and-language research."
    )
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
    """A summary as the first line of a verb's help."""
    return f"{summary[0].upper()}{summary[1:]}."


def _commands(chosen: str | None) -> list[Command]:
    """The verbs of the core; those of plugins too, unless one of the core was chosen."""
    own = built_in_commands()
    if any(command.name == chosen for command in own):
        return own
    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    found = plugins.commands()
    if chosen is not None and all(command.name != chosen for command in found) and plugins.is_broken("command", chosen):
        raise PluginError(plugins.why_missing("command", chosen))
    return found
