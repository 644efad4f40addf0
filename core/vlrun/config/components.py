"""The options of the components that plugins declare, and whether every path in their declarations leads somewhere."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from vlrun.config.base import BackboneConfig, Config, DatasetConfig, MetricConfig, ReporterConfig, TaskConfig
from vlrun.errors import PluginError
from vlrun.plugins.entries import Command, Declaration, Entry
from vlrun.plugins.manager import Plugins

_BASES: dict[str, type[Config]] = {
    "backbone": BackboneConfig,
    "task": TaskConfig,
    "dataset": DatasetConfig,
    "metric": MetricConfig,
    "reporter": ReporterConfig,
}


def config_model(kind: str, entry: Entry) -> type[Any]:
    """The model of the options of a component.

    Raises:
        PluginError: it cannot be imported, or does not derive from the base of its kind.
    """
    model, base = entry.load_config(), _BASES[kind]
    if isinstance(model, type) and issubclass(model, base):
        return model
    raise PluginError(f"{entry.plugin}: {entry.config} of {kind} '{entry.name}' must derive from vlrun.{base.__name__}")


def check_references(plugins: Plugins) -> None:
    """Imports whatever plugins name in their declarations; a plugin with a path that is wrong becomes broken."""
    for record, kind, item in plugins.offers():
        for problem in _problems(kind, item):
            record.fail("broken", problem)


def _problems(kind: str, item: Any) -> list[str]:
    problems = []
    for part in (item, *getattr(item, "builders", ())):
        for attribute in part.named_paths():
            try:
                _check(kind, part, attribute)
            except PluginError as error:
                problems.append(str(error))
    return list(dict.fromkeys(problems))


def _check(kind: str, item: Declaration, attribute: str) -> None:
    """Raises PluginError where the path in ``attribute`` leads to nothing, or to something else than it should."""
    where = f"{item.plugin}: {getattr(item, attribute)}"
    if isinstance(item, Command):
        item.load()
    elif isinstance(item, Entry) and attribute == "config":
        config_model(kind, item)
    else:
        found = item.resolve(attribute)
        if attribute == "record" and not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise PluginError(f"{where} is no pydantic model, which a record must be")
        if not callable(found):
            raise PluginError(f"{where} cannot be called ({attribute} of {kind} '{getattr(item, 'name', '')}')")
