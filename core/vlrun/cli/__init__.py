"""The ``runner`` command: one module per verb, imported when the verb is used; plugins add verbs of their own.

A verb's module has ``add_arguments(parser)`` and ``run(arguments) -> exit status``. What is heavy is imported in
``run``: a shell that completes the command line imports the module too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vlrun.errors import PluginError, RunnerError, StoppedOnRequest
from vlrun.plugins.builtin import vlrun_commands
from vlrun.plugins.entries import Command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status of the public contract."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        from vlrun.cli.completion import answer_shell

        answer_shell()
    try:
        parsed = _parse(arguments)
        return int(parsed.run(parsed))
    except RunnerError as error:
        if not error.is_shown_elsewhere:
            print(_message(error), file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def built_in_commands() -> list[Command]:
    """The verbs of the core, in the order of the help."""
    return vlrun_commands()


def make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line; only the verb among ``words`` has its arguments, so start-up stays quick.

    Raises:
        PluginError: the module of the verb cannot be imported, or plugins fight over the verb.
    """
    from vlrun import __version__

    parser = argparse.ArgumentParser(
        prog="runner", description="Plugin-based experiment runner for vision-and-language research."
    )
    parser.add_argument("--version", action="version", version=f"vlrun {__version__}")
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


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = make_parser(arguments)
    parsed, rest = parser.parse_known_args(arguments)
    parsed.command = arguments
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if hasattr(parsed, "overrides") and overrides == rest:
        parsed.overrides += rest  # argparse takes them in one run only; users write them between options
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return parsed


def _message(error: RunnerError) -> str:
    """One line with the kind of error, or the list of problems as it is; a stop on request is no error."""
    text = str(error)
    return text if "\n" in text or isinstance(error, StoppedOnRequest) else f"{type(error).__name__}: {text}"
