"""One optimiser step: counts, losses, gradients, update, and the check that all of it was finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from vlrun.config.train import TrainConfig
from vlrun.engine.mixing import PlannedStep
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.ranks import Ranks
from vlrun.engine.run import TaskRun
from vlrun.engine.step_window import Arriving, StepRecord
from vlrun.engine.trainer import Trainer
from vlrun.errors import ConfigError, NonFiniteLossError, first_few
from vlrun.interfaces.tensors import Batch, in_full_precision
from vlrun.seeds import derive_seed

_MAX_LISTED_IDS = 20


def train_step(trainer: Trainer, step: PlannedStep, micro_batches: Sequence[Batch]) -> StepRecord:
    """Trains one task on this rank's micro-batches of one global batch, together with all other ranks.

    Raises:
        NonFiniteLossError: the step before this one was not finite. A step is checked while the next one is under way,
            so that the accelerator never waits for the check; ``check_finite`` checks the last one.
        ConfigError: the step does not fit into the accelerator's memory.
    """
    task_run = trainer.run.tasks[step.task_index]
    counts = global_counts(trainer.run.ranks, task_run, micro_batches)
    rate = trainer.schedule(step.position)
    set_learning_rate(trainer.optimizer, rate)
    config = trainer.run.experiment.train
    with trainer.run.ranks.together(), _out_of_memory_explained(config):  # memory may be short on one rank only
        losses = _backward(trainer, task_run, step, micro_batches, counts)
    with _out_of_memory_explained(config):
        norm = _update(trainer)
    ids = [name for batch in micro_batches for name in batch.ids]
    numbers = Arriving(torch.stack([*losses.values(), norm.to(next(iter(losses.values())))]))
    record = StepRecord(step.position + 1, task_run.name, step.epoch + 1, tuple(losses), rate, ids, numbers)
    check_finite(trainer)
    trainer.unchecked = record
    return record


def global_counts(ranks: Ranks, task_run: TaskRun, micro_batches: Sequence[Batch]) -> dict[str, float]:
    """The number of items that each named loss is divided by: those of all micro-batches of all ranks."""
    per_batch = [task_run.task.loss_counts(batch.targets) for batch in micro_batches]
    names = sorted(per_batch[0])
    totals = ranks.sum_counts([sum(float(counts[name]) for counts in per_batch) for name in names])
    return {name: total or 1.0 for name, total in zip(names, totals, strict=True)}


def check_finite(trainer: Trainer) -> None:
    """Checks the last step if nobody has yet; called on all ranks together.

    Raises:
        NonFiniteLossError: a loss or a gradient is infinite or not a number; names step, task and example ids.
    """
    record, trainer.unchecked = trainer.unchecked, None
    if record is None:
        return
    ranks = trainer.run.ranks
    *losses, norm = record.numbers.values()
    wrong = {name: value for name, value in zip(record.losses, losses, strict=True) if not math.isfinite(value)}
    losses_are_finite = not ranks.any(bool(wrong))
    # fp16 raises the loss scale until gradients overflow, then skips that step
    if losses_are_finite and (trainer.scaler.is_enabled() or math.isfinite(norm)):
        return
    blamed = record.ids if wrong or losses_are_finite else []
    ids = list(dict.fromkeys(ranks.gather(list(blamed))))
    values = list(dict.fromkeys(ranks.gather([f"{name} = {value}" for name, value in wrong.items()])))
    with ranks.together():
        raise NonFiniteLossError(_explanation(record, values or [f"gradient norm = {norm}"], ids))


def _explanation(record: StepRecord, wrong: Sequence[str], ids: Sequence[str]) -> str:
    return (
        f"step {record.number}, task {record.task}: {', '.join(wrong)}. Examples: "
        f"{', '.join(first_few(ids, _MAX_LISTED_IDS))}. No checkpoint holds this step. Look at these examples, "
        "lower train.learning_rate, or use train.precision=fp32"
    )


def _backward(
    trainer: Trainer,
    task_run: TaskRun,
    step: PlannedStep,
    micro_batches: Sequence[Batch],
    counts: Mapping[str, float],
) -> dict[str, Tensor]:
    """Adds the gradients of all micro-batches; returns this rank's part of each named loss."""
    run = trainer.run
    trainer.optimizer.zero_grad(set_to_none=True)
    parts: dict[str, Tensor] = {}
    for number, batch in zip(task_run.plan.own_passes, micro_batches, strict=True):
        # dropout is addressed too: a resumed run draws what the unbroken one would have drawn
        torch.manual_seed(derive_seed(run.experiment.seed, "step", step.position, number))
        on_device = batch.to(run.device)
        with run.autocast():
            outputs = run.model(task_run.name, on_device.encoding)
        sums = task_run.task.loss(in_full_precision(outputs), on_device.targets)
        losses = {name: value * (task_run.config.loss_weight / counts[name]) for name, value in sums.items()}
        trainer.scaler.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            parts[name] = parts[name] + value.detach() if name in parts else value.detach()
    return parts


def _update(trainer: Trainer) -> Tensor:
    """Sums gradients over ranks, clips them, and steps; returns the norm before clipping."""
    parameters = list(trainer.run.model.parameters())
    trainer.run.ranks.sum_gradients(parameters)
    trainer.scaler.unscale_(trainer.optimizer)
    norm = clip_gradients(parameters, trainer.run.experiment.train.max_grad_norm)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    return norm


@contextmanager
def _out_of_memory_explained(config: TrainConfig) -> Iterator[None]:
    """Explains an out-of-memory error by the options that help.

    Raises:
        ConfigError: the step does not fit into the accelerator's memory.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"train.batch_size {config.batch_size}: a step does not fit into the memory of the GPU. Raise "
            f"train.micro_batches (now {config.micro_batches}; the gradient stays the same) or use "
            f"train.precision=bf16. {str(error).splitlines()[0]}"
        ) from error
