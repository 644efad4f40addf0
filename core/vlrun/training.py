"""Training, from the first step to the last: when the rate changes, when a checkpoint is written, who evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vlrun.assembly import Run, TaskRun
from vlrun.checkpoints import Checkpoints, Progress
from vlrun.errors import CheckpointError, ConfigError, DataError, StoppedOnRequest
from vlrun.evaluation import evaluate_split
from vlrun.evaluation_history import EvaluationHistory
from vlrun.loading import TrainingPlan, batch_loader
from vlrun.optimisation import Schedule, build_optimizer, build_schedule, clip_gradients, set_learning_rate
from vlrun.probe import batch_problems, shared_memory_problem
from vlrun.seeds import derive_seed
from vlrun.step_window import StepWindow
from vlrun.stopping import StopRequest
from vlrun.tensors import Batch, in_full_precision
from vlrun.train_config import TrainConfig


@dataclass
class Trainer:
    """What training adds to a run: order, optimiser, schedule, checkpoints, and where it reports."""

    run: Run
    task: TaskRun
    plan: TrainingPlan
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    checkpoints: Checkpoints
    evaluations: EvaluationHistory
    window: StepWindow
    stop: StopRequest
    profiler: Any = None

    @property
    def total_steps(self) -> int:
        return self.plan.steps_per_epoch * self.run.experiment.train.epochs


def build_trainer(run: Run, stop: StopRequest) -> Trainer:
    """Everything that training needs.

    Raises:
        ConfigError: the batch size does not fit the number of processes or of examples.
    """
    config, ranks, task = run.experiment.train, run.ranks, run.tasks[0]
    assert task.train is not None
    plan = TrainingPlan(
        len(task.train),
        config.batch_size,
        run.experiment.seed,
        config.order_seed,
        config.drop_last,
        ranks.rank,
        ranks.world_size,
        config.accumulate,
    )
    if config.batch_size < ranks.world_size * config.accumulate or not plan.steps_per_epoch:
        raise ConfigError(
            f"train.batch_size {config.batch_size}: {plan.num_examples} examples, {ranks.world_size} processes and "
            f"{config.accumulate} forward passes a step leave nothing to train on"
        )
    schedule = build_schedule(config.schedule, config.learning_rate, plan.steps_per_epoch, config.epochs)
    total_steps = plan.steps_per_epoch * config.epochs
    return Trainer(
        run=run,
        task=task,
        plan=plan,
        optimizer=build_optimizer(config.optimizer, run.model.named_parameters()),
        schedule=schedule,
        scaler=torch.amp.GradScaler(run.device.type, enabled=config.precision == "fp16"),
        checkpoints=Checkpoints(run.folder.checkpoints),
        evaluations=EvaluationHistory(run.folder.evaluations),
        window=StepWindow(
            run.reporters, ranks, plan.steps_per_epoch, total_steps, checks_norm=config.precision != "fp16"
        ),
        stop=stop,
    )


def train(trainer: Trainer) -> None:
    """Trains from ``run.step`` to the end: epochs, each followed by a checkpoint and, when due, an evaluation."""
    run = trainer.run
    while True:
        if _evaluation_is_due(trainer):
            _evaluate_and_choose_best(trainer)
        if run.step >= trainer.total_steps:
            return
        epoch, first_step = divmod(run.step, trainer.plan.steps_per_epoch)
        train_epoch(trainer, epoch, first_step)


def train_epoch(trainer: Trainer, epoch: int, first_step: int = 0) -> None:
    """The steps of an epoch from ``first_step`` on, and a checkpoint at the end.

    Raises:
        StoppedOnRequest: a signal asked for it; a checkpoint was written.
        NonFiniteLossError: with the ids of the batch.
    """
    run, config = trainer.run, trainer.run.experiment.train
    trainer.task.task.start_epoch(epoch)
    run.model.train()
    trainer.window.restart()
    for micro_batches in _steps(trainer, epoch, first_step):
        counts, stop_now = _agree(trainer, micro_batches)
        rate = trainer.schedule(run.step)
        set_learning_rate(trainer.optimizer, rate)
        # dropout is addressed too: a resumed run draws what the unbroken one would have drawn
        torch.manual_seed(derive_seed(run.experiment.seed, "step", run.step, run.ranks.rank))
        with _out_of_memory_explained(config):
            losses = _backward(trainer, micro_batches, counts)
            norm = _update(trainer)
        run.step += 1
        trainer.window.add(run.step, trainer.task.name, losses, rate, norm, _ids(micro_batches))
        if trainer.profiler is not None:
            trainer.profiler.step()
        if run.step % config.log_every == 0:
            trainer.window.report()
        if stop_now:
            save_checkpoint(trainer)
            raise StoppedOnRequest(f"stopped on request after step {run.step}; run again with --resume to continue")
        if config.checkpoint_every and run.step % config.checkpoint_every == 0:
            save_checkpoint(trainer)
    save_checkpoint(trainer)


def _steps(trainer: Trainer, epoch: int, first_step: int) -> Iterator[list[Batch]]:
    """This rank's micro-batches of each step, ``accumulate`` at a time."""
    run = trainer.run
    loader = batch_loader(
        _maker(trainer.task),
        trainer.plan.micro_batches(epoch, first_step),
        workers=run.workers,
        pin_memory=run.device.type == "cuda",
        timeout_seconds=run.experiment.train.distributed_timeout,
    )
    batches = iter(trainer.window.timed(loader))
    while micro_batches := list(islice(batches, trainer.plan.accumulate)):
        yield micro_batches


