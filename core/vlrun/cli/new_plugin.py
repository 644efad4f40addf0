"""``runner new-plugin NAME --kind KIND``: a folder with a small plugin that installs, passes its tests and runs."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from vlrun.errors import DataError, PluginError, UsageError
from vlrun.foreign.printing import say

_IN_EXPERIMENTS = ("backbone", "task", "dataset", "metric", "reporter", "optimizer", "schedule", "callback")
KINDS = {
    **dict.fromkeys(_IN_EXPERIMENTS, "{run}"),
    "command": "{run}",
    "demo-source": "{run}",
    "demo-data": "{run}",
    "detector": "runner features extract PICTURES FEATURES --detector {name}",
    "feature-format": "runner features build SOURCE FEATURES --from {name}",
    "weight-format": "runner weights import CHECKPOINT WEIGHTS --from {name}",
    "submission": "runner submit-check FILE --for {name} --questions LIST",
    "download": "runner data get {name}",
}
"""Kind of plugin, one for every hook -> the command that tries it; ``run`` is the demo of an experiment with it."""

_BUILT_ON = {"demo-source": ("dataset",), "demo-data": ("dataset", "demo-source")}
"""Whose templates a kind uses as well; its own files replace those of the same name."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 28  # no line of a template is longer than 120 characters then
_PREFIX = "vlrun-"
_SUFFIX = ".jinja"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a name, what it is the name of, and the folder to put the plugin into."""
    parser.add_argument("name", metavar="NAME", help="what experiments call it: small letters, digits, single dashes")
    parser.add_argument("--kind", choices=tuple(KINDS), required=True, help="what the plugin offers")
    parser.add_argument(
        "--into", type=Path, default=Path(), metavar="FOLDER", help="where its folder, vlrun-NAME, goes (default: here)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes the folder of the plugin, all of it or nothing, and prints the next steps."""
    name, kind, into = arguments.name, arguments.kind, arguments.into
    _check_name(name)
    values = _values(name, kind)
    folder = into / values["distribution"]
    _check_place(into, folder)
    _check_nothing_clashes(values)
    files = _files(kind, values)
    _write(folder, files)

    say(f"made {folder}:")
    say(*(f"  {path}" for path in sorted(files)))
    say("Next:")
    say(f"  pip install -e {shlex.quote(f'{folder}[test]')}")
    say(f"  pytest {shlex.quote(str(folder))}")
    say(f"  {_trial(kind, name, folder / 'experiment.yaml')}")
    return 0


def _check_name(name: str) -> None:
    """Raises UsageError unless ``name`` makes a name of a distribution and of a package, and is a text in YAML."""
    problem = None
    if not _NAME.fullmatch(name):
        problem = "use small letters, digits and single dashes, and begin with a letter"
    elif name.startswith(_PREFIX):
        problem = f"leave out {_PREFIX}: the distribution is called {_PREFIX}NAME anyway"
    elif len(name) > _LONGEST_NAME:
        problem = f"use {_LONGEST_NAME} characters at most"
    elif name in ("true", "false", "null"):
        problem = "in YAML this word is no text; take another"
    if problem is not None:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").removeprefix(_PREFIX)
        hint = f". Did you mean '{plain}'?" if plain != name and _NAME.fullmatch(plain) else ""
        raise UsageError(f"'{name}': {problem}{hint}")


def _trial(kind: str, name: str, experiment: Path) -> str:
    """The command that tries a plugin."""
    return KINDS[kind].format(name=name, run=f"runner run {shlex.quote(str(experiment))} --demo")


def _values(name: str, kind: str) -> dict[str, str]:
    """What templates call by name."""
    from importlib.metadata import version

    major, minor, *_ = version("vlrun").split(".")
    words = name.split("-")
    if f"-{kind}" in name and name.endswith(kind):  # MyTask instead of MyTaskTask
        words = words[: -len(kind.split("-"))]
    return {
        "name": name,
        "kind": kind,
        "trial": _trial(kind, name, Path("experiment.yaml")),
        "metric": f"{name}-iou" if kind == "task" else name,
        "title": "".join(word.capitalize() for word in words),
        "distribution": f"{_PREFIX}{name}",
        "package": f"{_PREFIX}{name}".replace("-", "_"),
        "core": f"{major}.{minor}",
        "next_core": f"{major}.{int(minor) + 1}",
    }


def _check_place(into: Path, folder: Path) -> None:
    if into.exists() and not into.is_dir():
        raise UsageError(f"{into} is a file; name a folder")
    if os.path.lexists(folder):  # also a link that leads nowhere
        raise UsageError(f"{folder} exists already; take another name, or another folder with --into")


def _check_nothing_clashes(values: Mapping[str, str]) -> None:
    """Raises PluginError if what is installed uses one of the new plugin's names."""
    from importlib.metadata import PackageNotFoundError, distribution
    from importlib.util import find_spec

    from vlrun.plugins.manager import create_plugins

    plugins = create_plugins()
    offered = {
        values["kind"]: values["name"],
        **dict.fromkeys(_BUILT_ON.get(values["kind"], ()), values["name"]),
        **({"metric": values["metric"]} if values["kind"] == "task" else {}),
    }
    for kind, name in ((kind.replace("-", " "), name) for kind, name in offered.items()):
        if name in plugins.names(kind):
            record = plugins.provider_of(kind, name)
            raise PluginError(f"{kind} '{name}' is offered by {record.label}, which is installed; take another name")
    try:
        label = f"{values['distribution']} {distribution(values['distribution']).version}"
    except PackageNotFoundError:
        if find_spec(values["package"]) is None:
            return
        label = f"a package {values['package']}"
    raise PluginError(f"{label} is installed; take another name")


def _files(kind: str, values: Mapping[str, str]) -> dict[Path, str]:
    """Path in the new folder -> content. Templates of all kinds are in ``any``; ``package`` becomes the package.

    Of templates for one path, that of the kind itself counts.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(  # noqa: S701 - the results are code, not HTML
        loader=PackageLoader("vlrun.cli"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    files = {}
    for group in ("any", *_BUILT_ON.get(kind, ()), kind):
        for template in templates.list_templates():
            if template.startswith(f"{group}/"):
                path = template.removeprefix(f"{group}/").removesuffix(_SUFFIX).replace("package", values["package"])
                files[Path(path)] = templates.get_template(template).render(values)
    return files


def _write(folder: Path, files: Mapping[Path, str]) -> None:
    from vlrun.files import made_whole

    try:
        with made_whole(folder) as draft:
            for path, text in files.items():
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder}: cannot write it: {error.strerror or error}") from error
