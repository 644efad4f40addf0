"""``runner run``: train, evaluate and report an experiment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.cli.arguments import (
    add_experiment_arguments,
    check_processes,
    experiment_path,
    launched_elsewhere,
    missing_message,
    print_config,
)
from vlrun.errors import DataError, UsageError
from vlrun.foreign.printing import say
from vlrun.plugins.manager import Plugins, create_plugins

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment
    from vlrun.engine.slurm import JobOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes an experiment with overrides, and how to run it."""
    add_experiment_arguments(parser, several=True)
    demo = "run on embedded data, with a tiny model and a short recipe; needs no files"
    parser.add_argument("--demo", action="store_true", help=demo)
    pictures = "the same from the pictures of that data, with the regions that a small detector finds in them"
    parser.add_argument("--demo-pictures", action="store_true", help=pictures)
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="processes on each machine (default: 1)")
    parser.add_argument("--output", metavar="DIR", help="where run folders go: DIR/<experiment>/<timestamp>-<id>/")
    parser.add_argument("--resume", action="store_true", help="continue the newest unfinished run, if there is one")
    accept = "continue a run although its data are not those that it was started with, and mark its results"
    parser.add_argument("--accept-changed-data", action="store_true", help=accept)
    seeds = "run with N seeds, from that of the experiment on, or with those listed (888,1,2), and show the means"
    parser.add_argument("--seeds", metavar="N", help=seeds)
    slurm = "submit as a batch job, with these long options of sbatch, such as time=12:00:00 nodes=2 (docs/cluster.md)"
    parser.add_argument("--slurm", nargs="*", metavar="KEY=VALUE", help=slurm)
    parser.add_argument("--profile", action="store_true", help="record a short trace and a table of operators")


def run(arguments: argparse.Namespace) -> int:
    """Checks the experiments and the files that they need, then trains or resumes, in one process or several."""
    from vlrun.engine.stopping import stop_at_once_on_signals

    with stop_at_once_on_signals():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    experiments, overrides = _sorted_words(arguments)
    if len(experiments) == 1 and arguments.seeds is None:
        return _run_one(arguments)
    from vlrun.engine.ranks import is_launched

    if is_launched() or arguments.slurm is not None:
        several = f"{len(experiments)} experiments" if len(experiments) > 1 else "several seeds"
        raise UsageError(
            f"{several} in one job: a launcher or batch system runs one experiment at a time; "
            "start a job for each, or use --nproc"
        )
    stages = [
        argparse.Namespace(**{**vars(arguments), "experiment": each, "overrides": overrides, "command": command})
        for each, command in _commands(arguments, experiments)
    ]
    if arguments.seeds is not None:
        from vlrun.cli.run_seeds import run_seeds

        return run_seeds(stages, lambda stage: _load(stage, create_plugins()), _run_in_order)
    return _run_in_order(stages)


def _run_in_order(stages: Sequence[argparse.Namespace]) -> int:
    plugins, earlier = create_plugins(), set[str]()
    for stage in stages if not stages[0].print_config else []:  # the last one's mistakes are not for the third day
        experiment, _ = _checked(stage, plugins, earlier)
        earlier.add(experiment.name)
    names = [getattr(stage, "label", stage.experiment) for stage in stages]
    for number, stage in enumerate(stages, 1):
        try:
            status = _run_one(stage)
        except BaseException:
            _say_where(names, number)
            raise
        if status:
            _say_where(names, number)
            return status
    return 0


