"""``runner evaluate RUN``: score a checkpoint of a run again, on its evaluation splits or on others."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vlrun.cli.arguments import add_run_arguments, launched_elsewhere, open_run
from vlrun.foreign.printing import say, say_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, which of its tasks, splits and checkpoints, and --json."""
    add_run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores and where the predictions are."""
    opened = open_run(arguments)
    experiment = opened.experiment
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.engine.ranks import join_ranks
    from vlrun.reporting.progress import progress_on_stderr
    from vlrun.reporting.results import result_table
    from vlrun.reporting.tables import print_table
    from vlrun.runs.again import evaluate_into

    with join_ranks(experiment.train.distributed_timeout, experiment.train.threads) as ranks:
        with progress_on_stderr(ranks.is_main) as reporters:
            rows, folders = evaluate_into(opened, ranks, reporters)
        if ranks.is_main:
            if arguments.json:
                say_json([asdict(row) for row in rows])
            else:
                if rows:  # none where all splits are hidden
                    print_table(result_table(rows, bool(experiment.demo)))
                for folder in folders:
                    say("", f"predictions: {folder / 'predictions'}")
    return 0
