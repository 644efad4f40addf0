"""``runner evaluate RUN``: score a checkpoint of a run again, on its own splits or on others."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrun.config.experiment import Experiment, Layer, load_experiment
from vlrun.engine.run_folder import RunFolder, open_run_folder
from vlrun.errors import DataError, UsageError
from vlrun.plugins.manager import Plugins, create_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --split, --task, --checkpoint, --nproc and overrides, as `evaluate` and `predict` share them."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the run's config.yaml")
    parser.add_argument(
        "--split", action="append", default=[], help="a split; may be repeated (default: as in the run)"
    )
    parser.add_argument(
        "--task", action="append", default=[], help="a task of a joint run, by its label; may be repeated"
    )
    parser.add_argument("--checkpoint", default="best", help="best, last, or a checkpoint folder (default: best)")
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="processes on this machine (default: 1)")


def launched_elsewhere(arguments: argparse.Namespace) -> int | None:
    """Starts the processes that were asked for and gives their exit status; None: go on in this one."""
    from vlrun.engine.ranks import is_launched

    if arguments.nproc is not None and arguments.nproc < 1:
        raise UsageError(f"--nproc {arguments.nproc}: at least one process is needed")
    if (arguments.nproc or 1) == 1 or is_launched():
        return None
    from vlrun.engine.launch import launch

    return launch(arguments.command, arguments.nproc)


def open_run(arguments: argparse.Namespace, plugins: Plugins) -> tuple[RunFolder, Experiment]:
    """The run folder and its experiment, without what only training needs, for the splits that were asked for.

    Raises:
        DataError: files are missing.
    """
    from vlrun.cli.validate import missing_message

    folder = open_run_folder(Path(arguments.run_folder))
    experiment = load_experiment(folder.config, arguments.overrides, plugins=plugins)
    if arguments.split and len(experiment.tasks) > 1 and not arguments.task:
        labels = " or ".join(task.called for task in experiment.tasks)
        raise UsageError(f"say of which task the split is: --task {labels}")
    values: dict[str, Any] = {"train.epochs": 0}
    if experiment.train.epochs:
        values["backbone.weights"] = None  # the checkpoint has the weights
    for index in range(len(experiment.tasks)):
        values[f"tasks.{index}.dataset.train"] = []
        if arguments.split and experiment.tasks[index].called in (arguments.task or [experiment.tasks[0].called]):
            values[f"tasks.{index}.dataset.evaluate"] = arguments.split
    layer = Layer(f"runner {arguments.verb}", values)
    experiment = load_experiment(folder.config, arguments.overrides, plugins=plugins, layers=[layer])
    if missing := experiment.missing_files():
        raise DataError(missing_message(experiment, missing))
    return folder, experiment


def run(arguments: argparse.Namespace) -> int:
    plugins = create_plugins()
    folder, experiment = open_run(arguments, plugins)
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.engine.ranks import join_ranks
    from vlrun.reporting.notes import notes_on_stderr
    from vlrun.reporting.results import result_table
    from vlrun.runs.again import evaluate_run

    with join_ranks(experiment.train.distributed_timeout, experiment.train.threads) as ranks:
        reporters = notes_on_stderr(ranks)
        rows = evaluate_run(experiment, folder, arguments.checkpoint, plugins, ranks, reporters, arguments.task)
        if ranks.is_main:
            if arguments.json:
                print(json.dumps([asdict(row) for row in rows], indent=2))
            else:
                print("\n".join(result_table(rows, experiment.demo).as_lines()))
                print(f"\npredictions: {folder.path / 'predictions'}")
    return 0
