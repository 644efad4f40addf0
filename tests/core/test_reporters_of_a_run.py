"""Which reporters a run has, and what its end says of their files."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from toy_runs import experiment

from vlrun import Entry, Reporter, hookimpl
from vlrun.engine.ranks import Ranks
from vlrun.plugins.manager import Plugins, create_plugins
from vlrun.runs.run import build_reporters, run_experiment


class Own(Reporter):
    """Says that it leaves a table."""

    leaves = MappingProxyType({"own table": "own.csv"})


@hookimpl
def vlrun_reporters() -> list[Entry]:
    return [Entry(name="own", summary="", config="vlrun:ReporterConfig", factory=f"{__name__}:Own.from_config")]


BUILT_IN = ["ConsoleReporter", "HtmlReporter", "JsonLinesReporter", "LogReporter", "TensorBoardReporter"]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    core = [point for point in entry_points(group="vlrun") if point.name == "core"]
    return create_plugins([*core, EntryPoint("toy", "toy_world", "vlrun"), EntryPoint("own", __name__, "vlrun")])


def names(world: Path, plugins: Plugins, *overrides: str) -> list[str]:
    loaded = experiment(world, plugins, *overrides)
    return [
        type(reporter).__name__
        for reporter in build_reporters(loaded, plugins, Ranks(0, 1, torch.device("cpu")))._active
    ]


def test_reporters_that_are_listed_work_beside_the_built_in_ones(world: Path, plugins: Plugins) -> None:
    assert names(world, plugins, "reporters=[]", "built_in_reporters=true") == BUILT_IN
    assert names(world, plugins, "reporters=[{name: own}]", "built_in_reporters=true") == [*BUILT_IN, "Own"]
    assert names(world, plugins, "reporters=[{name: own}]", "built_in_reporters=false") == ["Own"]
    again = names(world, plugins, "reporters=[{name: log}]", "built_in_reporters=true")
    assert sorted(again) == BUILT_IN, "one that is listed is there once"


def test_the_end_of_a_run_names_what_its_reporters_leave_and_nothing_else(
    world: Path, plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = "reporters=[{name: own}, {name: console}]"
    run_experiment(experiment(world, plugins, "train.epochs=0", listed), plugins=plugins)
    printed = capsys.readouterr().out
    assert "own.csv" in printed
    assert "report.html" not in printed
