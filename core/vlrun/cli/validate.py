"""``runner validate``: everything that can be wrong with an experiment, before torch or data are touched."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vlrun.cli.arguments import add_experiment_arguments, experiment_path, missing_message, print_config
from vlrun.errors import ConfigError, DataError
from vlrun.foreign.printing import say, say_json

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes an experiment with overrides, --print-config and --json."""
    add_experiment_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the resolved experiment as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints a summary; raises ConfigError or DataError with everything that is wrong or missing."""
    from vlrun.config.experiment import load_experiment
    from vlrun.config.preflight import check_files, check_recipe
    from vlrun.plugins.manager import create_plugins

    path, _ = experiment_path(arguments.experiment)
    plugins = create_plugins()
    try:
        experiment = load_experiment(path, arguments.overrides, plugins=plugins)
    except ConfigError as error:
        files = [f"{arguments.experiment}: missing {file.path} ({file.purpose})" for file in error.missing]
        raise ConfigError([*error.problems, *files]) from error
    if arguments.print_config:
        print_config(experiment, plugins)
        return 0
    check_recipe(experiment)
    if missing := experiment.missing_files():
        raise DataError(missing_message(experiment, missing, arguments.experiment))
    from vlrun.data.validation import check_data  # with numpy and lmdb, which nothing above needs

    check_files(experiment)
    checked, notes = check_data(experiment, plugins)
    if arguments.json:
        say_json(experiment.model_dump(mode="json"), indent=None)
    else:
        say(*_summary(experiment), *(f"  images    {each}" for each in checked), *(f"  {note}" for note in notes))
    return 0


def _summary(experiment: Experiment) -> list[str]:
    from vlrun.config.run_reference import run_reference

    train = experiment.train
    lines = [f"{experiment.name}: ok", f"  backbone  {experiment.backbone.name}"]
    if run_reference(experiment.backbone.weights) is not None:
        lines.append(f"  weights   {experiment.backbone.weights}, looked for when the run starts")
    for task in experiment.tasks:
        data = task.dataset
        lines.append(f"  task      {task.name} on {data.name}: {'+'.join(data.train)} -> {', '.join(data.evaluate)}")
    return [*lines, f"  train     {train.epochs} epochs, batch size {train.batch_size}, peak {train.learning_rate:g}"]
