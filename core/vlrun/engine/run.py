"""A run and its tasks: everything that a training or an evaluation works on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from vlrun.config.base import TaskConfig
from vlrun.config.experiment import Experiment
from vlrun.data.coverage import Coverage
from vlrun.data.hidden_images import shown_regions
from vlrun.data.identities import Identities
from vlrun.data.leaks import SPELLINGS
from vlrun.data.loading import BatchMaker, Regions, TrainingPlan
from vlrun.data.residency import Residency
from vlrun.engine.checkpoints import Checkpoint
from vlrun.engine.model import TaskModel
from vlrun.engine.precision import HALF_PRECISIONS
from vlrun.engine.ranks import Ranks
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weights import LoadReport
from vlrun.errors import CheckpointError
from vlrun.interfaces.backbone import PairEncoder
from vlrun.interfaces.examples import RegionBatch
from vlrun.interfaces.metric import Metric
from vlrun.interfaces.reporter import Reporters
from vlrun.interfaces.task import Task


@dataclass
class TaskRun:
    """A task of the experiment with its data, ready to make batches.

    Attributes:
        train: makes the training batches; None where nothing is trained.
        splits: evaluation splits, in the order of the experiment file.
        coverage: images needed and found, per split.
        marks: split -> what its scores must say besides the metric's protocol, such as a leak.
        hidden: splits without ground truth, such as many test splits; they are predicted, not scored.
        encode: the backbone's text and box pipeline, with this task's longest text.
        reads_classes: whether the backbone gets the detector's classes.
    """

    config: TaskConfig
    task: Task[Any]
    metrics: Sequence[Metric]
    store: Regions
    encode: PairEncoder
    train: BatchMaker | None
    splits: Mapping[str, BatchMaker]
    coverage: Coverage
    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hidden: Collection[str] = ()
    reads_classes: bool = False

    @property
    def name(self) -> str:
        """What the experiment calls it."""
        return self.config.display_name

    @property
    def training(self) -> BatchMaker:
        """Makes the training batches; only in a run that trains."""
        assert self.train is not None
        return self.train

    @property
    def plan(self) -> TrainingPlan:
        """Which examples each step trains on; only in a run that trains."""
        assert self.training.plan is not None
        return self.training.plan

    def read_regions(self, image_ids: Sequence[str]) -> RegionBatch:
        """Reads regions as the model may see them: blank where the experiment hides the images."""
        read = self.store.read_with_classes if self.reads_classes else self.store.read
        return shown_regions(read(image_ids), self.config.dataset.hide_images)

    @property
    def validation_split(self) -> str | None:
        """The split that is scored between epochs: the first one; None where the ground truth of all is hidden."""
        return None if set(self.splits) <= set(self.hidden) else next(iter(self.splits))


@dataclass
class Run:
    """Everything that a training or an evaluation works on.

    Attributes:
        data_notes: leaks, and what was left out because of them, for the header.
        identities: the table by which images were compared.
        step: optimiser steps done, those of paused tasks included.
        outputs: where predictions and submission files go, if not into the run folder.
        residency: where region features are.
    """

    experiment: Experiment
    ranks: Ranks
    folder: RunFolder
    reporters: Reporters
    model: TaskModel
    tasks: list[TaskRun]
    weights: LoadReport | None
    workers: int
    data_notes: Sequence[str] = ()
    identities: Identities = SPELLINGS
    step: int = 0
    outputs: RunFolder | None = None
    residency: Residency = field(default_factory=Residency)

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.ranks.device

    def autocast(self) -> AbstractContextManager[Any]:
        """Half precision where the experiment asks for it; for the model only, not for losses."""
        dtype = HALF_PRECISIONS.get(self.experiment.train.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def progress(self, what: str, done: int, total: int) -> None:
        """Shows the progress of something slow; called on every process, shown by the main one."""
        if self.ranks.is_main:
            self.reporters.progress(what, done, total)

    def head_meanings(self) -> dict[str, Any]:
        """What the numbers of each head mean, by task; kept in checkpoints."""
        return {task_run.name: self._head_meaning(task_run) for task_run in self.tasks}

    def _head_meaning(self, task_run: TaskRun) -> dict[str, Any]:
        """As the task says it of the whole head, else of the parts that have names."""
        if meaning := task_run.task.head_meaning():
            return dict(meaning)
        named = task_run.task.named_heads(self.model.heads[task_run.name])
        return {f"{name} {key}": value for name, head in named.items() for key, value in head.meaning.items()}

    def named_heads(self) -> list[dict[str, Any]]:
        """The heads that travel: ``name``, ``module`` within the model, and ``meaning``; kept in checkpoints."""
        modules = {id(module): name for name, module in self.model.named_modules()}
        return [
            {"name": name, "module": modules[id(head.module)], "meaning": dict(head.meaning)}
            for task_run in self.tasks
            for name, head in task_run.task.named_heads(self.model.heads[task_run.name]).items()
        ]

    def identity(self) -> dict[str, str]:
        """What must agree between a checkpoint and the run that continues it."""
        vocabulary = self.model.backbone.vocabulary_hash
        return {"vocabulary": vocabulary} if vocabulary else {}

    def check_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Refuses a checkpoint of another vocabulary or of other heads.

        Raises:
            CheckpointError: it was written with another vocabulary, or its heads mean something else.
        """
        problems = []
        if checkpoint.progress.identity != self.identity():
            problems.append(f"{checkpoint.path} was written with {checkpoint.progress.identity}, not {self.identity()}")
        theirs = checkpoint.head_meanings()
        for task, ours in self.head_meanings().items():
            if ours and task not in theirs and self.ranks.is_main:
                unsaid = f"does not say what the head of task '{task}' means; its order is taken as this run's"
                self.reporters.note(f"{checkpoint.path} {unsaid}")
            problems += [
                f"{checkpoint.path}: head of task '{task}': {difference}"
                for difference in _differences(theirs.get(task, ours), ours)
            ]
        if problems:
            raise CheckpointError(problems)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The differences between two meanings of a head, in words."""
    differences = []
    for key in dict.fromkeys([*theirs, *ours]):
        before, after = theirs.get(key), ours.get(key)
        if before == after:
            continue
        if isinstance(before, list) and isinstance(after, list):
            place = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
            at = f"; number {place} was {before[place]!r}, now {after[place]!r}" if place is not None else ""
            differences.append(f"it was trained with {len(before):,} {key}, this run has {len(after):,}{at}")
        else:
            differences.append(f"{key} was {before!r}, now {after!r}")
    return differences
