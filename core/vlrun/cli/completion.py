"""``runner completion SHELL``: the code that makes a shell complete command lines, and the answers to its questions.

An argument is completed by its metavar or name (EXPERIMENT, RUN, key.path=value, ...), also in the verbs of plugins.
Nothing here imports pydantic, numpy, torch or the options of a plugin.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrun.errors import RunnerError

if TYPE_CHECKING:
    from vlrun.plugins.manager import Plugins

SHELLS = ("bash", "zsh", "fish")
EXPERIMENT = "vlrun.config.experiment:Experiment"
_NAMES = {  # key of an experiment -> kind of component that it names
    re.compile(r"backbone\.name"): "backbone",
    re.compile(r"tasks\.\d+\.name"): "task",
    re.compile(r"tasks\.\d+\.dataset\.name"): "dataset",
    re.compile(r"tasks\.\d+\.metrics\.\d+\.name"): "metric",
    re.compile(r"train\.optimizer\.name"): "optimizer",
    re.compile(r"train\.schedule\.name"): "schedule",
    re.compile(r"callbacks\.\d+\.name"): "callback",
    re.compile(r"reporters\.\d+\.name"): "reporter",
}
_NOT_OFFERED = re.compile(r"backbone|tasks|train|published(\..*)?")  # hardly ever set on a command line
# metavar of an argument -> what it names
_KINDS = {"DATASET": "dataset", "DETECTOR": "detector", "PHASE": "submission", "DOWNLOAD": "download"}
_FORMATS = {"weights": "weight format", "features": "feature format"}  # verb -> what its FORMAT names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes the name of a shell."""
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="the shell to print code for")


def run(arguments: argparse.Namespace) -> int:
    """Prints the shell's code, to be evaluated or sourced by it."""
    from argcomplete.shell_integration import shellcode

    sys.stdout.write(shellcode(["runner"], shell=arguments.shell) + "\n")
    return 0


def answer_shell() -> None:
    """Writes the completions of the command line that a shell asks about, and ends the process."""
    from argcomplete.finders import CompletionFinder
    from argcomplete.lexers import split_line

    from vlrun.cli.parser import make_parser

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = split_line(line, point)[3]
    start = int(os.environ["_ARGCOMPLETE"])  # 1: runner ..., 2: python runner.py ..., 3: python -m vlrun ...
    try:
        parser = make_parser(words[start:])
    except RunnerError:  # a verb whose module is broken has nothing to complete
        parser = make_parser([])
    _attach(parser, "")

    class Finder(CompletionFinder):
        def collect_completions(
            self, active_parsers: list[argparse.ArgumentParser], parsed_args: argparse.Namespace, cword_prefix: str
        ) -> list[str]:
            """Also completes overrides after options, where ``runner`` takes them but argparse does not."""
            completions: list[str] = super().collect_completions(active_parsers, parsed_args, cword_prefix)
            active: Any = active_parsers[-1]
            is_option = cword_prefix.startswith("-") or any(action.option_strings for action in active.active_actions)
            if completions or is_option or not hasattr(parsed_args, "overrides"):
                return completions
            return [word for word in _overrides(cword_prefix, parsed_args) if word.startswith(cword_prefix)]

    Finder()(parser, always_complete_options=False)


