"""The ``runner`` command: one module per verb, each importing what it needs when it runs.

A verb's module has ``add_arguments(parser)`` and ``run(arguments) -> exit status``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from vlrun.errors import RunnerError, StoppedOnRequest

VERBS = {
    "run": "train, evaluate and report an experiment",
    "evaluate": "evaluate a run's checkpoint",
    "predict": "write a run's predictions for a split",
    "score": "score a file of predictions",
    "submit-check": "check a file before an evaluation server refuses it",
    "validate": "check an experiment file without touching features or torch",
    "list-plugins": "installed plugins, what they offer, and what is wrong with them",
    "list": "backbones, tasks, datasets, metrics or reporters that an experiment can name",
    "data": "build and check annotation files",
    "features": "build, inspect and verify region-feature stores",
    "weights": "import and inspect model weights",
    "report": "show the results of runs",
    "doctor": "check the installation",
    "new-plugin": "start a plugin of your own",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit status of the public contract."""
    arguments = list(sys.argv[1:] if argv is None else argv)
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


def verb_module(name: str) -> ModuleType:
    """The module of a verb; a module called ``list`` would hide the built-in from this package."""
    return import_module("vlrun.cli." + {"list": "list_components"}.get(name, name.replace("-", "_")))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser(arguments)
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


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    from vlrun import __version__

    parser = argparse.ArgumentParser(
        prog="runner", description="Plugin-based experiment runner for vision-and-language research."
    )
    parser.add_argument("--version", action="version", version=f"vlrun {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:  # only the verb in use is imported: start-up stays quick
            module = verb_module(name)
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
    return parser
