"""Options of the built-in optimisers and schedules, and of groups of parameters (this module imports no torch)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vlrun.config.base import Config, OptimizerConfig, ScheduleConfig

Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[Beta, Beta]
Share = Annotated[float, Field(ge=0, le=1)]


class AdamConfig(OptimizerConfig):
    """Adam (Kingma and Ba 2015); weight decay is part of the gradient."""

    name: str = "adam"
    betas: Betas = Field((0.9, 0.999), description="decay rates of the two moments")
    eps: PositiveFloat = Field(1e-8, description="added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(0.0, description="factor on the weights, added to the gradient")


class AdamWConfig(AdamConfig):
    """AdamW (Loshchilov and Hutter 2019); weight decay is apart from the gradient."""

    name: str = "adamw"
    weight_decay: NonNegativeFloat = Field(0.01, description="of every parameter, unless train.groups says otherwise")


class BertAdamConfig(AdamWConfig):
    """AdamW without bias correction, as BERT was trained."""

    name: str = "bert-adam"
    eps: PositiveFloat = Field(1e-6, description="added to the root of the second moment")


class LambConfig(AdamWConfig):
    """LAMB (You et al. 2020), of the package pytorch-optimizer; for very large batches."""

    name: str = "lamb"
    eps: PositiveFloat = Field(1e-6, description="added to the root of the second moment")


class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent."""

    name: str = "sgd"
    momentum: Beta = Field(0.9, description="share of the last update that stays")
    nesterov: bool = Field(False, description="look ahead by the momentum (Sutskever et al. 2013)")


class ConstantConfig(ScheduleConfig):
    """The same rate in every step."""

    name: str = "constant"


class WarmupStaircaseConfig(ScheduleConfig):
    """ROSITA's fine-tuning: a quarter, half and three quarters of the rate for a third of the warm-up each, then the
    full rate, with a drop at each of ``decay_epochs``."""

    name: str = "warmup-staircase"
    warmup_epochs: NonNegativeFloat = Field(1.0, description="length of the warm-up in epochs")
    decay_epochs: tuple[NonNegativeInt, ...] = Field((), description="epochs, counted from 0, at whose start it drops")
    decay_factor: PositiveFloat = Field(0.1, description="factor of each drop")


class DecayConfig(ScheduleConfig):
    """Options of schedules that rise in a straight line, and then fall."""

    warmup_epochs: NonNegativeFloat = Field(1.0, description="epochs in which the rate rises to its peak")
    schedule_epochs: PositiveFloat | None = Field(
        None, description="epoch at which the rate has fallen to its end; null: the last. Training may end before"
    )

    @model_validator(mode="after")
    def _warmup_ends_before_the_schedule(self) -> Any:
        if self.schedule_epochs and self.warmup_epochs >= self.schedule_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} is not less than schedule_epochs {self.schedule_epochs}"
            )
        return self

    def epochs_problem(self, epochs: int) -> str | None:
        """Says so if the rate would still rise when training ends."""
        if self.schedule_epochs is not None or not 0 < epochs <= self.warmup_epochs:
            return None
        return (
            f"warmup_epochs {self.warmup_epochs:g} is not less than the {epochs} epoch{'s' if epochs > 1 else ''} "
            f"to train (train.epochs); set train.schedule.warmup_epochs to less, such as {epochs / 10:g} (a tenth)"
        )


class WarmupLinearConfig(DecayConfig):
    """Up in a straight line, then down to zero in another one."""

    name: str = "warmup-linear"


class CosineConfig(DecayConfig):
    """Up in a straight line, then down along half a cosine wave (Loshchilov and Hutter 2017, without restarts)."""

    name: str = "cosine"
    end_factor: Share = Field(0.0, description="share of the peak at the end")


class PolynomialConfig(DecayConfig):
    """Up in a straight line, then down as the remaining share of the time to some power."""

    name: str = "polynomial"
    power: PositiveFloat = Field(1.0, description="1 falls in a straight line")
    end_factor: Share = Field(0.0, description="share of the peak at the end")


class OneCycleConfig(ScheduleConfig):
    """Up and down again in cosine waves over the whole training (Smith and Topin 2019; torch's OneCycleLR)."""

    name: str = "one-cycle"
    warmup_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.3, description="share of the steps in which it rises")
    start_factor: Share = Field(1 / 25, description="share of the peak in the first step")
    end_factor: Share = Field(1 / 25e4, description="share of the peak in the last step")


class ParameterGroup(Config):
    """What is special about some parameters. Where several groups match a parameter, each option that a later one sets
    holds; layer decay comes as a factor on top."""

    match: str = Field(
        "*",
        min_length=1,
        description="names of parameters with * and ?, several after |, such as 'heads.*' or '*norm*|*.bias'; names "
        "begin with backbone. or heads.<task>.",
    )
    rate: PositiveFloat | None = Field(None, description="factor on the learning rate")
    weight_decay: NonNegativeFloat | None = Field(None, description="instead of that of the optimizer")
    frozen: bool | None = Field(None, description="whether they stay as they are")
    until_epoch: PositiveInt | None = Field(
        None, description="with frozen: they train from that epoch on, counted from 0; null: never"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="factor on the rate for each layer between a parameter and the heads: the last layer has it once, "
        "embeddings once more than the first layer",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Any:
        if self.until_epoch is not None and not self.frozen:
            raise ValueError("until_epoch says when parameters that are frozen begin to train; set frozen: true")
        if all(value is None for name, value in self if name != "match"):
            raise ValueError("it changes nothing; set rate, weight_decay, frozen or layer_decay")
        return self


class AverageConfig(Config):
    """An average of the weights over the last steps, which is what is evaluated, exported and asked."""

    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.999,
        description="share of the average that stays in a step; less in the first ones, (1 + n) / (10 + n) after n",
    )
