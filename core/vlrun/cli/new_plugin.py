"""``runner new-plugin NAME``: a folder with a small plugin that installs, is listed, and has gaps for your code."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from vlrun.errors import UsageError
from vlrun.files import write_text

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "vlrun-{name}"
version = "0.1.0"
description = "A vlrun plugin"
requires-python = ">=3.10"
dependencies = ["vlrun>={minor},<{next_minor}"]

[project.entry-points.vlrun]
{name} = "{package}.plugin"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""

_PLUGIN = '''\
"""What this plugin offers. Keep it light: name options and code by their path, and do not import them."""

from __future__ import annotations

from vlrun import Entry, hookimpl


@hookimpl
def vlrun_backbones() -> list[Entry]:
    return [
        Entry(
            name="{name}",
            summary="Describe it in one line",
            config="{package}.config:{title}Config",
            factory="{package}.backbone:{title}.from_config",
        )
    ]
'''

_CONFIG = '''\
"""Options that an experiment file may set (no torch here)."""

from __future__ import annotations

from pydantic import PositiveInt

from vlrun import BackboneConfig


class {title}Config(BackboneConfig):
    """Sizes of the backbone."""

    hidden_size: PositiveInt = 128
    region_feature_size: PositiveInt = 2048
'''

_BACKBONE = '''\
"""The backbone. Shapes: P pairs, L tokens, R regions, H hidden size."""

from __future__ import annotations

from torch import nn

from vlrun import Backbone, BackboneOutput, Encoding, PairEncoder
from {package}.config import {title}Config


class {title}(Backbone):
    """Say which paper it is from."""

    optional_weights = ("match",)  # a file of weights may come from a run that had no use for the matching head

    def __init__(self, hidden_size: int, region_feature_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.regions = nn.Linear(region_feature_size, hidden_size)
        self.match = nn.Linear(hidden_size, 2)

    @classmethod
    def from_config(cls, config: {title}Config) -> {title}:
        return cls(config.hidden_size, config.region_feature_size)

    def pair_encoder(self, max_text_tokens: int) -> PairEncoder:
        raise NotImplementedError("turn pairs and region features into an Encoding; must be picklable")

    def forward(self, encoding: Encoding) -> BackboneOutput:
        raise NotImplementedError("turn an Encoding into hidden states")

    def matching_head(self) -> nn.Module:
        return self.match
'''

_TEST = '''\
"""The checks of ``vlrun.testing``: whether the plugin keeps what the core relies on."""

from vlrun.testing import check_backbone, check_plugin

from {package}.backbone import {title}


def test_every_path_that_the_plugin_names_leads_somewhere() -> None:
    check_plugin("{package}.plugin")


def test_the_backbone_keeps_its_promises() -> None:
    check_backbone({title}(16, 8), ["a red ball", "two dogs on a sofa"], feature_size=8)
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a name and the folder to put the plugin into."""
    parser.add_argument("name", help="lower-case letters, digits and dashes, such as my-backbone")
    parser.add_argument("--output", default=".", metavar="DIR", help="where the folder goes (default: here)")


def run(arguments: argparse.Namespace) -> int:
    """Writes the files of the plugin and prints the next steps."""
    name = arguments.name
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"'{name}': use lower-case letters, digits and single dashes, such as my-backbone")
    folder = Path(arguments.output) / f"vlrun-{name}"
    if folder.exists():
        raise UsageError(f"{folder} exists already")
    for path, text in _files(name).items():
        write_text(folder / path, text)
    print(f"made {folder}. Next:\n  pip install -e {folder}\n  runner list-plugins\n  pytest {folder}")
    return 0


def _files(name: str) -> dict[str, str]:
    from importlib.metadata import version

    major, minor, *_ = (int(part) for part in version("vlrun").split("."))
    package = f"vlrun_{name.replace('-', '_')}"
    title = "".join(part.capitalize() for part in name.split("-"))
    values = {
        "name": name,
        "package": package,
        "title": title,
        "minor": f"{major}.{minor}",
        "next_minor": f"{major}.{minor + 1}",
    }
    templates = {
        "pyproject.toml": _PYPROJECT,
        f"{package}/__init__.py": "",
        f"{package}/plugin.py": _PLUGIN,
        f"{package}/config.py": _CONFIG,
        f"{package}/backbone.py": _BACKBONE,
        f"tests/test_{package}.py": _TEST,
    }
    return {path: template.format(**values) for path, template in templates.items()}
