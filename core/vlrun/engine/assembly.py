"""Builds what an experiment names: backbone, heads, datasets, feature stores, and the run that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from vlrun.blocks.transformer_config import TransformerConfig
from vlrun.config.base import TaskConfig
from vlrun.config.experiment import Experiment
from vlrun.cpus import available_memory
from vlrun.data.feature_check import FeatureCheck, check_cut_regions, check_features
from vlrun.data.image_check import ImageCheck, check_images
from vlrun.data.loading import BatchMaker, TrainingPlan
from vlrun.data.order import LengthGroups, text_lengths
from vlrun.data.residency import Residency, bytes_needed, choose_place
from vlrun.data.splits import TaskData, images_path, open_images, read_task_data
from vlrun.data.workers import default_workers
from vlrun.engine.model import TaskModel, matching_head_names
from vlrun.engine.precision import precision_name, prepare_precision
from vlrun.engine.ranks import Ranks, local_rank
from vlrun.engine.run import Run, TaskRun
from vlrun.engine.run_folder import RunFolder
from vlrun.engine.weights import HeadSlot, LoadReport, load_weights
from vlrun.errors import CheckpointError, ConfigError, DataError
from vlrun.features.pictures import ImageStore
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.metric import Metric
from vlrun.interfaces.reporter import Reporters
from vlrun.interfaces.task import Task
from vlrun.plugins.manager import Plugins
from vlrun.seeds import derive_seed


def assemble(
    experiment: Experiment,
    ranks: Ranks,
    folder: RunFolder,
    reporters: Reporters,
    plugins: Plugins,
    train: bool = True,
    known_marks: Mapping[str, Mapping[str, Mapping[str, str]]] = MappingProxyType({}),
    copies: Mapping[Path, Path] = MappingProxyType({}),
) -> Run:
    """Builds the run of ``experiment`` on this rank's device.

    Args:
        known_marks: task -> split -> what its scores must say, as training has found it.
        copies: of feature stores, to be read instead.

    Raises:
        ConfigError: the batch size does not fit the number of processes or of examples.
        ConfigError: the device does not offer the precision.
        DataError: files are missing, images of a split have no features, or these are not of the weights' kind.
        CheckpointError: the weights do not fit the backbone.
    """
    experiment = prepare_precision(experiment, ranks.device)
    stores: dict[Path, ImageStore] = {}
    for config in experiment.tasks:
        path = images_path(experiment, config.dataset)
        if path not in stores:
            stores[path] = open_images(experiment, config.dataset, copies.get(path))
    data = [_task_data(experiment, config, stores, plugins, train) for config in experiment.tasks]
    backbone, tasks, heads, report = build_network(experiment, plugins)
    if experiment.backbone.weights is not None or train:
        _check_matching_heads(experiment, tasks, backbone, report)
    seen_before = report.metadata.get("pretraining_sets", []) if report is not None else []
    check = check_images(experiment, data, seen_before, plugins)
    features = FeatureCheck() if report is None else check_features(check.data, report.path, report.metadata)
    if isinstance(experiment.backbone, TransformerConfig):
        features += check_cut_regions(check.data, experiment.backbone.num_regions)
    precision = precision_name(experiment, ranks.device)
    inexact = {} if precision == "fp32" else {"precision": precision}
    if (ema := experiment.train.ema) is not None:
        inexact["weights"] = f"averaged over steps, decay {ema.decay:g}"
    runs = [
        _task_run(
            experiment,
            task_data,
            task,
            backbone,
            plugins,
            ranks,
            _marks(task_data, check, features, known_marks, inexact),
        )
        for task_data, task in zip(check.data, tasks, strict=True)
    ]
    if train and experiment.train.epochs:
        _check_first_splits(runs, experiment.train.final_checkpoint)
    model = TaskModel(backbone, {run.name: head for run, head in zip(runs, heads, strict=True)}).to(ranks.device)
    workers = experiment.train.workers
    if workers is None:
        workers = default_workers(ranks.device)
    notes = [*features.notes, *check.notes]
    trains = train and experiment.train.epochs > 0
    residency = choose_residency(experiment, check.data, ranks.device, workers, trains=trains)
    if trains and local_rank() == 0:
        residency.touch()
    return Run(
        experiment,
        ranks,
        folder,
        reporters,
        model,
        runs,
        report,
        workers,
        notes,
        identities=check.identities,
        residency=residency,
    )


def choose_residency(
    experiment: Experiment, data: Sequence[TaskData], device: torch.device, workers: int, *, trains: bool
) -> Residency:
    """Chooses the place of the region features that all splits of all tasks need; reads none of them.

    Args:
        data: of all tasks.
        device: of this process.
        workers: of this process.
        trains: whether more than an evaluation follows.

    Raises:
        ConfigError: pictures cannot be where the experiment wants them.
    """
    wanted = experiment.features.residency
    if experiment.reads_pictures:
        if wanted not in ("auto", "workers"):
            raise ConfigError(f"features.residency: {wanted}, but pictures are decoded by loader workers; use auto")
        return Residency("workers", "pictures are decoded there")
    needed: dict[RegionFeatureStore, dict[str, None]] = {}
    for task_data in data:
        assert isinstance(task_data.store, RegionFeatureStore)
        of_store = needed.setdefault(task_data.store, {})
        for image_ids in task_data.images.values():
            of_store.update(dict.fromkeys(image_ids))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    place, why = choose_place(wanted, bytes_needed(needed), free, available_memory(), trains=trains)
    return Residency(place, why, needed, device=device, workers=workers)


def build_network(
    experiment: Experiment, plugins: Plugins
) -> tuple[Backbone, list[Task[Any]], list[nn.Module], LoadReport | None]:
    """The backbone with the weights that the experiment imports, and each task with its head; reads no data.

    Raises:
        CheckpointError: the weights do not fit the backbone.
    """
    torch.manual_seed(derive_seed(experiment.seed, "weights"))  # the same on every rank, so nothing is broadcast
    backbone: Backbone = plugins.find("backbone", experiment.backbone.name).build(experiment.backbone)
    tasks: list[Task[Any]] = [plugins.find("task", config.name).build(config) for config in experiment.tasks]
    heads = [task.build_head(backbone) for task in tasks]
    if experiment.backbone.weights is None:
        return backbone, tasks, heads, None
    slots = [
        HeadSlot(name, named.module, named.adapt)
        for task, head in zip(tasks, heads, strict=True)
        for name, named in task.named_heads(head).items()
    ]
    return backbone, tasks, heads, load_weights(backbone, experiment.backbone.weights, heads=slots)


def _check_matching_heads(
    experiment: Experiment, tasks: Sequence[Task[Any]], backbone: Backbone, report: LoadReport | None
) -> None:
    """Refuses a random matching head where a task needs the pre-trained one.

    Raises:
        CheckpointError: a task needs the pre-trained matching head, and the weights did not fill it.
    """
    wanted = [
        config.display_name for config, task in zip(experiment.tasks, tasks, strict=True) if task.requires_matching_head
    ]
    if not wanted:
        return
    names = matching_head_names(backbone)
    is_start = report is not None and bool(report.metadata.get("partial"))
    missing = [name for name in names if report is None or is_start or name not in report.matched]
    if missing:
        source = "no weights are loaded (backbone.weights)" if report is None else f"{report.path} does not have it"
        if is_start:  # that of BERT is of next sentences
            source += ", for it is a start without images"
        raise CheckpointError(
            f"task '{wanted[0]}' needs the pre-trained image-text matching head of backbone "
            f"'{experiment.backbone.name}' ({', '.join(missing)}): {source}. Import a checkpoint that has it, "
            "such as the pre-trained one of the authors"
        )


def _task_data(
    experiment: Experiment, config: TaskConfig, stores: Mapping[Path, ImageStore], plugins: Plugins, train: bool
) -> TaskData:
    store = stores[images_path(experiment, config.dataset)]
    train_splits = config.dataset.train if train and experiment.train.epochs else []
    return read_task_data(config, train_splits, store, plugins)


def _task_run(
    experiment: Experiment,
    data: TaskData,
    task: Task[Any],
    backbone: Backbone,
    plugins: Plugins,
    ranks: Ranks,
    marks: Mapping[str, Mapping[str, str]],
) -> TaskRun:
    config = data.config
    encode = backbone.pair_encoder(config.max_text_tokens)
    plan = None if data.train is None else training_plan(experiment, data, ranks.rank, ranks.world_size)
    if plan is not None and data.train is not None and experiment.train.group_by_length is not None:
        lengths = text_lengths(data.train, encode, data.store)
        plan = replace(plan, groups=LengthGroups(lengths, experiment.train.group_by_length))
    return TaskRun(
        config=config,
        task=task,
        metrics=build_metrics(config, task, plugins),
        store=data.store,
        encode=encode,
        reads_classes=backbone.reads_classes,
        train=None if data.train is None else batch_maker(experiment, data, task, backbone, data.train, plan),
        splits={
            name: batch_maker(experiment, data, task, backbone, data.datasets[name]) for name in config.dataset.evaluate
        },
        coverage=data.coverage,
        marks=marks,
        hidden=[
            name
            for name in config.dataset.evaluate
            if not any(example.target is not None for example in data.datasets[name])
        ],
    )


def batch_maker(
    experiment: Experiment,
    data: TaskData,
    task: Task[Any],
    backbone: Backbone,
    dataset: Dataset[Any],
    plan: TrainingPlan | None = None,
) -> BatchMaker:
    """What makes the batches of one of a task's datasets; ``plan`` in training alone."""
    return BatchMaker(
        task,
        dataset,
        data.store,
        backbone.pair_encoder(data.config.max_text_tokens),
        experiment.seed,
        hides_images=data.config.dataset.hide_images,
        plan=plan,
        vocabulary=backbone.wordpiece,
        reads_classes=backbone.reads_classes,
    )


