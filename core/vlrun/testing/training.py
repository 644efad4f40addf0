"""The checks of optimisers and schedules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vlrun.interfaces.training import Schedule, TrainingLength

_RATE = 0.05
_STEPS = 3
_BACKWARDS = -0.02  # a gradient that what is remembered of earlier ones outweighs, also where the sign alone counts

Parameters = tuple[Tensor, Tensor]


def check_schedule(factory: Callable[[Any, TrainingLength], Schedule], config: Any, *, epochs: int = 4) -> list[float]:
    """Asserts what the core relies on in a schedule, and returns its rates in a training of ``epochs``, 7 steps each.

    The rate is a pure function of the step: the same when it is asked again, in another order, and of a schedule that
    is made anew, as a resumed run does. It is a number from 0 to ``train.learning_rate``, here 0.001, and not always 0.
    """
    length = TrainingLength(0.001, 7, epochs)
    schedule, again = factory(config, length), factory(config, length)
    rates = [schedule(step) for step in range(length.total_steps)]
    for step, rate in enumerate(rates):
        is_rate = isinstance(rate, int | float) and 0 <= rate <= length.learning_rate * (1 + 1e-6)
        assert is_rate, f"the rate of step {step} must be a number from 0 to {length.learning_rate}, and is {rate!r}"
    assert any(rates), "the rate is 0 in every step, so nothing is learned"
    for step in reversed(range(length.total_steps)):
        assert again(step) == rates[step], (
            f"the rate must depend on the step alone: that of step {step} is {rates[step]}, and {again(step)} when the "
            "steps before it were not asked for"
        )
    return rates


def check_optimizer(factory: Callable[[Any, Sequence[dict[str, Any]]], Optimizer], config: Any) -> None:
    """Asserts what the core relies on in an optimiser.

    It takes parameter groups as they are, with the rate that the core sets before each step, and with a weight decay of
    their own where they have one; a step changes what has a gradient and a rate above 0, and nothing else; an optimiser
    that is made anew and gets the state of another goes on as that one would have done, to the last bit.
    """
    parameters = _parameters()
    optimizer = factory(config, _groups(parameters))
    assert isinstance(optimizer, Optimizer), f"the factory must return a torch Optimizer, and returns {optimizer!r}"
    assert len(optimizer.param_groups) == 2, "the parameter groups must stay as they are given"
    decays = [group.get("weight_decay") for group in optimizer.param_groups]
    assert decays == [config.weight_decay, 0.0], (
        f"the weight decay of the groups must be that of the options, {config.weight_decay}, and 0.0 for the second, "
        f"which sets it; they have {decays}"
    )
    before = _values(parameters)
    _step(optimizer, parameters, (0.0, 0.0))
    assert _same(_values(parameters), before), "a step at rate 0 must change nothing"
    _step(optimizer, parameters, (_RATE, 0.0))
    changed = [not torch.equal(one, two) for one, two in zip(_values(parameters), before, strict=True)]
    assert changed == [True, False], (
        "a step must change the parameters of groups whose rate (lr) is not 0, and no others"
    )
    before = _values(parameters)
    _step(optimizer, parameters, (_RATE, _RATE), scale=None)
    assert _same(_values(parameters), before), "a parameter without a gradient must stay as it is"
    _check_that_it_goes_on(factory, config, optimizer, parameters)


def _check_that_it_goes_on(factory: Any, config: Any, optimizer: Optimizer, parameters: Parameters) -> None:
    resumed_parameters = (nn.Parameter(parameters[0].detach().clone()), nn.Parameter(parameters[1].detach().clone()))
    resumed = factory(config, _groups(resumed_parameters))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(_STEPS):
        _step(optimizer, parameters, (_RATE, _RATE), scale=_BACKWARDS)
        _step(resumed, resumed_parameters, (_RATE, _RATE), scale=_BACKWARDS)
    values = _values(parameters)
    assert all(torch.isfinite(value).all() for value in values), "parameters become infinite or NaN in a few steps"
    assert _same(values, _values(resumed_parameters)), (
        "what it keeps between steps must be in its state: one that was made anew with the state of another goes on in "
        "another way"
    )


def _parameters() -> Parameters:
    generator = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(4, 3, generator=generator)), nn.Parameter(torch.randn(4, generator=generator))


def _groups(parameters: Parameters) -> list[dict[str, Any]]:
    return [{"params": [parameters[0]], "lr": 0.0}, {"params": [parameters[1]], "lr": 0.0, "weight_decay": 0.0}]


def _step(
    optimizer: Optimizer, parameters: Parameters, rates: tuple[float, float], *, scale: float | None = 1.0
) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    if scale is not None:
        inputs = torch.linspace(-1, 1, 15).reshape(5, 3)
        torch.nn.functional.linear(inputs, *parameters).square().sum().mul(scale).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _values(parameters: Parameters) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
