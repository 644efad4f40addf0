"""One optimiser step: counts, losses, gradients, update, and the check that all of it was finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlrun.config.train import TrainConfig
from vlrun.engine.global_batch import BatchLoss, Share, batch_loss, has_batch_loss
from vlrun.engine.optimisation import clip_gradients, gradient_norm, set_learning_rate
from vlrun.engine.step_feed import LoadedStep
from vlrun.engine.step_view import StepView
from vlrun.engine.step_window import Arriving, StepRecord
from vlrun.engine.trainer import Trainer
from vlrun.errors import ConfigError, NonFiniteLossError, first_few
from vlrun.interfaces.tensors import Batch
from vlrun.seeds import derive_seed

_MAX_LISTED_IDS = 20


@dataclass(frozen=True)
class ReadyStep:
    """A step that can be trained: its data, and the number of items of all ranks that each loss is divided by."""

    loaded: LoadedStep
    counts: Mapping[str, float]


@dataclass(frozen=True)
class StepDone:
    """What a step did, the one that follows it in its segment, and whether any rank was asked to stop."""

    record: StepRecord
    following: ReadyStep | None
    stop: bool


def first_step(trainer: Trainer, feed: Iterator[LoadedStep]) -> ReadyStep | None:
    """The first step of a segment; every other one is made ready by the step before it.

    Raises:
        RunnerError: its data could not be loaded on some rank.
    """
    ranks = trainer.run.ranks
    with ranks.together():  # data may be damaged, or a worker killed, for one rank only
        loaded = _next(trainer, feed)
    return None if loaded is None else _ready(loaded, ranks.sum_counts(list(loaded.counts.values())))


def train_step(trainer: Trainer, step: ReadyStep, feed: Iterator[LoadedStep]) -> StepDone:
    """Trains one task on this rank's micro-batches of one global batch, together with all other ranks.

    While the device works on it, the next step is loaded, and the one before is checked: nothing waits for the device.
    The ranks exchange one message: whether one could not load or is to stop, whether the step before was finite, which
    parameters had a gradient, and the counts of the next step.

    Raises:
        NonFiniteLossError: the step before this one was not finite; ``check_finite`` checks the last one.
        ConfigError: the step does not fit into the accelerator's memory.
        RunnerError: the data of the next step could not be loaded on some rank.
    """
    run, planned = trainer.run, step.loaded.planned
    rate = trainer.schedule(planned.position)
    view = _view(trainer, step, rate)
    with run.ranks.announcing(), _out_of_memory_explained(run.experiment.train):
        losses, whole = _backward(trainer, step, view)
    failure: Exception | None = None
    loaded: LoadedStep | None = None
    try:
        loaded = _next(trainer, feed)
    except Exception as error:
        failure = error
    before, trainer.unchecked = trainer.unchecked, None
    wrong = _wrong_losses(before)
    message = [float(failure is not None), float(bool(trainer.stop)), float(bool(wrong))]
    used = trainer.model.used()
    counts = [0.0] * trainer.most_losses  # of one length on all ranks, loaded or not
    if loaded is not None:
        counts[: len(loaded.counts)] = loaded.counts.values()
    failed, stop, any_wrong, *rest = run.ranks.sum_counts([*message, *used, *counts])
    if failed:
        run.ranks.raise_together(failure)
    _judge(trainer, before, wrong, bool(any_wrong))
    trainer.model.drop_unused(rest[: len(used)])
    set_learning_rate(trainer.optimizer, rate)
    with run.ranks.announcing(), _out_of_memory_explained(run.experiment.train):
        trainer.drop_frozen(planned.position)
        norm = _update(trainer, view)
        if trainer.average is not None:
            trainer.average.update(planned.position)
        if whole is not None:
            run.tasks[planned.task_index].task.after_update(whole.rows, view)
        for callback in trainer.callbacks:
            callback.after_update(view)
        totals, counts_of = zip(*view.reported.values(), strict=True) if view.reported else ((), ())
        numbers = Arriving(torch.stack([*losses.values(), norm.to(next(iter(losses.values()))), *totals, *counts_of]))
    trainer.unchecked = StepRecord(
        planned.position + 1,
        view.task,
        planned.epoch + 1,
        tuple(losses),
        rate,
        step.loaded.ids,
        numbers,
        tuple(view.reported),
    )
    following = None if loaded is None else _ready(loaded, rest[len(used) :])
    return StepDone(trainer.unchecked, following, bool(stop))


def check_finite(trainer: Trainer) -> None:
    """Checks the last step if nobody has yet; called on all ranks together.

    Raises:
        NonFiniteLossError: a loss or a gradient is infinite or not a number; names step, task and example ids.
    """
    record, trainer.unchecked = trainer.unchecked, None
    if record is not None:
        wrong = _wrong_losses(record)
        _judge(trainer, record, wrong, trainer.run.ranks.any(bool(wrong)))


def _next(trainer: Trainer, feed: Iterator[LoadedStep]) -> LoadedStep | None:
    """The next step of a segment, for which the device needs memory, too."""
    with _out_of_memory_explained(trainer.run.experiment.train):
        return next(feed, None)


def _wrong_losses(record: StepRecord | None) -> dict[str, float]:
    """This rank's part of the losses that is not finite."""
    if record is None:
        return {}
    parts = zip(record.losses, record.numbers.values(), strict=False)  # the norm comes last
    return {name: value for name, value in parts if not math.isfinite(value)}


