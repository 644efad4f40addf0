"""Training, from the first step to the last: when the rate changes, when a checkpoint is written, who evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor

from vlrun.config.train import TrainConfig
from vlrun.data.first_batch import batch_problems, shared_memory_problem
from vlrun.data.loading import JointBatchMaker, batch_loader
from vlrun.engine.assembly import TaskRun
from vlrun.engine.checkpoints import Progress
from vlrun.engine.evaluation import evaluate_split
from vlrun.engine.mixing import PlannedStep
from vlrun.engine.optimisation import clip_gradients, set_learning_rate
from vlrun.engine.trainer import Trainer
from vlrun.errors import ConfigError, DataError, StoppedOnRequest
from vlrun.interfaces.tensors import Batch, in_full_precision
from vlrun.seeds import derive_seed


def train(trainer: Trainer) -> None:
    """Trains from ``run.step`` to the end: epochs, each followed by a checkpoint and, when due, an evaluation."""
    run, per_epoch = trainer.run, trainer.mix.steps_per_epoch
    while True:
        if _evaluation_is_due(trainer):
            _evaluate_and_choose_best(trainer)
        if run.step >= trainer.total_steps:
            return
        active = trainer.active(run.step // per_epoch)
        if not any(active[-1]):
            run.reporters.note("every task has stopped improving; training ends here")
            return
        _note_pauses(trainer, active)
        train_epoch(trainer, active)


def train_epoch(trainer: Trainer, active: Sequence[Sequence[bool]]) -> None:
    """The steps of a joint epoch from ``run.step`` on, and a checkpoint at the end.

    Args:
        active: for this epoch and each before it, which tasks train.

    Raises:
        StoppedOnRequest: a signal asked for it; a checkpoint was written.
        NonFiniteLossError: with the ids of the batch.
    """
    run, config = trainer.run, trainer.run.experiment.train
    epoch = len(active) - 1
    planned = [step for step in trainer.mix.steps(epoch, active) if step.position >= run.step]
    run.model.train()
    trainer.window.restart()
    for step, micro_batches in _steps(trainer, planned):
        task = trainer.tasks[step.task].run
        counts, stop_now = _agree(trainer, task, step, micro_batches)
        rate = trainer.schedule(step.position)
        set_learning_rate(trainer.optimizer, rate)
        with _out_of_memory_explained(config):
            losses = _backward(trainer, task, step, micro_batches, counts)
            norm = _update(trainer)
        run.step = step.position + 1
        trainer.window.add(run.step, task.name, step.epoch + 1, losses, rate, norm, _ids(micro_batches))
        if trainer.profiler is not None:
            trainer.profiler.step()
        if run.step % config.log_every == 0:
            trainer.window.report()
        if stop_now:
            save_checkpoint(trainer)
            raise StoppedOnRequest(f"stopped on request after step {run.step}; run again with --resume to continue")
        if config.checkpoint_every and run.step % config.checkpoint_every == 0:
            save_checkpoint(trainer)
    run.step = (epoch + 1) * trainer.mix.steps_per_epoch  # past the places of paused tasks
    save_checkpoint(trainer)


def _steps(trainer: Trainer, planned: Sequence[PlannedStep]) -> Iterator[tuple[PlannedStep, list[Batch]]]:
    """Each planned step with this rank's micro-batches.

    A task is told when an epoch of its own starts, before batches of it are made; so there the loader starts anew.
    """
    run = trainer.run
    for segment in _segments(planned):
        for task, epoch in {step.task: step.epoch for step in segment}.items():
            try:
                trainer.start_epoch(task, epoch)
            except StoppedOnRequest:  # while it was mining
                save_checkpoint(trainer)
                raise
        loader = batch_loader(
            JointBatchMaker([task.maker for task in trainer.tasks]),
            (  # made while they are asked for: the addresses of a million examples take hundreds of megabytes
                [(step.task, address) for address in micro_batch]
                for step in segment
                for micro_batch in trainer.tasks[step.task].plan.micro_batches(step.epoch, step.step)
            ),
            workers=run.workers,
            pin_memory=run.device.type == "cuda",
            timeout_seconds=run.experiment.train.distributed_timeout,
        )
        batches = iter(trainer.window.timed(loader))
        for step in segment:
            yield step, list(islice(batches, trainer.tasks[step.task].plan.passes))


def _segments(planned: Sequence[PlannedStep]) -> Iterator[list[PlannedStep]]:
    """Runs of steps; a new one starts with every task's own epoch, so that what starts with it has its step, too."""
    segment: list[PlannedStep] = []
    for step in planned:
        if segment and step.step == 0:
            yield segment
            segment = []
        segment.append(step)
    if segment:
        yield segment


def _agree(
    trainer: Trainer, task: TaskRun, step: PlannedStep, micro_batches: Sequence[Batch]
) -> tuple[dict[str, float], bool]:
    """The counts by which this step's losses are divided, over all ranks, and whether any rank was asked to stop.

    Raises:
        DistributedError: the ranks are about to train different tasks.
    """
    ranks = trainer.run.ranks
    if len(trainer.tasks) > 1:
        ranks.check_agreement(task.name, f"the task of step {step.position + 1}")
    per_batch = [task.task.loss_counts(batch.targets) for batch in micro_batches]
    names = sorted(per_batch[0])
    local = [sum(float(counts[name]) for counts in per_batch) for name in names]
    *totals, votes = ranks.sum_counts([*local, float(bool(trainer.stop))])
    return {name: total or 1.0 for name, total in zip(names, totals, strict=True)}, votes > 0


