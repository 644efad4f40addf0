"""The facts that a run states before its first step: backbone, weights, data, devices and recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from vlrun.cpus import usable_cpus
from vlrun.engine.precision import precision_name
from vlrun.engine.ranks import device_name
from vlrun.engine.run import Run, TaskRun
from vlrun.reporting.options import shown

if TYPE_CHECKING:
    from vlrun.engine.trainer import Trainer


def header_facts(run: Run, trainer: Trainer | None) -> list[tuple[str, str]]:
    """Labelled lines for the header of a run, in reading order."""
    experiment = run.experiment
    parameters = sum(parameter.numel() for parameter in run.model.backbone.parameters())
    facts = [("backbone", f"{experiment.backbone.name}, {parameters / 1e6:.1f} M parameters, {_weights(run)}")]
    if run.weights is not None:
        facts += [("weights", line) for line in run.weights.lines()]
    for task_run in run.tasks:
        facts += _task_facts(task_run)
    facts += [("data", note) for note in run.data_notes]
    facts.append(("devices", _devices(run)))
    facts += _features(run)
    if trainer is not None:
        facts += _recipe(run, trainer)
    return facts


def _weights(run: Run) -> str:
    return "random weights" if run.weights is None else f"weights {run.experiment.backbone.weights}"


def _task_facts(task_run: TaskRun) -> list[tuple[str, str]]:
    sizes = [f"{name} {len(maker):,}" for name, maker in task_run.splits.items()]
    if task_run.train is not None:
        sizes.insert(0, f"training on {task_run.train.dataset.split} {len(task_run.train):,}")
    facts = [("task", f"{task_run.name}: {'; '.join(sizes)} examples")]
    if task_run.hidden:
        hidden = ", ".join(task_run.hidden)
        facts.append(("task", f"{task_run.name}: the ground truth of {hidden} is hidden: predicted, not scored"))
    if task_run.train is not None and task_run.validation_split is None:
        facts.append(("task", f"{task_run.name}: nothing is scored between epochs; the last checkpoint counts"))
    facts += task_run.task.describe_splits({name: maker.dataset for name, maker in task_run.splits.items()})
    return facts + [("images", line) for line in task_run.coverage.table()]


def _devices(run: Run) -> str:
    world_size = run.ranks.world_size
    processes = f"{world_size} process{'es' if world_size > 1 else ''}"
    if run.device.type == "cpu":
        return f"{processes} on the CPU, {torch.get_num_threads()} of {usable_cpus()} cores each"
    return f"{processes}, one {device_name(run.device)} each"


def _features(run: Run) -> list[tuple[str, str]]:
    """Where region features are."""
    residency = run.residency
    where = {
        "device": "in the memory of each device",
        "host": "in the memory of the host, where each process reads its batches",
        "workers": "read from the disk by loader workers" if run.workers else "read from the disk",
    }[residency.place]
    lines = [f"{where}: {residency.why}" if residency.why else where]
    kept = residency.kept_with_workers.items()
    lines += [f"{task}: its batches take them along, for {reason}" for task, reason in kept]
    return [("features", line) for line in lines]


def _workers(count: int) -> str:
    return f"made by {count} loader worker{'s' if count > 1 else ''} a process" if count else "made without workers"


def _recipe(run: Run, trainer: Trainer) -> list[tuple[str, str]]:
    """The effective recipe: what the options of the file come to with these data."""
    config, rate = run.experiment.train, trainer.schedule
    total, per_epoch = trainer.total_steps, trainer.mix.steps_per_epoch
    rates = [rate(step) for step in range(total)]
    options = config.optimizer.model_dump(exclude={"name", "weight_decay"}).items()
    return [
        *(("batch", _batch(run, task_run)) for task_run in run.tasks),
        ("steps", f"{total:,}: {per_epoch:,} an epoch for {config.epochs} epoch{'s' if config.epochs > 1 else ''}"),
        *_mix(trainer),
        (
            "learning rate",
            f"{rates[0]:.3g} first, {max(rates):.3g} peak, {rates[-1]:.3g} last ({config.schedule.name})",
        ),
        (
            "optimizer",
            ", ".join([config.optimizer.name, *(f"{name} {_number(value)}" for name, value in options)])
            + f", weight decay {config.optimizer.weight_decay:g}, gradient norm at most {config.max_grad_norm}",
        ),
        *trainer.parameters.facts(),
        ("seed", f"{run.experiment.seed}"),
    ]


def _number(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(map(_number, value))
    return f"{value:g}" if isinstance(value, float) else shown(value)


def _batch(run: Run, task_run: TaskRun) -> str:
    passes = task_run.plan.passes
    spread = f"in {passes} forward passes" if passes > 1 else "one pass"
    whose = f"{task_run.name}: " if len(run.tasks) > 1 else ""
    examples = f"{task_run.plan.batch_size} examples a step ({spread})"
    return f"{whose}{examples}, {precision_name(run.experiment, run.device)}, {_workers(run.workers)}"


def _mix(trainer: Trainer) -> list[tuple[str, str]]:
    """How several tasks share the steps of a joint epoch."""
    if len(trainer.run.tasks) < 2:
        return []
    config, mix = trainer.run.experiment.train, trainer.mix
    facts = [
        (
            "joint training",
            f"{task_run.name}: {count:,} steps an epoch, {count / own_steps:.3g} of its own epochs, "
            f"loss weight {task_run.config.loss_weight:g}",
        )
        for task_run, count, own_steps in zip(trainer.run.tasks, mix.counts, mix.own_steps, strict=True)
    ]
    pauses = config.stop_and_go
    rule = f"; a task pauses after {pauses.patience} evaluations without a gain of {pauses.min_gain}" if pauses else ""
    return [*facts, ("joint training", f"sampling {config.sampling.name}{rule}")]