def _judge(trainer: Trainer, record: StepRecord | None, wrong: Mapping[str, float], any_wrong: bool) -> None:
    """Raises NonFiniteLossError on all ranks if a step went wrong on any: ``any_wrong``, or the norm, which all share.

    fp16 raises the loss scale until gradients overflow, then skips that step; so there the norm alone is no reason.
    """
    if record is None:
        return
    norm = record.numbers.values()[len(record.losses)]
    if not any_wrong and (trainer.scaler.is_enabled() or math.isfinite(norm)):
        return
    ranks = trainer.run.ranks
    blamed = record.ids if wrong or not any_wrong else []
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


def _ready(loaded: LoadedStep, totals: Sequence[float]) -> ReadyStep:
    """A loaded step with the counts of all ranks; a loss without any item is divided by 1."""
    return ReadyStep(loaded, {name: total or 1.0 for name, total in zip(loaded.counts, totals, strict=False)})


def _view(trainer: Trainer, step: ReadyStep, rate: float) -> StepView:
    """The step as its task and the callbacks see it."""
    run, planned = trainer.run, step.loaded.planned
    return StepView(
        run.model,
        run.tasks[planned.task_index].name,
        trainer.model,
        run.autocast,
        trainer.companions[planned.task_index],
        planned.position,
        planned.position // trainer.mix.steps_per_epoch,
        rate,
    )


def _backward(trainer: Trainer, step: ReadyStep, view: StepView) -> tuple[dict[str, Tensor], BatchLoss | None]:
    """Adds the gradients of all micro-batches of all ranks.

    Returns:
        This rank's part of each named loss, and the losses of the global batch, if the task has such.
    """
    model, planned = trainer.model, step.loaded.planned
    task_run, micro_batches = trainer.run.tasks[planned.task_index], step.loaded.micro_batches
    passes = dict(zip(task_run.plan.own_passes, micro_batches, strict=True))
    model.clear()
    trainer.copies.wait(micro_batches)
    is_whole = has_batch_loss(task_run.task)
    whole = _rehearsed(trainer, step, view, passes) if is_whole and len(passes) > 1 else None
    parts: dict[str, Tensor] = {}
    for number, batch in passes.items():
        with model.accumulating(more=batch is not micro_batches[-1]):
            outputs = _outputs(trainer, step, view, number, batch)
            sums = task_run.task.loss(outputs, batch.targets)
            losses = {name: value * (task_run.config.loss_weight / step.counts[name]) for name, value in sums.items()}
            terms = list(losses.values())
            if is_whole:
                rows = task_run.task.shared_rows(outputs, batch.targets)
                if whole is None:
                    whole = _whole(trainer, step, view, {number: Share(len(batch.ids), rows)})
                pulled = whole.pulled(number, rows, is_first=batch is micro_batches[0])
                terms += [] if pulled is None else [pulled]
            model.backward(trainer.scaler.scale(torch.stack(terms).sum()))
        for name, value in losses.items():
            part = _wide(value.detach())
            parts[name] = parts[name] + part if name in parts else part
    return ({**parts, **whole.losses} if whole is not None else parts), whole


def _wide(loss: Tensor) -> Tensor:
    """A loss in float64, in which the sum over passes and ranks is the same in any order; where the device has it."""
    return loss if loss.device.type == "mps" else loss.double()


def _outputs(trainer: Trainer, step: ReadyStep, view: StepView, number: int, batch: Batch) -> Any:
    """What the loss of a pass is computed of."""
    planned = step.loaded.planned
    # dropout is addressed too: a resumed run draws what the unbroken one would have drawn
    torch.manual_seed(derive_seed(trainer.run.experiment.seed, "step", planned.position, number))
    return trainer.run.tasks[planned.task_index].task.training_outputs(batch, view)


def _rehearsed(trainer: Trainer, step: ReadyStep, view: StepView, passes: Mapping[int, Batch]) -> BatchLoss:
    """The losses of the global batch where this rank cannot hold all of its passes: they are made twice."""
    task, own = trainer.run.tasks[step.loaded.planned.task_index].task, {}
    with view.rehearsed():
        for number, batch in passes.items():
            outputs = _outputs(trainer, step, view, number, batch)
            own[number] = Share(len(batch.ids), task.shared_rows(outputs, batch.targets))
    return _whole(trainer, step, view, own)


def _whole(trainer: Trainer, step: ReadyStep, view: StepView, own: Mapping[int, Share]) -> BatchLoss:
    """The losses of the global batch, of which this rank has the rows of some passes."""
    run, planned = trainer.run, step.loaded.planned
    task_run = run.tasks[planned.task_index]
    seed = derive_seed(run.experiment.seed, "batch loss", planned.position)
    return batch_loss(task_run.task, view, run.ranks, own, task_run.plan.passes, seed, task_run.config.loss_weight)


def _update(trainer: Trainer, view: StepView) -> Tensor:
    """Clips the gradients and steps; returns their norm before clipping."""
    trainer.scaler.unscale_(trainer.optimizer)
    for callback in trainer.callbacks:
        callback.after_backward(view)
    for name, parameters in trainer.reported_parts:
        view.report(f"gradient norm/{name}", gradient_norm(parameters))
    norm = clip_gradients(trainer.run.model.parameters(), trainer.run.experiment.train.max_grad_norm)
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
            "train.precision=bf16; features.residency=host leaves it the room that region features may take. "
            f"{str(error).splitlines()[0]}"
        ) from error
