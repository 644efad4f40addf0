"""The built-in schedules: the learning rate as a pure function of the step, so that a resumed run needs no state.

Deviation: ROSITA's code keeps the decayed rate in memory, so after its ``--resume`` earlier drops are forgotten and the
rate jumps back up. Here step n has the same rate whether or not the run was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from vlrun.config.optimisation import (
    ConstantConfig,
    CosineConfig,
    DecayConfig,
    OneCycleConfig,
    PolynomialConfig,
    WarmupLinearConfig,
    WarmupStaircaseConfig,
)
from vlrun.errors import ConfigError
from vlrun.interfaces.training import Schedule, TrainingLength


def constant(config: ConstantConfig, length: TrainingLength) -> Schedule:
    """The same rate in every step."""
    return lambda step: length.learning_rate


def warmup_staircase(config: WarmupStaircaseConfig, length: TrainingLength) -> Schedule:
    """ROSITA's fine-tuning: warm-up in stairs of a quarter. Steps count from 1 here, so the first has a quarter."""
    warmup_steps = length.steps_per_epoch * config.warmup_epochs

    def rate(step: int) -> float:
        base = length.learning_rate
        for epoch in config.decay_epochs:
            if step >= epoch * length.steps_per_epoch:
                base *= config.decay_factor
        number = step + 1
        for stair in (1, 2, 3):
            if 3 * number <= stair * warmup_steps:
                return base * stair / 4
        return base

    return rate


def warmup_linear(config: WarmupLinearConfig, length: TrainingLength) -> Schedule:
    """Pre-training of ROSITA and fine-tuning of LXMERT: up from 0 to the rate, then straight down to 0, where it stays.

    Progress counts the steps already done, so the first step has rate 0 and changes no parameter.

    Raises:
        ConfigError: the warm-up is as long as the whole schedule.
    """
    return _rising(config, length, lambda progress, warmup: (progress - 1) / (warmup - 1))


def cosine(config: CosineConfig, length: TrainingLength) -> Schedule:
    """Up as ``warmup_linear``, then down along half a cosine wave.

    Raises:
        ConfigError: as for ``warmup_linear``.
    """
    end = config.end_factor

    def falling(progress: float, warmup: float) -> float:
        wave = (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))) / 2
        return end + (1 - end) * wave

    return _rising(config, length, falling)


def polynomial(config: PolynomialConfig, length: TrainingLength) -> Schedule:
    """Up as ``warmup_linear``, then down as the remaining share of the time to ``power``.

    Raises:
        ConfigError: as for ``warmup_linear``.
    """
    end = config.end_factor

    def falling(progress: float, warmup: float) -> float:
        return end + (1 - end) * math.pow(max(0.0, (progress - 1) / (warmup - 1)), config.power)

    return _rising(config, length, falling)


def one_cycle(config: OneCycleConfig, length: TrainingLength) -> Schedule:
    """Up to the peak and down again, each along half a cosine wave, as torch's OneCycleLR."""
    last = max(1, length.total_steps - 1)
    peak_at = config.warmup_share * length.total_steps - 1

    def rate(step: int) -> float:
        if step <= peak_at:
            return length.learning_rate * _between(config.start_factor, 1.0, step / peak_at)
        return length.learning_rate * _between(1.0, config.end_factor, (step - peak_at) / max(1e-9, last - peak_at))

    return rate


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(1.0, share)))


def _rising(config: DecayConfig, length: TrainingLength, falling: Callable[[float, float], float]) -> Schedule:
    """Up in a straight line from 0, then ``falling(progress, warmup)`` of the peak; both are shares of the schedule."""
    if not length.epochs:  # then there is no step to ask for
        return lambda step: length.learning_rate
    schedule_epochs = config.schedule_epochs or length.epochs
    total_steps = length.steps_per_epoch * schedule_epochs
    warmup = config.warmup_epochs / schedule_epochs
    if warmup >= 1:
        raise ConfigError(
            f"train.schedule: warmup_epochs {config.warmup_epochs} is not less than the {schedule_epochs} epochs "
            "to train"
        )

    def rate(step: int) -> float:
        progress = step / total_steps
        if progress < warmup:
            return length.learning_rate * (progress / warmup)
        return length.learning_rate * max(falling(progress, warmup), 0.0)

    return rate