def _marks(
    data: TaskData,
    check: ImageCheck,
    features: FeatureCheck,
    known: Mapping[str, Mapping[str, Mapping[str, str]]],
    inexact: Mapping[str, str],
) -> dict[str, Mapping[str, str]]:
    """What the scores of each split must say: which images it shares, features of another kind, hidden images, and how
    the model that is scored differs from the trained one (``inexact``): less than full precision, averaged weights.

    Marks that are known already take precedence: training has compared its images, too.
    """
    hidden = {"images": "hidden"} if data.config.dataset.hide_images else {}
    kind = features.marks.get(data.name, {})
    return {
        split: {**check.marks[data.name, split], **kind, **inexact, **known.get(data.name, {}).get(split, {}), **hidden}
        for split in data.config.dataset.evaluate
    }


def training_plan(experiment: Experiment, data: TaskData, rank: int, world_size: int) -> TrainingPlan:
    """Which examples every step of a task trains on, as one of several processes sees it.

    Raises:
        ConfigError: the batch size does not fit the number of processes or of examples.
    """
    config = experiment.train
    assert data.train is not None
    plan = TrainingPlan(
        num_examples=len(data.train),
        batch_size=data.config.batch_size or config.batch_size,
        seed=experiment.seed,
        order_seed=config.order_seed,
        drop_last=config.drop_last,
        rank=rank,
        world_size=world_size,
        micro_batches=config.micro_batches,
    )
    if plan.batch_size < plan.passes or not plan.steps_per_epoch:
        raise ConfigError(
            f"batch_size {plan.batch_size} of task '{data.name}': {plan.num_examples} examples, {world_size} "
            f"processes and {plan.passes} forward passes a step leave nothing to train on"
        )
    return plan


