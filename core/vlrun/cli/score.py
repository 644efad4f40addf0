"""``runner score PREDICTIONS``: compute the metrics of a file of predictions, without model or features."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlrun.foreign.printing import say_json
from vlrun.plugins.manager import create_plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a file of predictions and the experiment, task and split that they are for."""
    parser.add_argument("predictions", metavar="PREDICTIONS", help="JSON lines, as in a run's predictions folder")
    parser.add_argument("--experiment", required=True, metavar="FILE", help="an experiment file, or a run folder")
    parser.add_argument("--split", required=True, help="the split that the predictions are for")
    parser.add_argument("--task", help="the task of a joint experiment, by its label")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores of the predictions."""
    from vlrun.cli.arguments import experiment_path
    from vlrun.config.experiment import load_experiment
    from vlrun.reporting.published import result_row
    from vlrun.reporting.results import result_table
    from vlrun.reporting.tables import print_table
    from vlrun.runs.again import score_file

    plugins = create_plugins()
    path, _ = experiment_path(arguments.experiment)
    experiment = load_experiment(path, plugins=plugins)
    task, scores = score_file(experiment, arguments.split, Path(arguments.predictions), plugins, arguments.task)
    if arguments.json:
        say_json([score.as_json() for score in scores])
        return 0
    config = experiment.model_dump(mode="json")
    unknown = ["a file of predictions, which does not say what made it"]
    rows = [result_row(config, None, task, arguments.split, score, unknown) for score in scores]
    print_table(result_table(rows, bool(experiment.demo)))
    return 0
