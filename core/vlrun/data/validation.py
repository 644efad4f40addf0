"""What ids and headers show of an experiment's data before a run: images without features, features of another kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlrun.config.experiment import Experiment
from vlrun.config.preflight import weights_header
from vlrun.data.feature_check import check_features
from vlrun.data.splits import TaskData, open_images, read_task_data
from vlrun.errors import DataError
from vlrun.features.pictures import ImageStore
from vlrun.plugins.manager import Plugins


@dataclass(frozen=True)
class CheckedData:
    """The data of a task, and in how many words a summary says so."""

    task: str
    store: ImageStore
    needed: int
    missing: int

    def __str__(self) -> str:
        found = "all" if not self.missing else f"all but {self.missing:,}"
        return f"{self.needed:,} images, {found} in {self.store.path}"


def check_data(experiment: Experiment, plugins: Plugins) -> tuple[list[CheckedData], list[str]]:
    """Looks at the ids of all images that an experiment needs, and at what the weights were trained on; no torch.

    Returns:
        The data of each task, and lines on the features that are worth reading.

    Raises:
        DataError: everything that would end a run: images of any task have no features, a store or a file is damaged,
            or the features are of another kind than the weights'.
    """
    data: list[TaskData] = []
    problems: list[str] = []
    for config in experiment.tasks:
        try:
            store = open_images(experiment, config.dataset)
            splits = config.dataset.train if experiment.train.epochs else []
            data.append(read_task_data(config, splits, store, plugins))
        except DataError as error:
            problems += [f"task '{config.display_name}': {error.problems[0]}", *error.problems[1:]]
    weights, notes = experiment.backbone.weights, []
    if data and weights is not None and weights.exists():
        try:
            notes = list(check_features(data, weights, weights_header(weights)[1]).notes)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return list(_checked(data)), notes


def _checked(data: list[TaskData]) -> Iterator[CheckedData]:
    for task_data in data:
        needed = {image for images in task_data.images.values() for image in images} | task_data.coverage.missing
        yield CheckedData(task_data.name, task_data.store, len(needed), len(task_data.coverage.missing))
