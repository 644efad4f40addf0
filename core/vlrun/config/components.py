"""Loads the options of components that plugins declare, and checks the paths in their declarations."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from pydantic import BaseModel

from vlrun.config.base import (
    BackboneConfig,
    Config,
    DatasetConfig,
    MetricConfig,
    OptimizerConfig,
    ReporterConfig,
    ScheduleConfig,
    TaskConfig,
)
from vlrun.config.callbacks import CallbackConfig
from vlrun.config.detectors import DetectorConfig
from vlrun.errors import PluginError
from vlrun.plugins.entries import Command, Declaration, DemoSource, Entry
from vlrun.plugins.manager import Plugins

_BASES: dict[str, type[Config]] = {
    "backbone": BackboneConfig,
    "task": TaskConfig,
    "dataset": DatasetConfig,
    "metric": MetricConfig,
    "reporter": ReporterConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "callback": CallbackConfig,
    "detector": DetectorConfig,
}


def config_model(kind: str, entry: Entry) -> type[Any]:
    """Imports the model of the options of a component.

    Raises:
        PluginError: the model cannot be imported, or does not derive from the base class of its kind.
    """
    model, base = entry.load_config(), _BASES[kind]
    if isinstance(model, type) and issubclass(model, base):
        return model
    raise PluginError(f"{entry.plugin}: {entry.config} of {kind} '{entry.name}' must derive from vlrun.{base.__name__}")


def config_base(kind: str) -> type[Any]:
    """What the options of a kind derive from."""
    return _BASES[kind]


def check_references(plugins: Plugins) -> None:
    """Imports everything that plugins name in their declarations, and marks a plugin with a wrong path as broken."""
    worlds = plugins.demo_data()
    for record, kind, item in plugins.offers():
        for problem in _problems(kind, item, worlds):
            record.fail("broken", problem)


def _problems(kind: str, item: Any, worlds: Container[str]) -> list[str]:
    problems = []
    for part in (item, *getattr(item, "builders", ())):
        for attribute in part.named_paths():
            try:
                _check(kind, part, attribute)
            except PluginError as error:
                if not _needs_a_world(part, attribute, error, worlds):
                    problems.append(str(error))
    return list(dict.fromkeys(problems))


def _needs_a_world(item: Declaration, attribute: str, error: PluginError, worlds: Container[str]) -> bool:
    """Whether what writes demo data lacks no more than its world, without which nobody asks for them."""
    if not isinstance(item, DemoSource) or item.provider in worlds:
        return False
    lacking, own = error.__cause__, getattr(item, attribute)
    return isinstance(lacking, ModuleNotFoundError) and _package(lacking.name or own) not in ("vlrun", _package(own))


def _package(path: str) -> str:
    """The first word of a path to code."""
    return path.partition(":")[0].partition(".")[0]


def _check(kind: str, item: Declaration, attribute: str) -> None:
    """Raises PluginError if the path in ``attribute`` leads nowhere, or to something of the wrong kind."""
    where = f"{item.plugin}: {getattr(item, attribute)}"
    if isinstance(item, Command):
        item.load()
    elif isinstance(item, Entry) and attribute == "config":
        config_model(kind, item)
    else:
        target = item.resolve(attribute)
        if attribute == "record" and not (isinstance(target, type) and issubclass(target, BaseModel)):
            raise PluginError(f"{where} is not a pydantic model, which a record must be")
        if not callable(target):
            raise PluginError(f"{where} cannot be called ({attribute} of {kind} '{getattr(item, 'name', '')}')")
