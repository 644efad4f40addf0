"""``--demo``: the same experiment on the embedded data, with the backbone's tiny size and a short schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlrun.configs import TaskConfig
from vlrun.demo import DemoData, prepare_demo
from vlrun.experiment import Experiment, Layer, load_experiment
from vlrun.plugins import Plugins

_ORIGIN = "demo"


def load_demo_experiment(
    path: Path, overrides: Sequence[str], plugins: Plugins, progress: Callable[[str], None]
) -> Experiment:
    """The experiment at ``path`` with the demo data in place of its own; generates what is not there yet.

    What a user gives on the command line still counts. A file that says ``demo: true`` is the resolved configuration
    of a demo run and is taken as it is.

    Raises:
        ConfigError: the experiment itself is wrong; told before anything is generated.
        PluginError: no plugin has demo data for one of the datasets.
    """
    experiment = load_experiment(path, overrides, plugins=plugins)
    data = prepare_demo(plugins, [_demo_dataset(task) for task in experiment.tasks], progress)
    if experiment.demo:
        return experiment
    return load_experiment(path, overrides, plugins=plugins, layers=[Layer(_ORIGIN, _values(experiment, data))])


def _values(experiment: Experiment, data: DemoData) -> dict[str, Any]:
    values: dict[str, Any] = {"demo": True, "data_root": str(data.root)}
    for option, value in type(experiment.backbone).demo_overrides(data.files).items():
        values[f"backbone.{option}"] = _plain(value)
    for index, task in enumerate(experiment.tasks):
        files = data.datasets[_demo_dataset(task)]
        values[f"tasks.{index}.dataset.annotations"] = str(files.annotations)
        values[f"tasks.{index}.dataset.features"] = str(files.features)
        for option, value in type(task).demo_overrides().items():
            values[f"tasks.{index}.{option}"] = _plain(value)
    return {**values, **data.provider.overrides(tuple(data.datasets))}


def _demo_dataset(task: TaskConfig) -> str:
    return task.dataset.demo_dataset or task.dataset.name


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
