"""Optimisers and schedules by name, as an experiment has them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vlrun import OptimizerConfig, ScheduleConfig, TrainingLength
from vlrun.config.components import config_model
from vlrun.interfaces.training import Schedule
from vlrun.plugins.manager import Plugins, create_plugins


@cache
def built_in() -> Plugins:
    """What the core offers."""
    return create_plugins([EntryPoint("core", "vlrun.plugins.builtin", "vlrun")])


def make_options(kind: str, **given: Any) -> Any:
    """The options of an optimiser or a schedule."""
    return config_model(kind, built_in().find(kind, given["name"])).model_validate(given)


def make_optimizer(config: OptimizerConfig, named: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """An optimiser over all parameters that have a gradient, in one group; its rate is 0 until it is set."""
    trained = [parameter for _, parameter in named if parameter.requires_grad]
    made: Optimizer = built_in().find("optimizer", config.name).build(config, [{"params": trained, "lr": 0.0}])
    return made


def make_schedule(config: ScheduleConfig, learning_rate: float, steps_per_epoch: int, epochs: int) -> Schedule:
    """The rate of each step."""
    length = TrainingLength(learning_rate, steps_per_epoch, epochs)
    made: Schedule = built_in().find("schedule", config.name).build(config, length)
    return made