def _agree(trainer: Trainer, micro_batches: Sequence[Batch]) -> tuple[dict[str, float], bool]:
    """The counts by which this step's losses are divided, over all ranks, and whether any rank was asked to stop."""
    task, ranks = trainer.task.task, trainer.run.ranks
    per_batch = [task.loss_counts(batch.targets) for batch in micro_batches]
    names = sorted(per_batch[0])
    local = [sum(float(counts[name]) for counts in per_batch) for name in names]
    *totals, votes = ranks.sum_counts([*local, float(bool(trainer.stop))])
    return {name: total or 1.0 for name, total in zip(names, totals, strict=True)}, votes > 0


def _backward(trainer: Trainer, micro_batches: Sequence[Batch], counts: Mapping[str, float]) -> dict[str, Tensor]:
    """Adds the gradients of all micro-batches; returns this rank's part of each named loss."""
    run, task = trainer.run, trainer.task
    trainer.optimizer.zero_grad(set_to_none=True)
    parts: dict[str, Tensor] = {}
    for batch in micro_batches:
        on_device = batch.to(run.device)
        with run.autocast():
            outputs = run.model(task.name, on_device.encoding)
        sums = task.task.loss(in_full_precision(outputs), on_device.targets)
        losses = {name: value * (task.loss_weight / counts[name]) for name, value in sums.items()}
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
    """
    Raises:
        ConfigError: the step does not fit into the accelerator's memory; says what makes it fit.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"train.batch_size {config.batch_size}: a step does not fit into the memory of the GPU. Raise "
            f"train.accumulate (now {config.accumulate}; the gradient stays the same) or use train.precision=bf16. "
            f"{str(error).splitlines()[0]}"
        ) from error


def _evaluation_is_due(trainer: Trainer) -> bool:
    """Whether an epoch has just ended that has to be evaluated and has not been."""
    run, config = trainer.run, trainer.run.experiment.train
    epochs_done, rest = divmod(run.step, trainer.plan.steps_per_epoch)
    if rest or not epochs_done or trainer.evaluations.has(run.step):
        return False
    return epochs_done % config.evaluate_every == 0 or epochs_done == config.epochs


def _evaluate_and_choose_best(trainer: Trainer) -> None:
    """Scores the first split of each task; the best checkpoint is the one with the best primary score of the first."""
    run = trainer.run
    epoch = run.step // trainer.plan.steps_per_epoch
    for task in run.tasks:
        split = next(iter(task.splits))
        scores = evaluate_split(run, task, split, epoch=epoch, stop=trainer.stop)
        trainer.evaluations.add(run.step, task.name, split, scores)
    if run.ranks.is_main:
        trainer.evaluations.write()
        best_step = trainer.evaluations.best_step(run.tasks[0].name)
        trainer.checkpoints.mark_best(best_step)
        trainer.checkpoints.prune(run.experiment.train.keep_checkpoints)
    run.ranks.barrier()


def save_checkpoint(trainer: Trainer) -> None:
    """Reports what is pending, then writes weights, optimiser and progress; the main rank writes, all wait for it."""
    run = trainer.run
    trainer.window.report()  # a loss that is not finite must not reach a checkpoint

    def write() -> None:
        progress = Progress(run.step, run.identity(), trainer.scaler.state_dict())
        trainer.checkpoints.save(progress, run.model, trainer.optimizer)
        trainer.checkpoints.prune(run.experiment.train.keep_checkpoints)
        run.folder.write_status(step=run.step, total_steps=trainer.total_steps)

    run.ranks.from_main(write)
    trainer.window.restart()


def resume(trainer: Trainer) -> bool:
    """Continues from the newest undamaged checkpoint of the run folder; False if there is none.

    Raises:
        CheckpointError: it was written with another vocabulary or model.
    """
    run = trainer.run
    checkpoint, refused = run.ranks.from_main(trainer.checkpoints.newest)
    for reason in refused:
        run.reporters.note(f"{reason}; the one before is used")
    if checkpoint is None:
        return False
    if checkpoint.progress.identity != run.identity():
        raise CheckpointError(
            f"{checkpoint.path} was written with {checkpoint.progress.identity}, this run has {run.identity()}"
        )
    checkpoint.load_model(run.model)
    checkpoint.load_optimizer(trainer.optimizer, run.model)
    if checkpoint.progress.scaler:
        trainer.scaler.load_state_dict(dict(checkpoint.progress.scaler))
    run.step = checkpoint.progress.step
    trainer.evaluations.read(up_to=run.step)
    return True


def check_first_batch(trainer: Trainer) -> None:
    """Looks at the first batch of every rank before anything is trained.

    Raises:
        DataError: inputs that teach nothing, with their ids.
        ConfigError: the batches of all workers do not fit into shared memory.
    """
    run, maker = trainer.run, _maker(trainer.task)
    addresses = next(trainer.plan.micro_batches(run.step // trainer.plan.steps_per_epoch))
    examples, pairs = maker.pairs(addresses)
    regions = maker.regions(pairs)
    batch = maker.batch(examples, pairs, regions)
    pair_ids = [example.id for example, own in zip(examples, pairs, strict=True) for _ in own]
    texts = [pair.text for own in pairs for pair in own]
    problems = run.ranks.gather(batch_problems(pair_ids, texts, regions, batch))
    if problems:
        raise DataError(["the first batch cannot be trained on:", *dict.fromkeys(problems)])
    shortages = run.ranks.gather([shared_memory_problem(batch, run.workers)])
    if shortage := next((found for found in shortages if found), None):
        raise ConfigError(shortage)


def load_final_weights(trainer: Trainer) -> str:
    """Puts the chosen checkpoint into the model; returns how results call it."""
    run = trainer.run
    choice = run.experiment.train.final_checkpoint
    checkpoint = run.ranks.from_main(
        trainer.checkpoints.best if choice == "best" else lambda: trainer.checkpoints.newest()[0]
    )
    if checkpoint is None:
        return "as built"
    checkpoint.load_model(run.model)
    split = next(iter(run.tasks[0].splits))
    chosen = f"best on {split}" if choice == "best" else "last"
    return f"{chosen} (step {checkpoint.progress.step})"


def _maker(task: TaskRun) -> Any:
    assert task.train is not None
    return task.train


def _ids(batches: Sequence[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]


__all__ = ["Trainer", "build_trainer", "check_first_batch", "load_final_weights", "resume", "save_checkpoint", "train"]
