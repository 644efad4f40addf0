"""Looks at batches before the first step: what teaches nothing, or does not fit into memory, is said at the start."""

from __future__ import annotations

from collections.abc import Sequence

from vlrun.data.first_batch import batch_problems, outline_if_possible, shared_memory_problem
from vlrun.engine.global_batch import has_batch_loss
from vlrun.engine.ranks import local_world_size
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.trainer import Trainer
from vlrun.errors import ConfigError, DataError
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch


def check_first_batch(trainer: Trainer) -> None:
    """Checks the first training batch of every rank, and that a task learns from anything; called on all together.

    Raises:
        DataError: inputs from which nothing can be learned, with their ids; or no example teaches anything.
        ConfigError: the workers' batches do not fit into shared memory.
    """
    run = trainer.run
    problems, shortages, batches = [], [], []
    with run.ranks.together():
        for task_run in run.tasks:
            maker = task_run.training
            addresses = task_run.plan.batches(0, 0)[0]
            examples, pairs = maker.pairs(addresses)
            regions = maker.regions(pairs)
            batch = maker.batch(addresses, examples, pairs, regions)
            pair_ids = [example.id for example, own_pairs in zip(examples, pairs, strict=True) for _ in own_pairs]
            texts = [pair.text for own_pairs in pairs for pair in own_pairs]
            problems += batch_problems(pair_ids, texts, regions, batch)
            trainer.most_losses = max(trainer.most_losses, len(task_run.task.loss_counts(batch.targets)))
            sent = maker.outlined(examples, pairs) if maker.outlines else batch
            shortages.append(shared_memory_problem(sent, run.workers, local_world_size()))
            batches.append(batch)
    if problems := run.ranks.gather(problems):
        with run.ranks.together():
            raise DataError(["the first batch cannot be trained on:", *dict.fromkeys(problems)])
    _raise_shortage(run, shortages)
    for task_run, batch in zip(run.tasks, batches, strict=True):
        if not has_batch_loss(task_run.task):  # such losses count nothing
            _check_that_it_learns(run, task_run, batch)


def check_evaluation_batches(run: Run, tasks: Sequence[TaskRun]) -> None:
    """Checks that the workers' evaluation batches, often larger than those of training, fit into shared memory.

    Of those tasks whose splits are predicted example by example; called on all ranks together.

    Raises:
        ConfigError: they do not.
    """
    if not run.workers:
        return
    shortages = []
    with run.ranks.together():
        for task_run in tasks:
            if type(task_run.task).evaluate is not Task.evaluate:
                continue
            for maker in task_run.splits.values():
                size = min(run.experiment.train.evaluate_batch_size, len(maker))
                addresses = [(0, position) for position in range(size)]
                outline_if_possible(task_run.name, maker, addresses, run.residency)
                batch = maker.sent(addresses)
                shortages.append(
                    shared_memory_problem(batch, run.workers, local_world_size(), option="train.evaluate_batch_size")
                )
    _raise_shortage(run, shortages)


def _check_that_it_learns(run: Run, task_run: TaskRun, batch: Batch) -> None:
    """Goes on to further batches of the first epoch only where the ones before teach nothing, whoever has them."""
    for step in range(task_run.plan.steps_per_epoch):
        with run.ranks.together():
            made = [task_run.training.made(part) for part in task_run.plan.batches(0, step)] if step else [batch]
            counts = [float(count) for each in made for count in task_run.task.loss_counts(each.targets).values()]
        if run.ranks.sum_counts([sum(counts)])[0] > 0:
            return
    with run.ranks.together():
        raise DataError(
            f"task '{task_run.name}': there is nothing to learn: in none of the {task_run.plan.num_examples:,} "
            "training examples does a loss count anything. Are the answers known, and do the boxes of the annotations "
            "and of the region features belong to the same pictures, in the same units?"
        )


def _raise_shortage(run: Run, shortages: list[str | None]) -> None:
    if shortage := next(filter(None, run.ranks.gather(shortages)), None):
        with run.ranks.together():
            raise ConfigError(shortage)