def _attach(parser: argparse.ArgumentParser, verb: str) -> None:
    """Gives every argument the function that completes it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                _attach(inner, verb or name)
        elif completer := _completer(action, verb):
            action.completer = completer  # type: ignore[attr-defined]


def _completer(action: argparse.Action, verb: str) -> Callable[..., Iterable[str]] | None:
    metavar = str(action.metavar)
    if metavar == "EXPERIMENT" or (metavar == "FILE" and action.dest == "experiment"):
        return _experiments
    if metavar in ("RUN", "RUN_OR_RUNS_FOLDER"):
        return _runs
    if metavar in ("key.path=value", "option=value"):
        return _overrides
    if kind := _KINDS.get(metavar) or (_FORMATS.get(verb) if metavar == "FORMAT" else None):
        return lambda prefix, **_: _plugins().names(kind)
    return {"task": _tasks, "split": _splits}.get(action.dest)


def _plugins() -> Plugins:
    from vlrun.plugins.manager import create_plugins

    return create_plugins()


def _experiments(prefix: str, **_: Any) -> list[str]:
    """The experiments here or that ship, and folders and YAML files that begin with ``prefix``."""
    from vlrun.config.shipped import experiment_files

    return list(dict.fromkeys([*experiment_files(), *_paths(prefix, ".yaml")]))


def _runs(prefix: str, **_: Any) -> list[str]:
    """Each ``runs/<experiment>`` and the runs in it, and folders that begin with ``prefix``."""
    root = Path(os.environ.get("VLRUN_RUNS") or "runs").expanduser()  # as typed: offered words stay short
    configs = sorted(root.glob("*/*/config.yaml"))
    named = [str(folder) for config in configs for folder in (config.parent.parent, config.parent)]
    return list(dict.fromkeys([*named, *_paths(prefix)]))


def _paths(prefix: str, suffix: str | None = None) -> list[str]:
    """Folders, with a slash, and files with ``suffix`` whose paths begin with ``prefix``."""
    folder, _, begun = prefix.rpartition("/")
    start = Path(f"{folder}/" if folder or prefix.startswith("/") else ".").expanduser()
    try:
        entries = sorted(os.scandir(start), key=lambda entry: entry.name)
    except OSError:
        return []
    names = [
        f"{entry.name}/" if entry.is_dir() else entry.name
        for entry in entries
        if entry.name.startswith(begun)
        and (begun.startswith(".") or not entry.name.startswith("."))
        and (entry.is_dir() or (suffix is not None and entry.name.endswith(suffix)))
    ]
    return [f"{prefix[: len(prefix) - len(begun)]}{name}" for name in names]


def _overrides(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Dotted keys, each with its ``=``; after the ``=``, the names of components that fit the key. Of a detector, its
    options."""
    if detector := getattr(parsed_args, "detector", None):
        return _options_of("detector", detector)
    key = prefix.partition("=")[0]
    if key != prefix:
        kind = next((kind for pattern, kind in _NAMES.items() if pattern.fullmatch(key)), None)
        return [f"{key}={name}" for name in _plugins().names(kind)] if kind else []
    keys = option_keys(_experiment_of(parsed_args), _plugins())
    return [f"{key}=" for key in keys if not _NOT_OFFERED.fullmatch(key)]


def _options_of(kind: str, name: str) -> list[str]:
    from vlrun.cli.option_names import option_names

    entry = next((entry for entry in _plugins().entries(kind) if entry.name == name), None)
    return [f"{option}=" for option in option_names(entry.config)] if entry else []


def option_keys(experiment: Mapping[str, Any], plugins: Plugins) -> list[str]:
    """Every key that may be set in ``experiment`` (plain data, as in YAML), with the options of its components."""
    from vlrun.cli.option_names import option_names

    keys = {key for key, _ in _values_in(experiment, "")}
    for name in option_names(EXPERIMENT):
        keys.update(_at_items(name, experiment))
    for where, kind, name in _components(experiment):
        entry = next((entry for entry in plugins.entries(kind) if entry.name == name), None)
        for option in option_names(entry.config) if entry else []:
            keys.update(_at_items(f"{where}.{option}", experiment))
    return sorted(keys)


def _components(experiment: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(dotted key of its section, kind, name) of every component that the experiment names."""
    for key, value in _values_in(experiment, ""):
        for pattern, kind in _NAMES.items():
            if pattern.fullmatch(key):
                yield key.removesuffix(".name"), kind, str(value)


def _at_items(name: str, value: Any) -> list[str]:
    """``name`` with an index for each ``*``: one for every item of that list, or 0 if the list is empty or missing."""
    head, star, tail = name.partition(".*.")
    if not star:
        return [name]
    items = _item(value, head)
    count = len(items) if isinstance(items, list) and items else 1
    return [
        f"{head}.{index}.{inner}"
        for index in range(count)
        for inner in _at_items(tail, _item(value, f"{head}.{index}"))
    ]


def _item(value: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _values_in(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is not a section."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _values_in(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _values_in(item, f"{where}.{index}")
    else:
        yield where, value


def _experiment_of(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The content of the experiment or run on the command line; empty if it cannot be read."""
    from vlrun.foreign.yaml import parse_mapping

    argument = getattr(arguments, "experiment", None) or getattr(arguments, "run_folder", None)
    path = Path(str(argument)).expanduser()
    if path.is_dir():
        newest_first = [path / "config.yaml", *sorted(path.glob("*/config.yaml"), reverse=True)]
        path = next((file for file in newest_first if file.is_file()), path)
    try:
        return parse_mapping(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def _tasks(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Labels of the tasks of the run or experiment on the command line."""
    return [str(task.get("label") or task.get("name")) for task in _sections(_experiment_of(parsed_args).get("tasks"))]


def _splits(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """The splits that the run or experiment on the command line names."""
    datasets = _sections([task.get("dataset") for task in _sections(_experiment_of(parsed_args).get("tasks"))])
    lists = [dataset.get(use) for dataset in datasets for use in ("evaluate", "train")]
    return list(dict.fromkeys(str(split) for splits in lists if isinstance(splits, list) for split in splits))


def _sections(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; a file that is being written may hold anything."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
