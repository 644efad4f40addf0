"""``runner mine-negatives RUN``: hard negatives of a split, found by the model of a run, in a file to train with."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlrun.cli.evaluate import launched_elsewhere, open_run
from vlrun.errors import UsageError
from vlrun.hard_negatives import NEGATIVES_SUFFIX
from vlrun.plugins import create_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the run's config.yaml")
    parser.add_argument("--split", default="train", help="whose images and texts (default: train)")
    parser.add_argument("--task", help="a task of a joint run, by its label")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a checkpoint folder (default: best)")
    parser.add_argument("--candidates", type=int, default=128, help="random candidates per query (default: 128)")
    parser.add_argument("--keep", type=int, default=5, help="how many of them are kept, the hardest (default: 5)")
    parser.add_argument("--out", metavar="FILE", help="default: negatives_<split>.npz in the run folder")
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="processes on this machine (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.keep <= arguments.candidates:
        raise UsageError(
            f"--keep {arguments.keep} of --candidates {arguments.candidates}: keep at least 1, at most all"
        )
    if arguments.out and Path(arguments.out).suffix != NEGATIVES_SUFFIX:
        raise UsageError(f"--out {arguments.out}: negatives are a {NEGATIVES_SUFFIX} file; name it so")
    plugins = create_plugins()
    split, task = arguments.split, arguments.task
    arguments.split, arguments.task = [split], [task] if task else []
    folder, experiment = open_run(arguments, plugins)
    out = Path(arguments.out).absolute() if arguments.out else folder.path / f"negatives_{split}{NEGATIVES_SUFFIX}"
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.ranks import join_ranks
    from vlrun.reevaluation import mine_run
    from vlrun.reporting.notes import notes_on_stderr

    with join_ranks(experiment.train.distributed_timeout, experiment.train.threads) as ranks:
        mine_run(
            experiment,
            folder,
            arguments.checkpoint,
            plugins,
            ranks,
            notes_on_stderr(ranks),
            out,
            task=task,
            candidates=arguments.candidates,
            keep=arguments.keep,
        )
        if ranks.is_main:
            print(f"hard negatives: {out}")
            print(f"to train with them: 'tasks.0.negatives={{name: pool, file: {out}}}'")
    return 0
