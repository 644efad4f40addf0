"""``runner validate``: everything that can be wrong with an experiment, before torch or data are touched."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from vlrun.config.experiment import Experiment, load_experiment
from vlrun.errors import ConfigError, DataError, RequiredFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the resolved experiment as JSON")


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """EXPERIMENT, overrides and --print-config, as `run` and `validate` share them."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a YAML file under experiments/, or a run folder")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the file (YAML)")
    parser.add_argument(
        "--print-config", action="store_true", help="print every value with where it came from, and stop"
    )


def run(arguments: argparse.Namespace) -> int:
    from vlrun.cli.run import experiment_path

    path, _ = experiment_path(arguments.experiment)
    try:
        experiment = load_experiment(path, arguments.overrides)
    except ConfigError as error:
        files = [f"{arguments.experiment}: missing {file.path} ({file.purpose})" for file in error.missing]
        raise ConfigError([*error.problems, *files]) from error
    if arguments.print_config:
        print(experiment.as_yaml_with_origins(), end="")
        return 0
    if missing := experiment.missing_files():
        raise DataError(missing_message(experiment, missing))
    if arguments.json:
        print(json.dumps(experiment.model_dump(mode="json")))
    else:
        print("\n".join(_summary(experiment)))
    return 0


def missing_message(experiment: Experiment, missing: Sequence[RequiredFile]) -> list[str]:
    """The configuration is right, but files are missing: which, and the commands that make them."""
    lines = [f"Experiment '{experiment.name}' is well-formed, but files that it needs are not there:"]
    remedies: dict[str, list[RequiredFile]] = {}
    for file in missing:
        remedies.setdefault(file.remedy, []).append(file)
    for remedy, files in remedies.items():
        lines.append("")
        lines += [f"  missing {file.path}  ({file.purpose})" for file in files]
        lines += [f"    {line}" for line in remedy.splitlines()]
    lines += [
        "",
        f"Relative paths lie under the data root {experiment.data_root} (data_root in the file, or VLRUN_DATA).",
    ]
    lines += ["To try the experiment without any of them: runner run EXPERIMENT --demo"]
    return lines


def _summary(experiment: Experiment) -> list[str]:
    train = experiment.train
    lines = [f"{experiment.name}: ok", f"  backbone  {experiment.backbone.name}"]
    for task in experiment.tasks:
        data = task.dataset
        lines.append(f"  task      {task.name} on {data.name}: {'+'.join(data.train)} -> {', '.join(data.evaluate)}")
    return [*lines, f"  train     {train.epochs} epochs, batch size {train.batch_size}, peak {train.learning_rate:g}"]
