"""The ``train:`` section of an experiment file (this module imports no torch)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vlrun.configs import Config
from vlrun.optimisation_config import OptimizerConfig, ScheduleConfig


class SamplingConfig(Config):
    """Which task a step trains, where there are several."""

    name: Literal["proportional", "temperature", "weights", "round-robin"] = Field(
        "proportional",
        description="share of steps: proportional to the size of each task's data; by that size to the power "
        "1/temperature; by the tasks' sampling_weight; equal and in turns",
    )
    temperature: PositiveFloat = Field(2.0, description="for temperature: 1 is proportional, large is equal")


class StopAndGoConfig(Config):
    """When a task pauses and when it goes on, by the primary score of its first evaluation split."""

    patience: PositiveInt = Field(2, description="evaluations in a row without gain after which a task pauses")
    min_gain: NonNegativeFloat = Field(0.1, description="what counts as gain, in units of the score")
    fall_back: PositiveFloat = Field(0.5, description="how far below its best a paused task's score brings it back")


class TrainConfig(Config):
    """How to train. Sizes are global: they say the same for any number of processes."""

    epochs: NonNegativeInt = Field(description="passes over the training data; 0 only evaluates")
    batch_size: PositiveInt = Field(description="examples per optimiser step, summed over ranks and accumulation")
    accumulate: PositiveInt = Field(1, description="forward passes per optimiser step; the gradient stays the same")
    shards: PositiveInt | None = Field(
        None,
        description="cut every step into so many forward passes, spread over the processes, each with its own dropout: "
        "one process and two then train alike, with 2 shards to the last bit. Not used by a number of processes that "
        "does not divide it",
    )
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
    final_checkpoint: Literal["best", "best-mean", "last"] = Field(
        "best",
        description="what is evaluated at the end: for each task the best by its first evaluation split; one for all "
        "tasks, the best by the mean of these scores; or the last",
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    stop_and_go: StopAndGoConfig | None = Field(
        None, description="pause a task whose score has stopped improving; null: all train to the end"
    )
    remove_evaluation_images: bool = Field(
        False, description="leave out of every task's training the images of any task's evaluation splits"
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
        if self.shards is not None and self.accumulate > 1:
            raise ValueError("shards and accumulate both cut a step into forward passes; set one of them")
        return self
