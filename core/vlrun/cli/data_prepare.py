"""``runner data status`` and ``runner data prepare``: what an experiment lacks, and making what can be made."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.cli.arguments import EXPERIMENT_HELP, experiment_path
from vlrun.config.roots import usual_data_root
from vlrun.errors import DataError, UsageError
from vlrun.foreign.printing import say, say_json
from vlrun.plugins.manager import Plugins, create_plugins

if TYPE_CHECKING:
    from vlrun.config.experiment import Experiment
    from vlrun.data.needs import Need
    from vlrun.data.preparing import Step
    from vlrun.plugins.downloads import Download


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """EXPERIMENT, overrides and --from."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help=EXPERIMENT_HELP)
    _add_shared_arguments(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """The same; without EXPERIMENT everything that is found is made."""
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        nargs="?",
        help="a YAML file under experiments/; without it, everything that the folders have is made under VLRUN_DATA",
    )
    _add_shared_arguments(parser)


def _add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", metavar="key.path=value", nargs="*", help="values laid over the file (YAML)")
    parser.add_argument(
        "--from",
        dest="folders",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="where files may lie, such as the folder of ROSITA, LXMERT or VOLTA; may be repeated",
    )


def status(arguments: argparse.Namespace) -> int:
    """Shows what is there and what is missing; the exit status says whether all is there."""
    from vlrun.data.going_on import overrides_for_what_is_there
    from vlrun.data.preparing import check_folders

    check_folders(arguments.folders)
    plugins = create_plugins()
    downloads = plugins.downloads()
    experiment = _experiment(arguments, plugins)
    needs, steps = needs_and_steps(experiment, downloads, arguments.folders)
    by_target = {step.need.target: step for step in steps}
    if arguments.json:
        say_json([_as_json(need, by_target.get(need.target), downloads) for need in needs])
    else:
        named = _named(arguments)
        lines = [f"{experiment.name} needs, under {experiment.data_root}:"]
        for need in needs:
            lines += _lines(need, by_target.get(need.target), downloads, experiment.data_root, named)
        lines += [_disk_line(steps, downloads, experiment.data_root)] if steps else []
        lines += _next_lines(steps, named, arguments.folders)
        if steps and (options := overrides_for_what_is_there(experiment)):
            lines += [f"Or with the splits that are there: runner data status {named} {shlex.join(options)}"]
        say(*lines)
    return DataError.exit_status if steps else 0


def needs_and_steps(
    experiment: Experiment, downloads: dict[str, Download], folders: Sequence[Path] = ()
) -> tuple[list[Need], list[Step]]:
    """All that an experiment needs, and a step for each need that is not there."""
    from vlrun.data.needs import needs_of
    from vlrun.data.preparing import plan
    from vlrun.data.trees import trees_of

    needs = needs_of(experiment)
    return needs, plan(needs, trees_of(folders, experiment.data_root, downloads), downloads)


def bytes_of_stores(steps: Sequence[Step], downloads: dict[str, Download]) -> int:
    """What the missing stores will take, as far as it is known."""
    from vlrun.data.preparing import BYTES_PER_IMAGE

    images = [max((item.images or 0 for item in step.need.fitting(downloads)), default=0) for step in steps]
    return sum(images) * BYTES_PER_IMAGE


def prepare(arguments: argparse.Namespace) -> int:
    """Makes what can be made, says what was taken for what, and ends with ``validate``."""
    from vlrun.data.needs import needs_of, possible_needs
    from vlrun.data.preparing import check_folders, left_lines, plan, taken_lines
    from vlrun.data.preparing import prepare as carry_out
    from vlrun.data.trees import trees_of

    if arguments.experiment and "=" in arguments.experiment and not Path(arguments.experiment).exists():
        raise UsageError(f"'{arguments.experiment}' is an override; name the EXPERIMENT before it")
    check_folders(arguments.folders)
    plugins = create_plugins()
    downloads = plugins.downloads()
    experiment = _experiment(arguments, plugins) if arguments.experiment else None
    data_root = experiment.data_root if experiment else usual_data_root()
    trees = trees_of(arguments.folders, data_root, downloads)
    needs = needs_of(experiment) if experiment else possible_needs(downloads.values(), data_root)
    steps = plan(needs, trees, downloads)
    if experiment is None:
        steps = [step for step in steps if step.candidates]
        if not steps:
            places = ", ".join(str(tree.root) for tree in trees) or data_root
            raise DataError(f"{places}: nothing new that any plugin recognises; `runner data list` says what there is")
    made = list(carry_out(steps, arguments.main, _say))
    for line in taken_lines(made):
        say(line)
    if experiment is None:
        for line in left_lines([tree for tree in trees if tree.root in arguments.folders], made):
            say(line)
        return DataError.exit_status if any(item.taken is None for item in made) else 0
    checked = int(arguments.main(["validate", arguments.experiment, *arguments.overrides]))
    if checked == 0:
        say(f"everything is there; start with: runner run {_named(arguments)}")
    return checked


