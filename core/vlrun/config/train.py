"""The ``train:`` section of an experiment file (this module imports no torch)."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from vlrun.config.base import Config, Count, OptimizerConfig, ScheduleConfig
from vlrun.config.optimisation import AdamWConfig, AverageConfig, ConstantConfig, ParameterGroup


class SamplingConfig(Config):
    """Which of several tasks a step trains."""

    name: Literal["proportional", "temperature", "weights"] = Field(
        "proportional",
        description="share of steps: proportional to the size of each task's data; by that size to the power "
        "1/temperature; by the tasks' sampling_weight",
    )
    temperature: PositiveFloat = Field(2.0, description="for temperature: 1 is proportional, large is equal")


class StopAndGoConfig(Config):
    """When a task pauses and when it goes on, by the primary score of its first evaluation split."""

    patience: PositiveInt = Field(2, description="evaluations in a row without gain after which a task pauses")
    min_gain: NonNegativeFloat = Field(0.1, description="least gain that counts, in units of the score")
    fall_back: PositiveFloat = Field(0.5, description="a paused task goes on when its score is this far below its best")


class TrainConfig(Config):
    """How to train. Sizes are global: they mean the same for any number of processes."""

    epochs: NonNegativeInt = Field(le=1_000_000, description="passes over the training data; 0 only evaluates")
    batch_size: Count = Field(description="examples per optimiser step, over all processes")
    micro_batches: Count = Field(
        1,
        description="number of forward passes that every step is cut into, which the processes share; each process "
        "has at least one. The gradient stays the same. As each pass has its own dropout, any number of processes up "
        "to this one trains the same model, with 2 to the last bit",
    )
    learning_rate: PositiveFloat = Field(description="peak value")
    optimizer: SerializeAsAny[OptimizerConfig] = Field(default_factory=AdamWConfig)
    schedule: SerializeAsAny[ScheduleConfig] = Field(default_factory=ConstantConfig)
    groups: tuple[ParameterGroup, ...] = Field(
        (), description="parameters with a rate or weight decay of their own, or that stay as they are"
    )
    ema: AverageConfig | None = Field(
        None, description="evaluate and keep an exponential moving average of the weights; null: the weights themselves"
    )
    max_grad_norm: PositiveFloat | None = Field(1.0, description="global gradient norm limit; null clips nothing")
    gradient_norms: bool = Field(
        False,
        description="report the norm of the gradient of each of the groups as well, before clipping; without groups, "
        "of the backbone and each head",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="type of the forward pass (autocast); weights stay float32; auto: bf16 on GPUs that have it, else "
        "fp32, chosen when the run starts, for all of it",
    )
    tf32: bool = Field(True, description="multiply float32 matrices in TF32 on GPUs that have it; false: in full")
    compile: bool | Literal["cuda-graphs"] = Field(
        False,
        description="compile the network for training (torch.compile); cuda-graphs: and replay its kernels from CUDA "
        "graphs, one for each shape of a batch",
    )
    activation_checkpointing: bool = Field(
        False,
        description="keep the input of each layer alone and compute it again in the backward pass: the same gradient "
        "in less memory and about 4/3 of the time",
    )
    gradient_compression: Literal["none", "bf16"] = Field(
        "none",
        description="type in which gradients travel between processes; bf16 sends half the bytes",
    )
    drop_last: bool = Field(True, description="leave out the last, incomplete batch of an epoch")
    order_seed: int | None = Field(
        None,
        description="null: the order derives from seed and epoch; a number n: a permutation seeded with n + epoch, "
        "as in torch's DistributedSampler (ROSITA's released code: 0)",
    )
    group_by_length: Count | None = Field(
        None,
        description="sort the texts of so many batches that follow each other by length, then shuffle these batches: "
        "less is padding, and an epoch has the same examples, but other batches; null: batches as the order has them",
    )
    evaluate_batch_size: Count = Field(64, description="examples per evaluation batch")
    evaluate_every: PositiveInt = Field(1, description="epochs between evaluations; the last epoch is always evaluated")
    checkpoint_every: PositiveInt | None = Field(None, description="steps between checkpoints; null: once an epoch")
    final_checkpoint: Literal["best", "last"] = Field(
        "best",
        description="checkpoint to evaluate at the end: each task's best by its first evaluation split, or the last",
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    stop_and_go: StopAndGoConfig | None = Field(
        None, description="pause a task whose score has stopped improving; null: all train to the end"
    )
    remove_evaluation_images: bool = Field(False, description="train no task on images of any task's evaluation splits")
    keep_checkpoints: PositiveInt = Field(2, description="number of newest checkpoints to keep, besides the best one")
    log_every: PositiveInt = Field(10, description="steps between reports")
    workers: NonNegativeInt | None = Field(
        None, le=1000, description="loader processes per rank; null: by the number of cores"
    )
    threads: PositiveInt | None = Field(
        None,
        le=10_000,
        description="CPU threads per process; null: the cores are shared; the last bits of a result depend on it",
    )
    distributed_timeout: Count = Field(600, description="seconds after which a rank that hangs ends the job")

    @model_validator(mode="after")
    def _every_micro_batch_has_examples(self) -> TrainConfig:
        if self.batch_size < self.micro_batches:
            raise ValueError(f"micro_batches {self.micro_batches} is more than batch_size {self.batch_size}")
        return self