def check_splits(tasks: Sequence[TaskRun]) -> None:
    """Lets every task check its evaluation splits before any work is done.

    Raises:
        DataError: everything that would stop a later evaluation.
    """
    problems = []
    for task_run in tasks:
        try:
            task_run.task.check_splits({name: maker.dataset for name, maker in task_run.splits.items()})
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)


def _check_first_splits(runs: Sequence[TaskRun], final_checkpoint: str) -> None:
    """Checks that the checkpoint which the experiment asks for can be chosen.

    If all splits of a task are hidden, nothing is scored between epochs, so only the last checkpoint can be used.

    Raises:
        DataError: a split that is to be scored between epochs has no ground truth.
    """
    problems = []
    for run in runs:
        first, all_hidden = next(iter(run.splits)), run.validation_split is None
        if first in run.hidden and not (all_hidden and final_checkpoint == "last"):
            instead = ", or, as all of these splits are hidden, set train.final_checkpoint=last" if all_hidden else ""
            problems.append(
                f"task '{run.name}': the ground truth of split '{first}' is hidden, so it cannot be scored between "
                f"epochs; put a split with known answers first in dataset.evaluate{instead}"
            )
    if problems:
        raise DataError(problems)


def build_metrics(config: TaskConfig, task: Task[Any], plugins: Plugins) -> list[Metric]:
    """The metrics that the experiment names, or the task's own."""
    if config.metrics is None:
        return task.metrics()
    return [plugins.find("metric", metric.name).build(metric) for metric in config.metrics]