def _experiment(arguments: argparse.Namespace, plugins: Plugins) -> Experiment:
    from vlrun.config.experiment import load_experiment

    path, _ = experiment_path(arguments.experiment)
    experiment = load_experiment(path, arguments.overrides, plugins=plugins)
    if experiment.demo:
        raise UsageError(f"{arguments.experiment} is a demo; it makes all that it needs by itself")
    return experiment


def _named(arguments: argparse.Namespace) -> str:
    return shlex.join([arguments.experiment, *arguments.overrides])


def _say(message: str) -> None:
    say(message, flush=True)
    sys.stderr.flush()


def _lines(need: Need, step: Step | None, downloads: dict[str, Download], data_root: Path, named: str) -> list[str]:
    if step is None:
        return [f"  there    {need.target}"]
    names = ", ".join(file.path.name for file in need.missing if file.path != need.target)
    lines = [f"  missing  {need.target}{f': {names}' if names else ''}"]
    if need.splits_there:
        there = ", ".join(need.splits_there)
        lines += [
            f"    splits that are there: {there}; to go with those: "
            f"'{need.dataset}.train=[...]' '{need.dataset}.evaluate=[...]'"
        ]
    if step.candidates:
        return [*lines, "    found; the command that comes next:", *(f"      {line}" for line in step.commands[:3])]
    if need.kind == "weights":
        lines.append("    or start from random weights: backbone.weights=null")
    fitting = need.fitting(downloads)
    for download in fitting:
        lines += [f"    {line}" for line in describe(download)]
        lines.append(f"      $ {_get_command(download, data_root) or f'runner data prepare {named} --from FOLDER'}")
    if useless := need.useless(downloads):
        lines.append(
            f"    of no use here, as they lack what the task needs: {', '.join(item.name for item in useless)}"
        )
    if not fitting:
        lines += [f"    {line}" for file in need.missing[:1] for line in file.remedy.splitlines()]
    return lines


def _get_command(download: Download, data_root: Path) -> str:
    """Empty where only a person can get it."""
    from vlrun.data.trees import DOWNLOADS_FOLDER

    if not download.is_automatic:
        return ""
    is_usual = data_root == usual_data_root()
    elsewhere = [] if is_usual else ["--to", str(data_root / DOWNLOADS_FOLDER / download.name)]
    return shlex.join(["runner", "data", "get", download.name, *elsewhere])


def describe(download: Download) -> list[str]:
    """A download in a few lines: what it is, where from, on what terms, how large."""
    size = f"{download.size / 1e6:,.1f} MB" if download.size else "size not published"
    facts = [f"{len(download.files)} file{'s' * (len(download.files) != 1)}, {size}"] if download.files else []
    if download.images:
        from vlrun.data.preparing import store_cost

        facts.append(store_cost(download.images))
    facts += [f"licence: {download.licence or 'not stated'}", download.terms]
    return [
        f"{download.name}: {download.summary}",
        f"  {'; '.join(fact for fact in facts if fact)}",
        *([f"  {download.page}"] if download.page else []),
        *(f"  by hand: {step}" for step in download.manual_steps),
    ]


def _disk_line(steps: Sequence[Step], downloads: dict[str, Download], data_root: Path) -> str:
    """What the missing stores will take, as far as it is known, and what is free."""
    existing = next(folder for folder in (data_root, *data_root.parents) if folder.is_dir())
    needed, free = bytes_of_stores(steps, downloads) / 1e9, shutil.disk_usage(existing).free / 1e9
    wanted = f"stores of the published features take {needed:,.1f} GB; " if needed else ""
    return f"Disk: {wanted}{free:,.1f} GB are free under {existing}."


def _next_lines(steps: Sequence[Step], named: str, folders: Sequence[Path]) -> list[str]:
    if not steps:
        return [f"everything is there; start with: runner run {named}"]
    given = "".join(f" --from {shlex.quote(str(folder))}" for folder in folders) or " [--from FOLDER]..."
    lines = ["What is found, all at once, resumable:" if any(step.candidates for step in steps) else "Afterwards:"]
    return [*lines, f"  runner data prepare {named}{given}"]


def _as_json(need: Need, step: Step | None, downloads: dict[str, Download]) -> dict[str, Any]:
    return {
        "kind": need.kind,
        "path": str(need.target),
        "is_there": step is None,
        "missing": [str(file.path) for file in need.missing],
        "commands": step.commands if step else [],
        "downloads": [download.name for download in need.fitting(downloads)] if step else [],
    }
