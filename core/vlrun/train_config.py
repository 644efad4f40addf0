"""The ``train:`` section of an experiment file (this module imports no torch)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vlrun.configs import Config
from vlrun.optimisation_config import OptimizerConfig, ScheduleConfig


class TrainConfig(Config):
    """How to train. Sizes are global: they say the same for any number of processes."""

    epochs: NonNegativeInt = Field(description="passes over the training data; 0 only evaluates")
    batch_size: PositiveInt = Field(description="examples per optimiser step, summed over ranks and accumulation")
    accumulate: PositiveInt = Field(1, description="forward passes per optimiser step; the gradient stays the same")
    learning_rate: PositiveFloat = Field(description="peak value")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    max_grad_norm: PositiveFloat | None = Field(1.0, description="global gradient norm limit; null clips nothing")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast type; weights stay float32")
    drop_last: bool = Field(True, description="leave out the last, incomplete batch of an epoch")
    order_seed: int | None = Field(
        None,
        description="null: the order derives from seed and epoch; a number n: a permutation seeded with n + epoch, "
        "as torch's DistributedSampler has it (ROSITA's released code: 0)",
    )
    evaluate_batch_size: PositiveInt = Field(64, description="examples per evaluation batch")
    evaluate_every: PositiveInt = Field(1, description="epochs between evaluations; the last epoch is always evaluated")
    checkpoint_every: PositiveInt | None = Field(None, description="steps between checkpoints; null: once an epoch")
    final_checkpoint: Literal["best", "last"] = Field(
        "best", description="what is evaluated at the end: the best by the first evaluation split, or the last"
    )
    keep_checkpoints: PositiveInt = Field(2, description="newest checkpoints to keep, beside the best one")
    log_every: PositiveInt = Field(10, description="steps between reports")
    workers: NonNegativeInt | None = Field(None, description="loader processes per rank; null chooses by cores")
    threads: PositiveInt | None = Field(
        None, description="CPU threads per process; null shares the cores; the last bits of a result depend on it"
    )
    distributed_timeout: PositiveInt = Field(600, description="seconds after which a rank that hangs ends the job")

    @model_validator(mode="after")
    def _accumulation_divides_the_batch(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        return self
