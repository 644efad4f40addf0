"""What verbs share: naming an experiment or a run, its task and splits, and the number of processes.

Public, for verbs of plugins.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.engine.run_folder import OpenedRun, open_run_folder
from vlrun.errors import DataError, RequiredFile, UsageError
from vlrun.foreign.printing import say
from vlrun.plugins.manager import Plugins, create_plugins

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment

__all__ = [
    "OpenedRun",
    "add_experiment_arguments",
    "add_run_arguments",
    "check_processes",
    "experiment_path",
    "launched_elsewhere",
    "missing_message",
    "open_run",
]


WITHOUT_AVERAGE = "take the weights as they were trained where the run keeps an average of them (train.ema)"
EXPERIMENT_HELP = "a YAML file, the name of one that ships with vlrun, or a run folder"


def add_experiment_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds EXPERIMENT, overrides and --print-config, which `run` and `validate` share.

    Args:
        several: whether more experiments may follow the first.
    """
    parser.add_argument("experiment", metavar="EXPERIMENT", help=EXPERIMENT_HELP)
    overrides = "values laid over the file (YAML)"
    if several:
        overrides += "; experiments among them run after the first, in order, with the same values and options"
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help=overrides)
    parser.add_argument(
        "--print-config", action="store_true", help="print every value with where it came from, and stop"
    )


def experiment_path(argument: str) -> tuple[Path, Path | None]:
    """The YAML file that EXPERIMENT names, and its run folder if it is the configuration of a run."""
    path = Path(argument)
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml", path.resolve()
    if path.name == "config.yaml" and (path.parent / "status.json").is_file():
        return path, path.parent.resolve()
    return path, None


def print_config(experiment: Experiment, plugins: Plugins) -> None:
    """Prints every value with where it came from, and how many parameters the groups have, if there are groups."""
    say(*experiment.as_yaml_with_origins().splitlines())
    if experiment.train.groups and experiment.train.epochs:
        from vlrun.runs.group_sizes import group_lines

        say("# train.groups:", *(f"#   {line}" for line in group_lines(experiment, plugins)))


