"""The ``runner`` command: one module per verb, imported when the verb is used; plugins can add verbs.

A verb's module has ``add_arguments(parser)`` and ``run(arguments) -> exit status``. Heavy imports belong inside
``run``, because a shell that completes the command line imports the module too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from vlrun.cli.parser import make_parser
from vlrun.errors import INTERRUPTED, DataError, RunnerError, StoppedOnRequest, UsageError, system_problem
from vlrun.foreign.printing import say

_NO_WINDOWS = "vlrun runs on Linux and macOS, not on Windows: use it in WSL 2 (it needs file locks, links and signals)"


def runner() -> int:
    """The verb that this process was started for; no stop signal ends a run in silence, to the last moment."""
    from vlrun.engine.stopping import ignore_stop_signals, interrupt_on_ctrl_c, leave_on_signals

    interrupt_on_ctrl_c()
    if sys.argv[1:2] == ["run"]:  # others can be ended by signals as any program
        leave_on_signals()
    try:
        status = main()
    except Exception:  # an error of ours or of a plugin: a traceback quotes files, too
        say(*traceback.format_exc().splitlines(), to=sys.stderr)
        status = RunnerError.exit_status
    ignore_stop_signals()
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status, as listed in ``vlrun.errors``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if sys.platform == "win32":
        say(_NO_WINDOWS, to=sys.stderr)
        return UsageError.exit_status
    if "_ARGCOMPLETE" in os.environ:
        from vlrun.cli.completion import answer_shell

        answer_shell()
    try:
        parsed = _parse(arguments)
        return int(parsed.run(parsed))
    except RunnerError as error:
        if not error.is_shown_elsewhere:
            say(*_lines(error), to=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        _ignore_interrupts()
        if os.environ.get("RANK", "0") == "0":
            say("interrupted", to=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, UnicodeEncodeError) as error:
        if (problem := system_problem(error)) is None:
            raise
        say(f"{DataError.__name__}: {problem}", to=sys.stderr)
        return DataError.exit_status


def _ignore_interrupts() -> None:
    """What is ending takes a moment, in which another Ctrl-C would change the exit status."""
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = make_parser(arguments)
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(UsageError.exit_status)
    parsed, rest = parser.parse_known_args(arguments)
    parsed.main, parsed.command = main, arguments  # for a verb that starts the same command in several processes
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if hasattr(parsed, "overrides") and overrides == rest:
        parsed.overrides += rest  # argparse takes only one unbroken group; users also write them between options
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return parsed


def _lines(error: RunnerError) -> Sequence[str]:
    """What is wrong, one problem a line; a single line starts with the kind of error, unless somebody asked to stop."""
    lines: Sequence[str] = getattr(error, "problems", None) or str(error).split("\n")
    is_alone = len(lines) == 1 and not isinstance(error, StoppedOnRequest)
    return [f"{type(error).__name__}: {lines[0]}"] if is_alone else lines