def _backward(
    trainer: Trainer, task: TaskRun, step: PlannedStep, micro_batches: Sequence[Batch], counts: Mapping[str, float]
) -> dict[str, Tensor]:
    """Adds the gradients of all micro-batches; returns this rank's part of each named loss."""
    run = trainer.run
    trainer.optimizer.zero_grad(set_to_none=True)
    parts: dict[str, Tensor] = {}
    first = run.ranks.rank * len(micro_batches)
    for number, batch in enumerate(micro_batches, first):
        # dropout is addressed too: a resumed run draws what the unbroken one would have drawn
        torch.manual_seed(derive_seed(run.experiment.seed, "step", step.position, number))
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
    epochs_done, rest = divmod(run.step, trainer.mix.steps_per_epoch)
    if rest or not epochs_done or trainer.evaluations.has(run.step):
        return False
    return epochs_done % config.evaluate_every == 0 or epochs_done == config.epochs


def _evaluate_and_choose_best(trainer: Trainer) -> None:
    """Scores the first split of each task and marks the best checkpoints: of each task, and by the mean of all."""
    run = trainer.run
    epoch = run.step // trainer.mix.steps_per_epoch
    for task in run.tasks:
        split = next(iter(task.splits))
        scores = evaluate_split(run, task, split, epoch=epoch, stop=trainer.stop)
        trainer.evaluations.add(run.step, task.name, split, scores)
    if run.ranks.is_main:
        trainer.evaluations.write()
        names = [task.name for task in run.tasks]
        trainer.checkpoints.mark_best(trainer.evaluations.best_step(names))
        if len(names) > 1:
            for name in names:
                trainer.checkpoints.mark_best(trainer.evaluations.best_step([name]), name)
        trainer.checkpoints.prune(run.experiment.train.keep_checkpoints)
    run.ranks.barrier()


def _note_pauses(trainer: Trainer, active: Sequence[Sequence[bool]]) -> None:
    """Says which tasks pause or go on from this epoch on."""
    before = active[-2] if len(active) > 1 else [True] * len(trainer.tasks)
    for task, was, now in zip(trainer.tasks, before, active[-1], strict=True):
        if was != now:
            why = "goes on: its score has fallen back" if now else "pauses: its score has stopped improving"
            trainer.run.reporters.note(f"epoch {len(active)}: task {task.run.name} {why}")


def save_checkpoint(trainer: Trainer) -> None:
    """Reports what is pending, then writes weights, optimiser and progress; the main rank writes, all wait for it."""
    run = trainer.run
    trainer.window.report()  # a loss that is not finite must not reach a checkpoint

    def write() -> None:
        progress = Progress(run.step, run.identity(), trainer.scaler.state_dict())
        trainer.checkpoints.save(progress, run.model, trainer.optimizer, run.head_meanings())
        trainer.checkpoints.prune(run.experiment.train.keep_checkpoints)
        run.folder.write_status(step=run.step, total_steps=trainer.total_steps)

    run.ranks.from_main(write)
    trainer.window.restart()


def resume(trainer: Trainer) -> bool:
    """Continues from the newest undamaged checkpoint of the run folder; False if there is none.

    Raises:
        CheckpointError: it was written with another vocabulary, model or meaning of a head.
    """
    run = trainer.run
    checkpoint, refused = run.ranks.from_main(trainer.checkpoints.newest)
    for reason in refused:
        run.reporters.note(f"{reason}; the one before is used")
    if checkpoint is None:
        return False
    run.check_checkpoint(checkpoint)
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
    run = trainer.run
    problems, shortages = [], []
    for task in trainer.tasks:
        maker = task.maker
        addresses = task.plan.micro_batches(0, 0)[0]
        examples, pairs = maker.pairs(addresses)
        regions = maker.regions(pairs)
        batch = maker.batch(addresses, examples, pairs, regions)
        pair_ids = [example.id for example, own in zip(examples, pairs, strict=True) for _ in own]
        texts = [pair.text for own in pairs for pair in own]
        problems += batch_problems(pair_ids, texts, regions, batch)
        shortages.append(shared_memory_problem(batch, run.workers))
    if problems := run.ranks.gather(problems):
        raise DataError(["the first batch cannot be trained on:", *dict.fromkeys(problems)])
    if shortage := next((found for found in run.ranks.gather(shortages) if found), None):
        raise ConfigError(shortage)


def load_final_weights(trainer: Trainer, task: TaskRun) -> str:
    """Puts the checkpoint that was chosen for ``task`` into the model; returns how results call it."""
    run, checkpoints = trainer.run, trainer.checkpoints
    choice = run.experiment.train.final_checkpoint
    choose = {
        "best": lambda: checkpoints.best(task.name),
        "best-mean": checkpoints.best,
        "last": lambda: checkpoints.newest()[0],
    }[choice]
    checkpoint = run.ranks.from_main(choose)
    if checkpoint is None:
        return "as built"
    checkpoint.load_model(run.model)
    chosen = {
        "best": f"best on {next(iter(task.splits))}",
        "best-mean": "best by the mean over tasks",
        "last": "last",
    }[choice]
    return f"{chosen} (step {checkpoint.progress.step})"


def _ids(batches: Sequence[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.ids]
