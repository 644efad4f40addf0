"""What a run will ask of its machine, found by making its first batch and its network as the run itself does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlrun.config.experiment import Experiment
from vlrun.data.first_batch import batch_bytes, outline_if_possible
from vlrun.data.loading import Address, TrainingPlan
from vlrun.data.residency import Residency
from vlrun.data.splits import TaskData, images_path, open_images, read_task_data
from vlrun.engine.assembly import batch_maker, build_network, choose_residency, training_plan
from vlrun.features.pictures import ImageStore
from vlrun.interfaces.backbone import Backbone
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.task import Task
from vlrun.interfaces.tensors import Batch
from vlrun.plugins.manager import Plugins

_MOMENTS = 2  # values that each of the optimisers keeps for a parameter


@dataclass(frozen=True)
class Demands:
    """What a run asks for.

    Attributes:
        batches: task -> bytes of the largest batch that a loader sends, with or without region features.
        checkpoints: bytes of all checkpoints that lie on the disk at once.
    """

    batches: Mapping[str, int]
    checkpoints: int


def measure_demands(
    experiment: Experiment, plugins: Plugins, processes: int, workers: int, device: torch.device
) -> Demands:
    """Reads annotations and weights, and makes one batch for each task.

    Args:
        processes: that the run will have.
        workers: loader workers of each of them.
        device: of one of them.

    Raises:
        RunnerError: what the run itself would raise: images have no features, weights do not fit the backbone, ...
    """
    stores: dict[Path, ImageStore] = {}
    data = []
    for config in experiment.tasks:
        store = stores.setdefault(images_path(experiment, config.dataset), open_images(experiment, config.dataset))
        data.append(read_task_data(config, config.dataset.train if experiment.train.epochs else [], store, plugins))
    backbone, tasks, heads, _ = build_network(experiment, plugins)
    residency = choose_residency(experiment, data, device, workers, trains=experiment.train.epochs > 0)
    batches = {
        task_data.name: max(
            map(batch_bytes, _first_batches(experiment, task_data, task, backbone, processes, residency))
        )
        for task_data, task in zip(data, tasks, strict=True)
    }
    return Demands(batches, _checkpoint_bytes(experiment, backbone, heads))


def _first_batches(
    experiment: Experiment,
    data: TaskData,
    task: Task[Any],
    backbone: Backbone,
    processes: int,
    residency: Residency,
) -> Iterator[Batch]:
    """The first batch of one process of training, if there is any, and of each split that is predicted one by one."""

    def sent(addresses: Sequence[Address], dataset: Dataset[Any], plan: TrainingPlan | None = None) -> Batch:
        maker = batch_maker(experiment, data, task, backbone, dataset, plan)
        outline_if_possible(data.name, maker, addresses, residency)
        return maker.sent(addresses)

    splits = [data.datasets[name] for name in data.config.dataset.evaluate]
    if data.train is not None:
        task.start_training(data.train, experiment.seed)
        plan = training_plan(experiment, data, 0, processes)
        yield sent(plan.batches(0, 0)[0], data.train, plan)
    if type(task).evaluate is not Task.evaluate:
        splits = splits[:1] if data.train is None else []
    for dataset in splits:
        size = min(experiment.train.evaluate_batch_size, len(dataset))
        yield sent([(0, position) for position in range(size)], dataset)


def _checkpoint_bytes(experiment: Experiment, backbone: nn.Module, heads: list[nn.Module]) -> int:
    """Of weights and moments: those that are kept, the best of each task, and the one that is being written."""
    if not experiment.train.epochs:
        return 0
    size = sum(parameter.nbytes for parameter in _parameters(backbone, heads))
    tasks = len(experiment.tasks)
    best = 1 if tasks == 1 else tasks + 1  # of several tasks also the best for all together
    return (1 + _MOMENTS) * size * (experiment.train.keep_checkpoints + best + 1)


def _parameters(backbone: nn.Module, heads: list[nn.Module]) -> Iterator[nn.Parameter]:
    """Each once: a head may use a part of the backbone."""
    yield from nn.ModuleList([backbone, *heads]).parameters()
