"""Optimisers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from vlrun.config.train import OptimizerConfig, ScheduleConfig
from vlrun.errors import ConfigError

Schedule = Callable[[int], float]
"""Learning rate of the optimiser step with that index, from 0."""

_FUSED_DEVICES = {"cpu", "cuda"}


class BertAdam(AdamW):
    """Adam as BERT was trained: decoupled weight decay and *no bias correction*.

    ``p -= rate * (m / (sqrt(v) + eps) + weight_decay * p)``, on parameters that have a gradient.

    Bias correction divides by ``1 - beta ** step``, which is 1 to the last bit once ``step`` is large. So this is
    AdamW whose step counts start late, and it runs on the same fused kernel.
    """

    FIRST_STEP = 2**20
    """0.999 ** 2**20 is 0 next to 1, and float32, in which steps are counted, stays exact for 15 million more."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._first_state(parameter, group["fused"])
        return super().step(closure)

    def _first_state(self, parameter: Tensor, fused: bool | None) -> dict[str, Tensor]:
        device = parameter.device if fused else "cpu"  # the fused kernel wants the count beside the parameter
        return {
            "step": torch.full((), self.FIRST_STEP, dtype=torch.float32, device=device),  # unlike tensor(), no copy
            "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        }


_OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW, "bert-adam": BertAdam}


def build_optimizer(config: OptimizerConfig, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
    """The optimiser over all parameters that are not frozen, in one group; its rate is 0 until it is set.

    Fused kernels are used where the devices have them. The order of ``named_parameters`` is the order of the state.
    """
    parameters = [parameter for _, parameter in named_parameters if parameter.requires_grad]
    can_fuse = all(parameter.device.type in _FUSED_DEVICES for parameter in parameters)
    return _OPTIMIZERS[config.name](
        parameters, lr=0.0, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=can_fuse
    )


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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


def build_schedule(config: ScheduleConfig, learning_rate: float, steps_per_epoch: int, epochs: int) -> Schedule:
    """The learning rate as a pure function of the step's index, so that a resumed run needs no state for it.

    Deviation: ROSITA's code keeps the decayed rate in memory, so after its ``--resume`` earlier drops are forgotten and
    the rate jumps back up. Here step n has the same rate whether or not the run was interrupted.

    Raises:
        ConfigError: the warm-up is as long as the whole schedule.
    """
    if config.name == "warmup-staircase":
        return _warmup_staircase(config, learning_rate, steps_per_epoch)
    if config.name == "warmup-linear" and epochs > 0:  # without epochs there is no step to ask for
        return _warmup_linear(config, learning_rate, steps_per_epoch, epochs)
    return lambda step: learning_rate


def _warmup_staircase(config: ScheduleConfig, learning_rate: float, steps_per_epoch: int) -> Schedule:
    """ROSITA's fine-tuning: warm-up in stairs of a quarter. Steps count from 1 here, so the first has a quarter."""
    warmup_steps = steps_per_epoch * (config.warmup_epochs or 0)
    decay_epochs = config.decay_epochs or ()
    decay_factor = config.decay_factor or 1.0

    def rate(step: int) -> float:
        base = learning_rate
        for epoch in decay_epochs:
            if step >= epoch * steps_per_epoch:
                base *= decay_factor
        number = step + 1
        for stair in (1, 2, 3):
            if 3 * number <= stair * warmup_steps:
                return base * stair / 4
        return base

    return rate


def _warmup_linear(config: ScheduleConfig, learning_rate: float, steps_per_epoch: int, epochs: int) -> Schedule:
    """Pre-training of ROSITA and fine-tuning of LXMERT: up from 0 to the rate, then straight down to 0, where it stays.

    Progress counts the steps already done, so the first step has rate 0 and changes no parameter.
    """
    schedule_epochs = config.schedule_epochs or epochs
    total_steps = steps_per_epoch * schedule_epochs
    warmup = (config.warmup_epochs or 0) / schedule_epochs
    if warmup >= 1:
        raise ConfigError(
            f"train.schedule: warmup_epochs {config.warmup_epochs} is not less than the {schedule_epochs} epochs "
            "to train"
        )

    def rate(step: int) -> float:
        progress = step / total_steps
        if progress < warmup:
            return learning_rate * (progress / warmup)
        return learning_rate * max((progress - 1) / (warmup - 1), 0.0)

    return rate
