"""``runner predict RUN``: write predictions for a split, such as a test set whose answers are hidden."""

from __future__ import annotations

import argparse

from vlrun.cli.arguments import add_run_arguments, launched_elsewhere, open_run
from vlrun.foreign.printing import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run and which of its tasks, splits and checkpoints."""
    add_run_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Writes predictions and prints the paths of the files."""
    opened = open_run(arguments)
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.engine.ranks import join_ranks
    from vlrun.reporting.progress import progress_on_stderr
    from vlrun.runs.again import predict_run

    train = opened.experiment.train
    with join_ranks(train.distributed_timeout, train.threads) as ranks:
        with progress_on_stderr(ranks.is_main) as reporters:
            written = predict_run(opened, ranks, reporters)
        if ranks.is_main:
            say(*written)
    return 0
