"""``runner mine-negatives RUN``: hard negatives of a split, found by the model of a run, in a file to train with."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlrun import UsageError
from vlrun.cli.arguments import add_run_arguments, launched_elsewhere, open_run
from vlrun.foreign.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of the verb."""
    add_run_arguments(parser, default_splits="those it was trained on")
    parser.add_argument("--candidates", type=int, default=128, help="random candidates per query (default: 128)")
    parser.add_argument("--keep", type=int, default=5, help="how many of them are kept, the hardest (default: 5)")
    parser.add_argument("--out", metavar="FILE", help="default: negatives_<task>_<split>.npz in the run folder")


def run(arguments: argparse.Namespace) -> int:
    """Mines and writes the file.

    Raises:
        UsageError: the options make no sense, or the task of the run does not match images and texts.
    """
    from vlrun_retrieval.config import NEGATIVES_SUFFIX

    if not 1 <= arguments.keep <= arguments.candidates:
        raise UsageError(
            f"--keep {arguments.keep} of --candidates {arguments.candidates}: keep at least 1, at most all"
        )
    if arguments.out and Path(arguments.out).suffix != NEGATIVES_SUFFIX:
        raise UsageError(f"--out {arguments.out}: negatives are a {NEGATIVES_SUFFIX} file; name it so")
    if len(arguments.task) > 1:
        raise UsageError(f"--task {' --task '.join(arguments.task)}: negatives are those of one task")
    opened = open_run(arguments, trained_splits=True)
    name = f"negatives_{opened.task.display_name}_{'+'.join(opened.splits)}{NEGATIVES_SUFFIX}"
    out = Path(arguments.out).absolute() if arguments.out else opened.folder.path / name
    if not out.parent.is_dir() or out.is_dir():
        raise UsageError(f"--out {out}: its folder is not there, or it is a folder itself")
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.runs.again import reopen_task
    from vlrun_retrieval.mining import mine_file

    with reopen_task(opened) as reopened:
        origin = {"experiment": reopened.experiment, "checkpoint": reopened.checkpoint}
        options = {"candidates": arguments.candidates, "keep": arguments.keep}
        mine_file(reopened.task, reopened.view, out, **options, origin=origin)
        if reopened.view.ranks.is_main:
            say(f"hard negatives: {out}")
            say(f"to train with them: 'tasks.{opened.index}.negatives={{name: pool, file: {out}}}'")
    return 0
