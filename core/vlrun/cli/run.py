"""``runner run``: train, evaluate and report an experiment."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.cli.arguments import (
    add_experiment_arguments,
    check_processes,
    experiment_path,
    launched_elsewhere,
    missing_message,
)
from vlrun.errors import DataError
from vlrun.plugins.manager import Plugins, create_plugins

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment
    from vlrun.engine.slurm import JobOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes an experiment with overrides, and how to run it."""
    add_experiment_arguments(parser)
    demo = "run on embedded data, with a tiny model and a short recipe; needs no files"
    parser.add_argument("--demo", action="store_true", help=demo)
    pictures = "the same from the pictures of that data, with the regions that a small detector finds in them"
    parser.add_argument("--demo-pictures", action="store_true", help=pictures)
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="processes on each machine (default: 1)")
    parser.add_argument("--output", metavar="DIR", help="where run folders go: DIR/<experiment>/<timestamp>-<id>/")
    parser.add_argument("--resume", action="store_true", help="continue the newest unfinished run, if there is one")
    slurm = "submit as a batch job, with these long options of sbatch, such as time=12:00:00 nodes=2 (docs/cluster.md)"
    parser.add_argument("--slurm", nargs="*", metavar="KEY=VALUE", help=slurm)
    parser.add_argument("--profile", action="store_true", help="record a short trace and a table of operators")


def run(arguments: argparse.Namespace) -> int:
    """Checks the experiment and the files that it needs, then trains or resumes, in one process or several."""
    from vlrun.config.preflight import check_files, check_recipe

    options = _job_options(arguments)
    path, folder = experiment_path(arguments.experiment)
    if folder is not None and not arguments.resume:
        folder = None  # without --resume, the configuration of a run starts a new one
    overrides = list(arguments.overrides)
    if arguments.output:
        overrides.append(f"runs_root={Path(arguments.output).expanduser().absolute()}")
    plugins = create_plugins()
    experiment = _load(path, overrides, plugins, arguments)
    if arguments.print_config:
        print(experiment.as_yaml_with_origins(), end="")
        return 0
    check_recipe(experiment)
    if experiment.demo and folder is None:
        _say_duration(experiment, plugins)
    if experiment.demo_weights is not None and options is None:
        _prepare_demo_weights(arguments, experiment, plugins)
    if missing := experiment.missing_files():
        raise DataError(missing_message(experiment, missing, arguments.experiment))
    check_files(experiment)
    if options is not None:
        return _submit(arguments, options, experiment)
    return _start(arguments, experiment, plugins, folder)


def _job_options(arguments: argparse.Namespace) -> JobOptions | None:
    """What to ask the batch system for; None if this process trains, also as a part of such a job."""
    from vlrun.engine.ranks import is_launched

    if arguments.slurm is None or is_launched():
        return None
    from vlrun.engine.slurm import parse_job_options

    return parse_job_options(arguments.slurm)


def _submit(arguments: argparse.Namespace, options: JobOptions, experiment: Experiment) -> int:
    from vlrun.engine.slurm import BatchTask, submit

    check_processes(arguments)
    task = BatchTask(arguments.main, arguments.command, arguments.nproc or 1)
    for line in submit(task, options, experiment.name, experiment.runs_root / experiment.name / "slurm"):
        print(line)
    return 0


def _load(path: Path, overrides: list[str], plugins: Plugins, arguments: argparse.Namespace) -> Experiment:
    from vlrun.config.experiment import load_experiment

    if not (arguments.demo or arguments.demo_pictures):
        experiment = load_experiment(path, overrides, plugins=plugins)
        if not experiment.demo:
            return experiment
    from vlrun.demo.run import load_demo_experiment

    return load_demo_experiment(path, overrides, plugins, _progress, from_pictures=arguments.demo_pictures)


def _say_duration(experiment: Experiment, plugins: Plugins) -> None:
    from vlrun.demo.run import demo_duration

    if duration := demo_duration(experiment, plugins):
        _progress(f"demo: {duration}")


def _prepare_demo_weights(arguments: argparse.Namespace, experiment: Experiment, plugins: Plugins) -> None:
    from vlrun.demo.run import prepare_demo_weights

    def silence(message: str) -> None:
        """Says nothing: the first of the launched processes will say it."""

    prepare_demo_weights(experiment, plugins, silence if _will_launch(arguments) else _progress, _announce)


def _progress(message: str) -> None:
    from vlrun.engine.ranks import launched_rank

    if launched_rank() == 0:
        _announce(message)


def _announce(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _will_launch(arguments: argparse.Namespace) -> bool:
    from vlrun.engine.ranks import is_launched

    return (arguments.nproc or 1) > 1 and not is_launched()


def _start(arguments: argparse.Namespace, experiment: Experiment, plugins: Plugins, folder: Path | None) -> int:
    from vlrun.engine.ranks import launched_rank

    if (status := launched_elsewhere(arguments)) is not None:
        return status
    from vlrun.runs.run import run_experiment

    result = run_experiment(
        experiment, plugins=plugins, continues=arguments.resume, folder=folder, profile=arguments.profile
    )
    if result.was_done and launched_rank() == 0:
        print(f"{result.folder} is already done; see its results with: runner report {result.folder}")
    return 0
