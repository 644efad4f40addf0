"""``runner mine-negatives RUN``: hard negatives of a split, found by the model of a run, in a file to train with."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlrun.cli.evaluate import launched_elsewhere, open_run
from vlrun.config.experiment import load_experiment
from vlrun.engine.run_folder import open_run_folder
from vlrun.errors import UsageError
from vlrun.hard_negatives import NEGATIVES_SUFFIX
from vlrun.plugins.manager import Plugins, create_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the run's config.yaml")
    parser.add_argument("--split", action="append", help="whose texts; may be repeated (default: as trained)")
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
    index, arguments.split = _choose(arguments, plugins)
    label, arguments.task = arguments.task, [arguments.task] if arguments.task else []
    folder, experiment = open_run(arguments, plugins)
    name = f"negatives_{experiment.tasks[index].called}_{'+'.join(arguments.split)}{NEGATIVES_SUFFIX}"
    out = Path(arguments.out).absolute() if arguments.out else folder.path / name
    if not out.parent.is_dir() or out.is_dir():
        raise UsageError(f"--out {out}: its folder is not there, or it is a folder itself")
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.engine.ranks import join_ranks
    from vlrun.reporting.notes import notes_on_stderr
    from vlrun.runs.again import mine_run

    with join_ranks(experiment.train.distributed_timeout, experiment.train.threads) as ranks:
        mine_run(
            experiment,
            folder,
            arguments.checkpoint,
            plugins,
            ranks,
            notes_on_stderr(ranks),
            out,
            task=label,
            candidates=arguments.candidates,
            keep=arguments.keep,
        )
        if ranks.is_main:
            print(f"hard negatives: {out}")
            print(f"to train with them: 'tasks.{index}.negatives={{name: pool, file: {out}}}'")
    return 0


def _choose(arguments: argparse.Namespace, plugins: Plugins) -> tuple[int, list[str]]:
    """Position of the task among those of the run, and the splits to mine.

    Raises:
        UsageError: there is no such task, or it has no training split and none was named.
    """
    folder = open_run_folder(Path(arguments.run_folder))
    tasks = load_experiment(folder.config, arguments.overrides, plugins=plugins).tasks
    labels = [task.called for task in tasks]
    if (arguments.task or labels[0]) not in labels:
        raise UsageError(f"there is no task '{arguments.task}' in this run (there is: {', '.join(labels)})")
    index = labels.index(arguments.task) if arguments.task else 0
    splits = arguments.split or tasks[index].dataset.train
    if not splits:
        raise UsageError("this run trains on nothing: say whose negatives to mine, such as --split train")
    return index, splits
