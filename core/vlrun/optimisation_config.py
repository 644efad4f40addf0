"""The ``optimizer:`` and ``schedule:`` options of an experiment file (this module imports no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from vlrun.configs import NamedOptions

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(NamedOptions):
    """An optimiser; weight decay reaches every parameter, biases and layer norms too, as in the papers."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "adam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
        "adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
        "bert-adam": {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01},
    }

    name: Literal["adam", "adamw", "bert-adam"] = Field(
        "adamw", description="bert-adam: AdamW without bias correction, as BERT was trained"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="decay rates of both moments")
    eps: PositiveFloat = Field(1e-8, description="added to the root of the second moment (bert-adam: 1e-6)")
    weight_decay: NonNegativeFloat = Field(
        0.01, description="decoupled in adamw and bert-adam, part of the gradient in adam (default there: 0)"
    )


class ScheduleConfig(NamedOptions):
    """How the learning rate moves; times are in epochs, so a recipe holds for any batch size."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "warmup-staircase": {"warmup_epochs": 1.0, "decay_epochs": (), "decay_factor": 0.1},
        "warmup-linear": {"warmup_epochs": 1.0, "schedule_epochs": None},
        "constant": {},
    }

    name: Literal["warmup-staircase", "warmup-linear", "constant"] = Field(
        "constant",
        description="warmup-staircase: a quarter, half and three quarters of the rate for a third of the warm-up each, "
        "later a drop at each of decay_epochs; warmup-linear: up, then down to zero",
    )
    warmup_epochs: NonNegativeFloat | None = Field(None, description="length of the warm-up (default where taken: 1)")
    decay_epochs: tuple[NonNegativeInt, ...] | None = Field(
        None, description="warmup-staircase: epochs, counted from 0, at whose start the rate drops"
    )
    decay_factor: PositiveFloat | None = Field(None, description="warmup-staircase: factor of each drop (default: 0.1)")
    schedule_epochs: PositiveFloat | None = Field(
        None, description="warmup-linear: epoch at which the rate reaches zero; null: the last"
    )

    @model_validator(mode="after")
    def _warmup_ends_before_the_schedule(self) -> Any:
        if self.warmup_epochs and self.schedule_epochs and self.warmup_epochs >= self.schedule_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} is not less than schedule_epochs {self.schedule_epochs}"
            )
        return self
