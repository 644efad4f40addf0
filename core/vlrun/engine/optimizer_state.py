"""The state of an optimiser as tensors with the names of their parameters, in whatever groups these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_COUNT = "@step"


def fill_optimizer(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Gives an optimiser the state that ``optimizer_tensors`` took from another."""
    for group in optimizer.param_groups:
        counts = [tensors.pop(f"{name}/{_COUNT}", None) for name in _named(optimizer, model, group)]
        if known := [int(count) for count in counts if count is not None]:
            group["step"] = max(known)
    for name, parameter in _named(optimizer, model).items():
        prefix = f"{name}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {key: _beside(parameter, key, value) for key, value in state.items()}


def _named(optimizer: Optimizer, model: nn.Module, group: Mapping[str, Any] | None = None) -> dict[str, nn.Parameter]:
    groups = optimizer.param_groups if group is None else [group]
    owned = {id(parameter) for each in groups for parameter in each["params"]}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of an optimiser by the names of the parameters."""
    counts = {  # of optimisers that count steps by group, as those of pytorch-optimizer do
        f"{name}/{_COUNT}": torch.tensor(group["step"])
        for group in optimizer.param_groups
        if isinstance(group.get("step"), int)
        for name in _named(optimizer, model, group)
    }
    return counts | {
        f"{name}/{key}": torch.as_tensor(value).contiguous()
        for name, parameter in _named(optimizer, model).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _beside(parameter: Tensor, key: str, value: Tensor) -> Tensor:
    """Puts optimiser state where the kernels expect it: moments beside the parameter, the step count only on CUDA."""
    return value.to(parameter.device) if key != "step" or parameter.is_cuda else value
