"""The kit's checks of optimisers and schedules: the built-in ones pass, and each mistake is caught with a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer

from vlrun import OptimizerConfig, ScheduleConfig, TrainingLength
from vlrun.plugins.manager import create_plugins
from vlrun.testing import check_optimizer, check_schedule

PLUGINS = create_plugins([point for point in entry_points(group="vlrun") if point.name == "core"])
Groups = Sequence[dict[str, Any]]


@pytest.mark.parametrize("name", PLUGINS.names("optimizer"))
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_built_in_optimisers_pass(name: str, weight_decay: float) -> None:
    if name == "lamb":
        pytest.importorskip("pytorch_optimizer")
    entry = PLUGINS.find("optimizer", name)
    check_optimizer(entry.build, entry.load_config()(name=name, weight_decay=weight_decay))


@pytest.mark.parametrize("name", PLUGINS.names("schedule"))
def test_the_built_in_schedules_pass(name: str) -> None:
    entry = PLUGINS.find("schedule", name)
    rates = check_schedule(entry.build, entry.load_config()(name=name))
    assert max(rates) == pytest.approx(0.001, rel=0.01)


def regrouped(config: OptimizerConfig, groups: Groups) -> Optimizer:
    return SGD([parameter for group in groups for parameter in group["params"]], lr=0.1)


def decays_all(config: OptimizerConfig, groups: Groups) -> Optimizer:
    return SGD([{**group, "weight_decay": 0.1} for group in groups])


def forgets_its_option(config: OptimizerConfig, groups: Groups) -> Optimizer:
    return SGD(groups)


class OwnRate(SGD):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = 0.1
        return super().step()


class Decays(SGD):
    """Also what has no gradient."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.mul_(1 - group["lr"])
        return super().step()


class Counts(SGD):
    """Its steps are not part of its state."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] /= self.steps
        return super().step()


class Explodes(SGD):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] *= 1e30
        return super().step()


def of(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda config, groups: kind(groups, weight_decay=config.weight_decay)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda config, groups: None, "must return a torch Optimizer, and returns None"),
        (regrouped, "the parameter groups must stay as they are given"),
        (decays_all, "which sets it; they have [0.1, 0.1]"),
        (
            forgets_its_option,
            "of the options, 0.01, and 0.0 for the second, which sets it; they have [0, 0.0]",
        ),
        (of(OwnRate), "a step at rate 0 must change nothing"),
        (of(Decays), "a parameter without a gradient must stay as it is"),
        (of(Counts), "what it keeps between steps must be in its state"),
        (of(Explodes), "parameters become infinite or NaN in a few steps"),
    ],
)
def test_a_wrong_optimiser_is_caught(factory: Any, message: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_optimizer(factory, OptimizerConfig(name="mine", weight_decay=0.01))
    assert message in str(error.value)


def remembers(config: ScheduleConfig, length: TrainingLength) -> Callable[[int], float]:
    rate = [length.learning_rate]

    def falling(step: int) -> float:
        rate[0] *= 0.9
        return rate[0]

    return falling


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (remembers, "the rate must depend on the step alone: that of step 27"),
        (lambda config, length: lambda step: 0.0, "the rate is 0 in every step"),
        (
            lambda config, length: lambda step: -1e-4,
            "rate of step 0 must be a number from 0 to 0.001, and is -0.0001",
        ),
        (lambda config, length: lambda step: 2 * length.learning_rate, "and is 0.002"),
        (lambda config, length: lambda step: float("nan"), "and is nan"),
        (lambda config, length: lambda step: torch.tensor(1e-4), "and is tensor("),
    ],
)
def test_a_wrong_schedule_is_caught(factory: Any, message: str) -> None:
    with pytest.raises(AssertionError) as error:
        check_schedule(factory, ScheduleConfig(name="mine"))
    assert message in str(error.value)


def test_adamw_of_torch_passes_as_it_is() -> None:
    check_optimizer(of(AdamW), OptimizerConfig(name="mine", weight_decay=0.01))
