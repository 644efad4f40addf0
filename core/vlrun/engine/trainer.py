"""What training adds to a run: how its tasks mix, optimiser, schedule, checkpoints, and where it reports."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn
from torch.optim import Optimizer

from vlrun.data.first_batch import outline_if_possible
from vlrun.data.loading import BatchLoader, JointBatchMaker
from vlrun.engine.averaging import AveragedWeights
from vlrun.engine.checkpoints import Checkpoints
from vlrun.engine.companions import companions_of
from vlrun.engine.device_copies import DeviceCopies
from vlrun.engine.evaluation import TaskView
from vlrun.engine.evaluation_history import EvaluationHistory
from vlrun.engine.global_batch import has_batch_loss
from vlrun.engine.gradients import SharedModel
from vlrun.engine.host_memory import keep_freed_memory
from vlrun.engine.mixing import TaskMix, build_mix, is_active
from vlrun.engine.optimisation import ParameterPlan, plan_parameters
from vlrun.engine.recomputation import recompute_layers
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.step_window import StepRecord, StepWindow
from vlrun.engine.stopping import StopRequest
from vlrun.errors import ConfigError
from vlrun.interfaces.callback import Callback
from vlrun.interfaces.task import Task
from vlrun.interfaces.training import Schedule, TrainingLength
from vlrun.plugins.manager import Plugins


@dataclass
class Trainer:
    """A run with all that training it needs.

    Attributes:
        model: what is trained, the network of ``run`` on all ranks together.
        companions: of each task, what it asks besides the network that trains.
        callbacks: in the order of the experiment.
        unchecked: the last step, until its losses have been checked.
        epochs_started: index of a task -> the last of its own epochs that this process has started.
        most_losses: the number of named losses of the task with the most of them, known from its first batch.
    """

    run: Run
    model: SharedModel
    loader: BatchLoader
    copies: DeviceCopies
    mix: TaskMix
    parameters: ParameterPlan
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    checkpoints: Checkpoints
    evaluations: EvaluationHistory
    window: StepWindow
    stop: StopRequest
    companions: Sequence[Mapping[str, nn.Module]]
    callbacks: Sequence[Callback]
    average: AveragedWeights | None = None
    unchecked: StepRecord | None = None
    epochs_started: dict[int, int] = field(default_factory=dict)
    most_losses: int = 0

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run, those of paused tasks included."""
        return self.mix.steps_per_epoch * self.run.experiment.train.epochs

    def start_epoch(self, task: int, epoch: int) -> None:
        """Tells a task that one of its own epochs begins; once per epoch in each process."""
        if self.epochs_started.get(task) != epoch:
            self.epochs_started[task] = epoch
            task_run = self.run.tasks[task]
            before = self._known_to_workers(task_run)
            task_run.task.start_epoch(epoch, TaskView(self.run, task_run, self.stop))
            if self._known_to_workers(task_run) != before:  # such as hard negatives that it has mined
                self.loader.restart()

    def _known_to_workers(self, task_run: TaskRun) -> bytes:
        """All that a task holds; workers have a copy."""
        changes = type(task_run.task).start_epoch is not Task.start_epoch
        return pickle.dumps(task_run.task) if changes and self.run.workers else b""

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """The model with the weights that are evaluated: their average, if there is one."""
        with nullcontext() if self.average is None else self.average.applied():
            yield

    def drop_frozen(self, position: int) -> None:
        """Takes the gradients of step ``position`` from what does not train yet, and so the weight decay."""
        for epoch, parameter in self.waiting:
            if position < epoch * self.mix.steps_per_epoch:
                parameter.grad = None

    @cached_property
    def waiting(self) -> list[tuple[int, nn.Parameter]]:
        """Parameters that train from some epoch on, with that epoch."""
        return self.parameters.waiting()

    @cached_property
    def reported_parts(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Parts of the network whose gradients have norms to report."""
        return self.parameters.parts() if self.run.experiment.train.gradient_norms else []

    def active(self, epoch: int) -> list[list[bool]]:
        """For each joint epoch up to ``epoch``, which tasks it trains: a pure function of past evaluations."""
        config, per_epoch = self.run.experiment.train.stop_and_go, self.mix.steps_per_epoch
        return [
            [
                is_active(list(self.evaluations.merits(task_run.name, up_to=earlier * per_epoch).values()), config)
                for task_run in self.run.tasks
            ]
            for earlier in range(epoch + 1)
        ]


def build_trainer(run: Run, stop: StopRequest, plugins: Plugins) -> Trainer:
    """Builds what training needs, and tells every task what it will be trained on.

    Raises:
        ConfigError: a group of parameters matches nothing, the schedule does not fit the training, a companion does not
            fit the backbone, or passes that have to be made twice cannot be.
    """
    config = run.experiment.train
    _check_compiled(run)
    if run.device.type == "cpu":
        keep_freed_memory()
    parameters = plan_parameters(run.model, config.groups)
    parameters.freeze()
    if config.activation_checkpointing:
        recompute_layers(run.model.backbone)
    for task_run in run.tasks:
        task_run.task.start_training(task_run.training.dataset, run.experiment.seed)
        outline_if_possible(task_run.name, task_run.training, task_run.plan.batches(0, 0)[0], run.residency)
    run.residency.load(run.progress)
    own_steps = [task_run.plan.steps_per_epoch for task_run in run.tasks]
    weights = [task_run.config.sampling_weight for task_run in run.tasks]
    mix = build_mix(own_steps, weights, config.sampling, run.experiment.seed)
    length = TrainingLength(config.learning_rate, mix.steps_per_epoch, config.epochs)
    return Trainer(
        run=run,
        model=SharedModel(run.model, run.ranks, config.gradient_compression, compiled=config.compile),
        loader=BatchLoader(
            JointBatchMaker([task_run.training for task_run in run.tasks]),
            workers=run.workers,
            pin_memory=run.device.type == "cuda",
            timeout_seconds=config.distributed_timeout,
            residency=run.residency,
        ),
        copies=DeviceCopies(run.device),
        mix=mix,
        parameters=parameters,
        optimizer=plugins.find("optimizer", config.optimizer.name).build(config.optimizer, parameters.groups()),
        schedule=plugins.find("schedule", config.schedule.name).build(config.schedule, length),
        scaler=torch.amp.GradScaler(run.device.type, enabled=config.precision == "fp16"),
        checkpoints=Checkpoints(run.folder.checkpoints),
        evaluations=EvaluationHistory(
            run.folder.evaluations, {task_run.name: task_run.config.best_score for task_run in run.tasks}
        ),
        window=StepWindow(run.reporters, run.ranks, mix.steps_per_epoch, mix.steps_per_epoch * config.epochs),
        stop=stop,
        companions=[companions_of(run, task_run) for task_run in run.tasks],
        callbacks=[plugins.find("callback", each.name).build(each) for each in run.experiment.callbacks],
        average=None if config.ema is None else AveragedWeights(run.model, config.ema.decay),
    )


def _check_compiled(run: Run) -> None:
    """Raises ConfigError if what the tasks do in a step cannot be done with a compiled network."""
    compiled = run.experiment.train.compile
    for task_run in run.tasks if compiled else []:
        task = task_run.task
        if has_batch_loss(task) and len(task_run.plan.own_passes) > 1:
            raise ConfigError(
                f"train.compile: task '{task_run.name}' has a loss of the global batch, for which each forward pass is "
                "made twice where a process has several, and a compiled one has another dropout the second time; leave "
                "it off, or set train.micro_batches=1"
            )
        if compiled == "cuda-graphs" and type(task).training_outputs is not Task.training_outputs:
            raise ConfigError(
                f"train.compile: cuda-graphs, but task '{task_run.name}' may run the network several times in a step "
                "(training_outputs), and a graph that is replayed overwrites what it gave before; use true"
            )