def _sorted_words(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The experiments, and the overrides among them.

    Raises:
        UsageError: an experiment is named twice.
    """
    others = [word for word in arguments.overrides if _is_experiment(word)]
    experiments = [arguments.experiment, *others]
    if len(set(experiments)) < len(experiments):
        raise UsageError("an experiment is named twice; each runs once")
    return experiments, [word for word in arguments.overrides if word not in others]


def _commands(arguments: argparse.Namespace, experiments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each experiment, and the command that runs it alone; an option's value may look like an experiment."""
    last = max((at for at, word in enumerate(arguments.overrides) if word in experiments), default=-1)
    group, words = [arguments.experiment, *arguments.overrides[: last + 1]], list(arguments.command)
    start = next(at for at in range(len(words)) if words[at : at + len(group)] == group)
    kept = [word for word in group if word not in experiments]
    for each in experiments:
        yield each, [*words[:start], each, *kept, *words[start + len(group) :]]


def _is_experiment(word: str) -> bool:
    from vlrun.config.shipped import find_experiment

    return "=" not in word and (word.endswith(".yaml") or find_experiment(Path(word)).exists())


def _say_where(experiments: Sequence[str], number: int) -> None:
    rest = ", ".join(experiments[number:])
    _announce(
        f"{experiments[number - 1]} (experiment {number} of {len(experiments)}) has not reached its end"
        + (f"; not started: {rest}" if rest else "")
        + ". The same command with --resume skips what is done and goes on from here."
    )


def _run_one(arguments: argparse.Namespace) -> int:
    from vlrun.config.preflight import check_files

    options = _job_options(arguments)
    plugins = create_plugins()
    if arguments.print_config:
        print_config(_load(arguments, plugins), plugins)
        return 0
    experiment, folder = _checked(arguments, plugins)
    if experiment.demo and folder is None:
        _say_duration(experiment, plugins)
    if experiment.demo_weights is not None and options is None:
        _prepare_demo_weights(arguments, experiment, plugins)
        check_files(experiment)
    if options is not None:
        return _submit(arguments, options, experiment)
    return _start(arguments, experiment, plugins, folder)


def _checked(
    arguments: argparse.Namespace, plugins: Plugins, earlier: Collection[str] = ()
) -> tuple[Experiment, Path | None]:
    """The experiment, as far as it can be checked before it starts, and the run folder to continue if that is named.

    Args:
        earlier: names of experiments that will have run before it.
    """
    from vlrun.config.preflight import check_files, check_recipe
    from vlrun.config.run_reference import run_reference

    folder = experiment_path(arguments.experiment)[1]
    if not arguments.resume:
        folder = None  # without --resume, the configuration of a run starts a new one
    experiment = _load(arguments, plugins)
    check_recipe(experiment)
    if missing := experiment.missing_files():
        raise DataError(missing_message(experiment, missing, arguments.experiment))
    check_files(experiment)
    reference = run_reference(experiment.backbone.weights)
    if reference is not None and reference.place not in earlier and arguments.slurm is None and not arguments.resume:
        from vlrun.engine.ranks import is_launched
        from vlrun.engine.restarts import job_name
        from vlrun.runs.stages import finished_run

        if not is_launched() and job_name() is None:  # what may continue a run keeps that run's source
            finished_run(experiment, reference)
    return experiment, folder


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
        say(line)
    return 0


def _load(arguments: argparse.Namespace, plugins: Plugins) -> Experiment:
    from vlrun.config.experiment import load_experiment

    path, _ = experiment_path(arguments.experiment)
    overrides = list(arguments.overrides)
    if arguments.output:
        overrides.append(f"runs_root={Path(arguments.output).expanduser().absolute()}")
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
    say(message, to=sys.stderr, flush=True)


def _will_launch(arguments: argparse.Namespace) -> bool:
    from vlrun.engine.ranks import is_launched

    return (arguments.nproc or 1) > 1 and not is_launched()


def _start(arguments: argparse.Namespace, experiment: Experiment, plugins: Plugins, folder: Path | None) -> int:
    from vlrun.engine.ranks import launched_rank

    if (status := launched_elsewhere(arguments)) is not None:
        return status
    from vlrun.runs.run import run_experiment

    result = run_experiment(
        experiment,
        plugins=plugins,
        continues=arguments.resume,
        folder=folder,
        profile=arguments.profile,
        accepts_changed_data=arguments.accept_changed_data,
    )
    if result.was_done and launched_rank() == 0:
        say(f"{result.folder} is already done; see its results with: runner report {result.folder}")
    return 0
