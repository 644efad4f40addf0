"""Which parameters train, and how: groups with a rate and a decay of their own, frozen ones, and gradient clipping."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vlrun.config.optimisation import ParameterGroup
from vlrun.engine.layer_depths import layer_depths
from vlrun.engine.model import TaskModel
from vlrun.errors import ConfigError

RATE = "rate_factor"
"""Key of a parameter group: factor on the learning rate."""


@dataclass(frozen=True)
class Treatment:
    """How a parameter is trained.

    Attributes:
        rate: factor on the learning rate.
        weight_decay: None: that of the optimizer.
        frozen: whether it stays as it is; until_epoch: in the epochs before this one alone.
    """

    rate: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False
    until_epoch: int | None = None


@dataclass(frozen=True)
class ParameterPlan:
    """How each parameter of a model is trained, by name, in the order of the model."""

    model: nn.Module
    treatments: Mapping[str, Treatment]
    matched: Sequence[tuple[ParameterGroup, Sequence[str]]] = ()

    def freeze(self) -> None:
        """Takes the gradient from what never trains; to be called before anything is made for the gradients."""
        for name, parameter in self.model.named_parameters():
            if self._never_trains(name):
                parameter.requires_grad_(False)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for torch, of what trains at any time; the rate of each is 0 until it is set."""
        found: dict[tuple[float, float | None], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            treatment = self.treatments[name]
            if parameter.requires_grad and not self._never_trains(name):  # a backbone may freeze some, too
                found.setdefault((treatment.rate, treatment.weight_decay), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": 0.0,
                **({} if rate == 1.0 else {RATE: rate}),
                **({} if decay is None else {"weight_decay": decay}),
            }
            for (rate, decay), parameters in found.items()
        ]

    def waiting(self) -> list[tuple[int, nn.Parameter]]:
        """Parameters that train from some epoch on, with that epoch."""
        return [
            (self.treatments[name].until_epoch or 0, parameter)
            for name, parameter in self.model.named_parameters()
            if self.treatments[name].until_epoch is not None
        ]

    def trained(self) -> set[str]:
        """Names of the parameters that train at any time, as far as the groups say."""
        return {name for name in self.treatments if not self._never_trains(name)}

    def parts(self) -> list[tuple[str, list[nn.Parameter]]]:
        """What each group of the experiment matches; without groups, the backbone and each head."""
        parameters = dict(self.model.named_parameters())
        if self.matched:
            return [(group.match, [parameters[name] for name in names]) for group, names in self.matched]
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            first, second, *_ = name.split(".")
            parts.setdefault(first if first == "backbone" else f"{first}.{second}", []).append(parameter)
        return list(parts.items())

    def facts(self) -> list[tuple[str, str]]:
        """How many parameters each group of the experiment has, and how many train; none without groups."""
        if not self.matched:
            return []
        sizes = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        frozen = sum(each.numel() for each in self.model.parameters() if not each.requires_grad)
        lines = [
            f"{group.match}: {sum(sizes[name] for name in names):,} in {len(names):,} tensors, {_in_words(group)}"
            for group, names in self.matched
        ]
        lines.append(f"{sum(sizes.values()) - frozen:,} of {sum(sizes.values()):,} parameters train")
        return [("groups", line) for line in lines]

    def _never_trains(self, name: str) -> bool:
        treatment = self.treatments[name]
        return treatment.frozen and treatment.until_epoch is None


def plan_parameters(model: TaskModel, groups: Sequence[ParameterGroup]) -> ParameterPlan:
    """Applies the groups of an experiment to the names of a model's parameters, one after the other.

    Raises:
        ConfigError: a group matches nothing, or nothing is left to train; or layers decay in a backbone that does not
            say what its layers are.
    """
    names = [name for name, _ in model.named_parameters()]
    treatments = dict.fromkeys(names, Treatment())
    problems, matched = [], []
    for number, group in enumerate(groups):
        own = [name for name in names if _matches(name, group.match)]
        if not own:
            near = _nearest(group, names)
            problems.append(f"train.groups.{number}.match: '{group.match}' matches no parameter; there is {near}")
        if group.layer_decay is not None and not layer_depths(model.backbone):
            problems.append(
                f"train.groups.{number}.layer_decay: {type(model.backbone).__name__} does not say what its layers are "
                "(layer_stacks, depth_options)"
            )
        matched.append((group, own))
        for name in own:
            treatments[name] = _changed(treatments[name], group)
    if problems:
        raise ConfigError(problems)
    for group, own in matched:
        if group.layer_decay is not None:
            factors = _layer_factors(model, group.layer_decay)
            for name in own:
                treatments[name] = replace(treatments[name], rate=treatments[name].rate * factors.get(name, 1.0))
    plan = ParameterPlan(model, treatments, matched)
    if groups and not plan.groups():
        raise ConfigError("train.groups: all parameters are frozen, so there is nothing to train")
    return plan


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of the next step, times the factor of each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATE] if RATE in group else rate


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scales all gradients so that their global L2 norm is at most ``max_norm``; None scales nothing.

    Returns:
        The norm before clipping, a scalar on the device of the gradients; inf or nan if any gradient is.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    if max_norm is not None:
        return nn.utils.clip_grad_norm_(with_gradient, max_norm)
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    total: Tensor = torch.linalg.vector_norm(norms)
    return total


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm of the gradients that there are, a scalar on their device; 0 if there are none."""
    return clip_gradients(parameters, None)


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern.strip()) for pattern in patterns.split("|"))


def _changed(treatment: Treatment, group: ParameterGroup) -> Treatment:
    changes: dict[str, Any] = {}
    if group.rate is not None:
        changes["rate"] = group.rate
    if group.weight_decay is not None:
        changes["weight_decay"] = group.weight_decay
    if group.frozen is not None:
        changes |= {"frozen": group.frozen, "until_epoch": group.until_epoch}
    return replace(treatment, **changes)


def _layer_factors(model: TaskModel, decay: float) -> dict[str, float]:
    depths = layer_depths(model.backbone)
    top = 1 + max(depths.values())
    return {f"backbone.{name}": decay ** (top - depth) for name, depth in depths.items()}


def _nearest(group: ParameterGroup, names: Sequence[str]) -> str:
    wanted = group.match.split("|")[0].strip("*. ")
    parts = {name.rpartition(".")[0] for name in names} | set(names)
    near = difflib.get_close_matches(wanted, parts, n=3, cutoff=0.4) or sorted(parts, key=len)[:3]
    return ", ".join(near)


def _in_words(group: ParameterGroup) -> str:
    parts = [
        f"rate x {group.rate:g}" if group.rate is not None else "",
        f"weight decay {group.weight_decay:g}" if group.weight_decay is not None else "",
        (f"frozen before epoch {group.until_epoch}" if group.until_epoch else "frozen") if group.frozen else "",
        "not frozen" if group.frozen is False else "",
        f"rate x {group.layer_decay:g} a layer" if group.layer_decay is not None else "",
    ]
    return ", ".join(part for part in parts if part)
