"""Builds what an experiment names: backbone, heads, datasets, feature stores, and the run that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from vlrun.backbone import Backbone
from vlrun.configs import DatasetConfig, TaskConfig
from vlrun.dataset import Dataset
from vlrun.errors import DataError
from vlrun.experiment import Experiment
from vlrun.features.coverage import Coverage, check_coverage
from vlrun.features.store import RegionFeatureStore
from vlrun.loading import BatchMaker, JoinedSplits, Selection, default_workers
from vlrun.metric import Metric
from vlrun.model import TaskModel
from vlrun.plugins import Plugins
from vlrun.ranks import Ranks
from vlrun.reporting import Reporters
from vlrun.run_folder import RunFolder
from vlrun.seeds import derive_seed
from vlrun.task import Task
from vlrun.weights import LoadReport, load_weights

_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class TaskRun:
    """A task of the experiment with its data, ready to make batches.

    Attributes:
        train: the training examples; None where nothing is trained.
        splits: evaluation splits, in the order of the experiment file.
        coverage: images needed and found, per split.
    """

    name: str
    task: Task[Any]
    metrics: Sequence[Metric]
    store: RegionFeatureStore
    train: BatchMaker | None
    splits: Mapping[str, BatchMaker]
    coverage: Coverage
    loss_weight: float


@dataclass
class Run:
    """Everything that a training or an evaluation works on; ``step`` counts optimiser steps done."""

    experiment: Experiment
    ranks: Ranks
    folder: RunFolder
    reporters: Reporters
    model: TaskModel
    tasks: list[TaskRun]
    weights: LoadReport | None
    workers: int
    step: int = 0

    @property
    def device(self) -> torch.device:
        return self.ranks.device

    def autocast(self) -> AbstractContextManager[Any]:
        """Half precision where the experiment asks for it, inside the model only."""
        dtype = _AUTOCAST_TYPES.get(self.experiment.train.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def identity(self) -> dict[str, str]:
        """What must agree between a checkpoint and the run that continues it."""
        return {"vocabulary": self.model.backbone.vocabulary_hash} if self.model.backbone.vocabulary_hash else {}


def assemble(
    experiment: Experiment, ranks: Ranks, folder: RunFolder, reporters: Reporters, plugins: Plugins, train: bool = True
) -> Run:
    """Builds the run of ``experiment`` on this rank's device.

    Raises:
        DataError: files are missing, or images of a split have no features.
        CheckpointError: the weights do not fit the backbone.
    """
    torch.manual_seed(derive_seed(experiment.seed, "weights"))  # the same on every rank, so nothing is broadcast
    backbone: Backbone = plugins.find("backbone", experiment.backbone.name).build(experiment.backbone)
    stores: dict[str, RegionFeatureStore] = {}
    tasks = [_task_run(experiment, index, backbone, plugins, stores, train) for index in range(len(experiment.tasks))]
    heads = {run.name: run.task.build_head(backbone) for run in tasks}
    report = None
    if experiment.backbone.weights is not None:
        imported = {run.task.imported_head: heads[run.name] for run in tasks if run.task.imported_head}
        report = load_weights(backbone, experiment.backbone.weights, heads=imported)
    model = TaskModel(backbone, heads).to(ranks.device)
    workers = experiment.train.workers
    if workers is None:
        workers = default_workers(ranks.device)
    return Run(experiment, ranks, folder, reporters, model, tasks, report, workers)


def _task_run(
    experiment: Experiment,
    index: int,
    backbone: Backbone,
    plugins: Plugins,
    stores: dict[str, RegionFeatureStore],
    train: bool,
) -> TaskRun:
    config = experiment.tasks[index]
    task: Task[Any] = plugins.find("task", config.name).build(config)
    store = stores.setdefault(str(config.dataset.features), RegionFeatureStore(config.dataset.features))
    train_splits = config.dataset.train if train and experiment.train.epochs else []
    datasets, coverage = _datasets(config.dataset, train_splits, store, plugins)
    encode = backbone.pair_encoder(config.max_text_tokens)

    def maker(dataset: Dataset[Any]) -> BatchMaker:
        return BatchMaker(task, dataset, store, encode, experiment.seed)

    return TaskRun(
        name=config.name,
        task=task,
        metrics=metrics_of(config, task, plugins),
        store=store,
        train=maker(JoinedSplits([datasets[name] for name in train_splits])) if train_splits else None,
        splits={name: maker(datasets[name]) for name in config.dataset.evaluate},
        coverage=coverage,
        loss_weight=config.loss_weight,
    )


def metrics_of(config: TaskConfig, task: Task[Any], plugins: Plugins) -> list[Metric]:
    """The metrics that the experiment names, or the task's own."""
    if config.metrics is None:
        return task.metrics()
    return [plugins.find("metric", metric.name).build(metric) for metric in config.metrics]


def _datasets(
    config: DatasetConfig, train_splits: Sequence[str], store: RegionFeatureStore, plugins: Plugins
) -> tuple[dict[str, Dataset[Any]], Coverage]:
    """All splits in use, each example with features, and how many images of each were found.

    Raises:
        DataError: images have no features and the experiment does not allow it, or a split is empty.
    """
    entry = plugins.find("dataset", config.name)
    names = list(dict.fromkeys([*train_splits, *config.evaluate]))
    datasets: dict[str, Dataset[Any]] = {name: entry.build(config, name) for name in names}
    coverage = check_coverage({name: data.image_ids() for name, data in datasets.items()}, store)
    if not coverage.is_complete:
        if not config.allow_missing_features:
            raise coverage.error()
        datasets = {name: _with_features(data, store) for name, data in datasets.items()}
    if empty := [name for name, data in datasets.items() if not len(data)]:
        raise DataError(f"{config.name}: no examples in: {', '.join(empty)}")
    for data in datasets.values():
        data.protocol = {**data.protocol, "features": describe_features(store)}
    return datasets, coverage


def _with_features(dataset: Dataset[Any], store: RegionFeatureStore) -> Dataset[Any]:
    """The examples whose images all have features."""
    missing = set(store.missing(dataset.image_ids()))
    if not missing:
        return dataset
    kept = [index for index, example in enumerate(dataset) if missing.isdisjoint(example.image_ids)]
    return Selection(dataset, kept, "their images have no features")


def describe_features(store: RegionFeatureStore) -> str:
    """Where candidate boxes and features come from, as protocols call it."""
    return f"{store.manifest.extractor or 'unknown extractor'} ({store.fingerprint[:12]})"
