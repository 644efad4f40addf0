"""What training adds to a run: a plan for every task, how the tasks mix, optimiser, schedule and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from vlrun.data.loading import BatchMaker, TrainingPlan
from vlrun.engine.assembly import Run, TaskRun
from vlrun.engine.checkpoints import Checkpoints
from vlrun.engine.evaluation import TaskView
from vlrun.engine.evaluation_history import EvaluationHistory
from vlrun.engine.mixing import TaskMix, build_mix, is_active
from vlrun.engine.optimisation import Schedule, build_optimizer, build_schedule
from vlrun.engine.step_window import StepWindow
from vlrun.engine.stopping import StopRequest
from vlrun.errors import ConfigError


@dataclass(frozen=True)
class TaskTraining:
    """One task with the plan of its own epochs."""

    run: TaskRun
    plan: TrainingPlan

    @property
    def maker(self) -> BatchMaker:
        assert self.run.train is not None
        return self.run.train


@dataclass
class Trainer:
    """What training adds to a run: order, optimiser, schedule, checkpoints, and where it reports."""

    run: Run
    tasks: Sequence[TaskTraining]
    mix: TaskMix
    optimizer: Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    checkpoints: Checkpoints
    evaluations: EvaluationHistory
    window: StepWindow
    stop: StopRequest
    profiler: Any = None
    epochs_started: dict[int, int] = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        return self.mix.steps_per_epoch * self.run.experiment.train.epochs

    def start_epoch(self, task: int, epoch: int) -> None:
        """Tells a task, once in this process, which of its own epochs comes."""
        if self.epochs_started.get(task) != epoch:
            self.epochs_started[task] = epoch
            of_task = self.tasks[task].run
            of_task.task.start_epoch(epoch, TaskView(self.run, of_task, self.stop))

    def active(self, epoch: int) -> list[list[bool]]:
        """For each joint epoch up to ``epoch``, which tasks it trains: a pure function of past evaluations."""
        config, per_epoch = self.run.experiment.train.stop_and_go, self.mix.steps_per_epoch
        return [
            [
                is_active(list(self.evaluations.merits(task.run.name, up_to=earlier * per_epoch).values()), config)
                for task in self.tasks
            ]
            for earlier in range(epoch + 1)
        ]


def build_trainer(run: Run, stop: StopRequest) -> Trainer:
    """Everything that training needs.

    Raises:
        ConfigError: the batch size does not fit the number of processes or of examples.
    """
    config = run.experiment.train
    tasks = [TaskTraining(task, _plan(run, task)) for task in run.tasks]
    for task in tasks:
        task.maker.plan = task.plan
        task.run.task.start_training(task.maker.dataset, run.experiment.seed)
    own_steps = [task.plan.steps_per_epoch for task in tasks]
    mix = build_mix(own_steps, [task.sampling_weight for task in run.tasks], config.sampling, run.experiment.seed)
    schedule = build_schedule(config.schedule, config.learning_rate, mix.steps_per_epoch, config.epochs)
    return Trainer(
        run=run,
        tasks=tasks,
        mix=mix,
        optimizer=build_optimizer(config.optimizer, run.model.named_parameters()),
        schedule=schedule,
        scaler=torch.amp.GradScaler(run.device.type, enabled=config.precision == "fp16"),
        checkpoints=Checkpoints(run.folder.checkpoints),
        evaluations=EvaluationHistory(run.folder.evaluations),
        window=StepWindow(
            run.reporters,
            run.ranks,
            mix.steps_per_epoch,
            mix.steps_per_epoch * config.epochs,
            checks_norm=config.precision != "fp16",
        ),
        stop=stop,
    )


def _plan(run: Run, task: TaskRun) -> TrainingPlan:
    config, ranks = run.experiment.train, run.ranks
    assert task.train is not None
    shards = config.shards if config.shards is not None and config.shards % ranks.world_size == 0 else None
    plan = TrainingPlan(
        len(task.train),
        task.batch_size,
        run.experiment.seed,
        config.order_seed,
        config.drop_last,
        ranks.rank,
        ranks.world_size,
        config.accumulate,
        shards,
    )
    if task.batch_size < ranks.world_size * plan.passes or not plan.steps_per_epoch:
        raise ConfigError(
            f"batch_size {task.batch_size} of task '{task.name}': {plan.num_examples} examples, {ranks.world_size} "
            f"processes and {plan.passes} forward passes a step leave nothing to train on"
        )
    return plan