def add_run_arguments(parser: argparse.ArgumentParser, *, default_splits: str = "as in the run") -> None:
    """Adds RUN, --split, --task, --checkpoint, --nproc and overrides, which `evaluate` and `predict` share."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, or runs/<experiment> for its newest run")
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the run's config.yaml")
    parser.add_argument(
        "--split", action="append", default=[], help=f"a split; may be repeated (default: {default_splits})"
    )
    parser.add_argument(
        "--task", action="append", default=[], help="a task of a joint run, by its label; may be repeated"
    )
    parser.add_argument("--checkpoint", default="best", help="best, last, or a checkpoint folder (default: best)")
    parser.add_argument("--without-average", action="store_true", help=WITHOUT_AVERAGE)
    parser.add_argument("--nproc", type=int, default=None, metavar="N", help="processes on this machine (default: 1)")


def launched_elsewhere(arguments: argparse.Namespace) -> int | None:
    """Starts the processes that --nproc asks for and returns their exit status; None means: go on in this process.

    Raises:
        UsageError: fewer than one process was asked for.
    """
    from vlrun.engine.ranks import is_launched

    check_processes(arguments)
    if (arguments.nproc or 1) == 1 or is_launched():
        return None
    from vlrun.engine.launch import launch

    return launch(arguments.main, arguments.command, arguments.nproc)


def check_processes(arguments: argparse.Namespace) -> None:
    """Raises UsageError if --nproc asks for fewer than one process."""
    if arguments.nproc is not None and arguments.nproc < 1:
        raise UsageError(f"--nproc {arguments.nproc}: at least one process is needed")


def open_run(arguments: argparse.Namespace, *, trained_splits: bool = False) -> OpenedRun:
    """Opens the run that RUN names, with the splits, tasks and checkpoint that the other arguments name.

    Args:
        trained_splits: without ``--split``, take the splits that the task was trained on, not those for evaluation.

    Raises:
        UsageError: a task is unknown, there are several tasks to which a split may belong, or there is no split.
        DataError: files are missing.
    """
    from vlrun.config.experiment import Layer, load_experiment

    plugins = create_plugins()
    folder = open_run_folder(Path(arguments.run_folder))
    experiment = load_experiment(folder.config, arguments.overrides, plugins=plugins)
    changed: list[str] = []
    if arguments.overrides:
        from vlrun.runs.run import changed_options

        own = load_experiment(folder.config, plugins=plugins)
        changed = changed_options(own.as_yaml(), experiment.as_yaml(), reads_pictures=own.reads_pictures)
    if getattr(arguments, "without_average", False):  # verbs of plugins need not have it
        refuse_without_average(experiment)
        changed.append("weights: as they were trained instead of averaged")
    labels = [task.display_name for task in experiment.tasks]
    if unknown := [label for label in arguments.task if label not in labels]:
        raise UsageError(f"there is no task '{unknown[0]}' in this run (there is: {', '.join(labels)})")
    if arguments.split and len(labels) > 1 and not arguments.task:
        raise UsageError(
            f"this run has several tasks; say which one the split belongs to: --task {' or '.join(labels)}"
        )
    chosen = arguments.task or labels[:1]
    trained = experiment.tasks[labels.index(chosen[0])].dataset.train
    splits = arguments.split or (trained if trained_splits else [])
    if trained_splits and not splits:
        raise UsageError(f"{folder.path} trains on nothing, so say which split: --split NAME")
    values: dict[str, Any] = {"train.epochs": 0}
    if experiment.train.epochs:
        values["backbone.weights"] = None  # the checkpoint has the weights
    for position, label in enumerate(labels):
        values[f"tasks.{position}.dataset.train"] = []
        if splits and label in chosen:
            values[f"tasks.{position}.dataset.evaluate"] = splits
    layer = Layer(f"runner {arguments.verb}", values)
    experiment = load_experiment(folder.config, arguments.overrides, plugins=plugins, layers=[layer])
    if missing := experiment.missing_files():
        raise DataError(missing_message(experiment, missing))
    averaged = not getattr(arguments, "without_average", False)
    return OpenedRun(folder, experiment, plugins, arguments.checkpoint, arguments.task, changed, averaged)


def refuse_without_average(experiment: Experiment) -> None:
    """Raises UsageError if a run keeps no average that one could do without."""
    if experiment.train.ema is None:
        raise UsageError("--without-average: the run keeps no average of its weights (train.ema)")


def missing_message(experiment: Experiment, missing: Sequence[RequiredFile], named: str = "EXPERIMENT") -> list[str]:
    """Lines that say which files are missing although the configuration is right, and how to make them.

    Args:
        named: how the user called the experiment.
    """
    from vlrun.data.going_on import overrides_for_what_is_there

    lines = [f"Experiment '{experiment.name}' is well-formed, but files that it needs are not there:"]
    remedies: dict[str, list[RequiredFile]] = {}
    for file in missing:
        remedies.setdefault(file.remedy, []).append(file)
    for remedy, files in remedies.items():
        lines.append("")
        lines += [f"  missing {file.path}  ({file.purpose})" for file in files]
        known = [*_sources(experiment, files, remedy), *remedy.splitlines(), *_layouts(experiment, files, remedy)]
        lines += [f"    {line}" for line in known]
        lines += [f"    ({cost})" for cost in _store_costs(experiment, files)]
    lines += [
        "",
        f"Relative paths lie under the data root {experiment.data_root} (data_root in the file, or VLRUN_DATA).",
    ]
    lines += [
        f"Where to get them, and what comes next: runner data status {named}",
        f"To make them of files that you have: runner data prepare {named} --from FOLDER",
    ]
    if options := overrides_for_what_is_there(experiment):
        is_last = "train.final_checkpoint=last" in options
        remark = "  (no split chooses an epoch; scores say that it is the last)" if is_last else ""
        lines += [f"To go on with the splits that are there: {shlex.join(options)}{remark}"]
    lines += ["To try the experiment without any of them: runner run EXPERIMENT --demo"]
    return lines


def _sources(experiment: Experiment, files: Sequence[RequiredFile], remedy: str) -> list[str]:
    """Where the source of missing annotations is, as the dataset's plugin says, unless its remedy says it already."""
    plugins, missing = create_plugins(), {file.path for file in files}
    entries = [
        plugins.find("dataset", task.dataset.name)
        for task in experiment.tasks
        if missing & {task.dataset.split_file(split) for split in (*task.dataset.train, *task.dataset.evaluate)}
    ]
    return list(dict.fromkeys(entry.obtain for entry in entries if entry.obtain and entry.obtain not in remedy))


def _layouts(experiment: Experiment, files: Sequence[RequiredFile], remedy: str) -> list[str]:
    """The layouts that missing weights can be imported from, if the remedy leaves that open."""
    backbone = experiment.backbone
    if "--from FORMAT" not in remedy or backbone.weights not in [file.path for file in files]:
        return []
    formats = create_plugins().weight_formats().values()
    own = [f"{layout.name}: {layout.summary}" for layout in formats if layout.backbone == backbone.name]
    return [f"FORMAT is one of these, by what the file is: {'; '.join(own)}"] if own else []


def _store_costs(experiment: Experiment, files: Sequence[RequiredFile]) -> list[str]:
    """Disk and time that missing stores of published features take, as far as it is known how large those are."""
    from vlrun.data.preparing import store_cost

    stores = experiment.feature_stores
    downloads = create_plugins().downloads().values()
    images = [
        download.images
        for file in files
        if file.path in stores
        for download in downloads
        if download.kind == "features" and download.makes == file.path.name and download.images
    ]
    return list(dict.fromkeys(map(store_cost, images)))
