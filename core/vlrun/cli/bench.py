"""``runner bench EXPERIMENT``: how fast an experiment is on this machine, part by part, beside other ways to do it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from vlrun.cli.arguments import EXPERIMENT_HELP, experiment_path, launched_elsewhere, missing_message
from vlrun.errors import DataError, UsageError
from vlrun.foreign.printing import say
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.bench import PARTS

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment

_PRECISIONS = ("fp32", "bf16", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes an experiment with overrides, and what to measure."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help=EXPERIMENT_HELP)
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the file (YAML)")
    demo = "on embedded texts and repeated features, with the experiment's own backbone; needs no files"
    parser.add_argument("--demo", action="store_true", help=demo)
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps of each kind (default: 10)")
    parser.add_argument("--batch", metavar="N[,N]", help="batch sizes (default: that of the experiment)")
    parser.add_argument("--precision", metavar="P[,P]", help=f"of {', '.join(_PRECISIONS)} (default: as in the file)")
    parser.add_argument("--only", metavar="PART[,PART]", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--against", metavar="FILE", help="baselines of the backbone, or a folder with such files")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--trace", metavar="DIR", help="also write a profiler's trace of a few steps")
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="processes on this machine (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Measures, prints a table, and writes the figures.

    Raises:
        UsageError: the options make no sense.
        DataError: files are missing.
    """
    from vlrun.config.experiment import load_experiment
    from vlrun.config.run_reference import run_reference

    batches = [_positive(word, "--batch") for word in _words(arguments.batch)]
    precisions = _choices(arguments.precision, "--precision", _PRECISIONS)
    parts = _choices(arguments.only, "--only", PARTS) or list(PARTS)
    _positive(str(arguments.steps), "--steps")
    if arguments.json and not Path(arguments.json).absolute().parent.is_dir():
        raise UsageError(f"--json {arguments.json}: its folder is not there")
    if arguments.against and not Path(arguments.against).exists():
        raise UsageError(f"--against {arguments.against}: there is no such file or folder")
    plugins = create_plugins()
    path, _ = experiment_path(arguments.experiment)
    experiment = load_experiment(path, arguments.overrides, plugins=plugins)
    if not arguments.demo and (missing := experiment.missing_files()):
        lines = missing_message(experiment, missing, arguments.experiment)
        raise DataError([*lines[:-1], f"To measure without any of them: runner bench {arguments.experiment} --demo"])
    if not arguments.demo and run_reference(experiment.backbone.weights) is not None:
        from vlrun.runs.stages import initial_weights, with_weights

        experiment = with_weights(experiment, initial_weights(experiment, plugins))
    if (status := launched_elsewhere(arguments)) is not None:
        return status

    from vlrun.engine.ranks import join_ranks
    from vlrun.files import write_json
    from vlrun.reporting.progress import progress_on_stderr
    from vlrun.reporting.tables import print_table
    from vlrun.runs.bench.measure import BenchOptions, measure
    from vlrun.runs.bench.record import as_table

    options = BenchOptions(
        steps=arguments.steps,
        batches=batches,
        precisions=precisions,
        parts=parts,
        against=Path(arguments.against) if arguments.against else None,
        trace=Path(arguments.trace) if arguments.trace else None,
    )
    with (
        ExitStack() as files,
        join_ranks(experiment.train.distributed_timeout, experiment.train.threads) as ranks,
        progress_on_stderr(ranks.is_main) as reporters,
    ):
        load = _Loader(arguments, experiment, plugins, files)
        record = measure(load, options, plugins, ranks, reporters).as_json()
        if ranks.is_main:
            reporters.close()
            print_table(as_table(record))
            if arguments.json:
                write_json(Path(arguments.json), record)
    return 0


class _Loader:
    """Loads the experiment, again and again with other overrides; the demo's files are made once."""

    def __init__(
        self, arguments: argparse.Namespace, experiment: Experiment, plugins: Plugins, files: ExitStack
    ) -> None:
        from vlrun.demo.bench import full_size_layer

        self._path, _ = experiment_path(arguments.experiment)
        self._given, self._plugins = list(arguments.overrides), plugins
        demo = full_size_layer(experiment, plugins, _announce) if arguments.demo else None
        self._layers = [files.enter_context(demo)] if demo else []

    def __call__(self, overrides: Sequence[str]) -> Experiment:
        from vlrun.config.experiment import load_experiment

        return load_experiment(self._path, [*self._given, *overrides], plugins=self._plugins, layers=self._layers)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def _choices(text: str | None, option: str, choices: Sequence[str]) -> list[str]:
    words = _words(text)
    if wrong := [word for word in words if word not in choices]:
        raise UsageError(f"{option} {wrong[0]}: write one of {', '.join(choices)}, or several with commas")
    return words


def _positive(word: str, option: str) -> int:
    if not word.isdecimal() or not int(word):
        raise UsageError(f"{option} {word}: write a number above 0")
    return int(word)


def _announce(message: str) -> None:
    say(message, to=sys.stderr, flush=True)
