"""The data of a task: its splits, which images they need, and which examples are left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from vlrun.config.base import DatasetConfig, TaskConfig
from vlrun.config.experiment import Experiment
from vlrun.data.coverage import Coverage, check_coverage
from vlrun.data.identities import Identities, qualified
from vlrun.errors import DataError
from vlrun.features.pictures import ImageStore, PictureStore
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.dataset import Dataset
from vlrun.interfaces.examples import Example
from vlrun.plugins.manager import Plugins


class JoinedSplits(Dataset[Any]):
    """Several splits of a dataset, one after another."""

    def __init__(self, parts: Sequence[Dataset[Any]]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(len(part) for part in self.parts))
        self.split = "+".join(part.split for part in self.parts)
        self.protocol = _joined_protocol(self.parts)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Example[Any]:
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]

    def image_ids(self) -> Iterable[str]:
        return chain.from_iterable(part.image_ids() for part in self.parts)


def split_records(dataset: Dataset[Any]) -> list[dict[str, Any]]:
    """What ``data.json`` says about a split, or each of several: number of examples, file, hash, what was left out."""
    parts = dataset.parts if isinstance(dataset, JoinedSplits) else [dataset]
    return [{"split": part.split, "examples": len(part), **part.protocol} for part in parts]


def _joined_protocol(parts: Sequence[Dataset[Any]]) -> dict[str, str]:
    """Joins protocols: what all parts agree on is said once, everything else split by split."""
    protocol: dict[str, str] = {}
    for key in dict.fromkeys(key for part in parts for key in part.protocol):
        values = {part.split: part.protocol[key] for part in parts if key in part.protocol}
        is_common = len(values) == len(parts) and len(set(values.values())) == 1
        listed = "; ".join(f"{split}: {value}" for split, value in values.items())
        protocol[key] = next(iter(values.values())) if is_common else listed
    return protocol


class Selection(Dataset[Any]):
    """Some examples of a dataset, by position; the protocol says how many were left out and why."""

    def __init__(self, dataset: Dataset[Any], positions: Sequence[int], why: str) -> None:
        self.dataset, self.positions = dataset, list(positions)
        self.split = dataset.split
        before = [dataset.protocol["left out"]] if "left out" in dataset.protocol else []
        left_out = f"{len(dataset) - len(self.positions)} examples: {why}"
        self.protocol = {**dataset.protocol, "left out": "; ".join([*before, left_out])}

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Example[Any]:
        return self.dataset[self.positions[index]]


@dataclass(frozen=True)
class TaskData:
    """The splits that a run uses of one task.

    Attributes:
        datasets: by name of the split; every example has features.
        images: distinct canonical ids that each split needs.
        train: the training splits, one after another; None where nothing is trained.
    """

    config: TaskConfig
    store: ImageStore
    datasets: Mapping[str, Dataset[Any]]
    images: Mapping[str, Collection[str]]
    coverage: Coverage
    train: JoinedSplits | None

    @property
    def name(self) -> str:
        """What the experiment calls the task."""
        return self.config.display_name

    def ids(self, split: str) -> Collection[str]:
        """Distinct ids of the images of a split that say by themselves which collection they are of."""
        return self._qualified(self.images[split])

    def train_ids(self) -> Collection[str]:
        """The same of the images that are trained on."""
        parts = [] if self.train is None else self.train.parts
        known = {id(dataset): self.images[name] for name, dataset in self.datasets.items()}
        return self._qualified(image for part in parts for image in known.get(id(part)) or part.image_ids())

    def without(self, keys: Collection[str], identities: Identities) -> TaskData:
        """The same data without training examples with any image whose key is in ``keys``.

        Raises:
            DataError: nothing is left.
        """
        assert self.train is not None
        collection = self.config.dataset.image_collection

        def is_unwanted(image: str) -> bool:
            return identities.key(qualified(image, collection)) in keys

        left = JoinedSplits([_without(part, is_unwanted) for part in self.train.parts])
        if not len(left):
            raise DataError(
                f"task '{self.name}': every training image is also an image of an evaluation split, so "
                "train.remove_evaluation_images leaves nothing to train on"
            )
        return replace(self, train=left)

    def _qualified(self, image_ids: Iterable[str]) -> Collection[str]:
        collection = self.config.dataset.image_collection
        return {qualified(image, collection) for image in image_ids}


def read_task_data(config: TaskConfig, train_splits: Sequence[str], store: ImageStore, plugins: Plugins) -> TaskData:
    """Opens all splits in use and compares their images with the store.

    Raises:
        DataError: images have no features and the experiment does not allow it, or a split is empty.
    """
    options = config.dataset
    entry = plugins.find("dataset", options.name)
    names = list(dict.fromkeys([*train_splits, *options.evaluate]))
    datasets: dict[str, Dataset[Any]] = {name: entry.build(options, name) for name in names}
    if options.limit is not None:
        datasets = {name: _first(data, options.limit) for name, data in datasets.items()}
    images = {name: dict.fromkeys(data.image_ids()) for name, data in datasets.items()}
    coverage = check_coverage(images, store)
    if not coverage.is_complete:
        if not options.allow_missing_features:
            raise coverage.error()
        datasets = {name: _with_features(data, coverage.missing) for name, data in datasets.items()}
        images = {name: dict.fromkeys(data.image_ids()) for name, data in datasets.items()}
    if empty := [name for name, data in datasets.items() if not len(data)]:
        raise DataError(f"{options.name}: no examples in: {', '.join(empty)}")
    for data in datasets.values():
        data.protocol = {**data.protocol, "features": describe_features(store)}
    train = JoinedSplits([datasets[name] for name in train_splits]) if train_splits else None
    return TaskData(config, store, datasets, images, coverage, train)


def open_images(experiment: Experiment, options: DatasetConfig, copy: Path | None = None) -> ImageStore:
    """The pictures of a dataset, or its region features: what the backbone of the experiment reads.

    Args:
        copy: of the region features, to be read instead.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    path, shape = images_path(experiment, options), experiment.backbone.pictures()
    return RegionFeatureStore(path, copy) if shape is None else PictureStore(path, shape)


def images_path(experiment: Experiment, options: DatasetConfig) -> Path:
    """Where they are."""
    if not experiment.reads_pictures:
        return options.feature_store
    assert options.pictures is not None, "an experiment is checked before anything is opened"
    return options.pictures


def describe_features(store: ImageStore) -> str:
    """Where candidate boxes and features come from, as protocols call it."""
    if isinstance(store, PictureStore):
        return f"none, read from pictures ({store.fingerprint[:12]}): {store.shape}"
    manifest = store.manifest
    ids = f", ids: {manifest.ids}" if manifest.ids else ""
    return f"{manifest.extractor or 'unknown extractor'} ({manifest.fingerprint[:12]}){ids}"


def _first(dataset: Dataset[Any], limit: int) -> Dataset[Any]:
    return dataset if len(dataset) <= limit else Selection(dataset, range(limit), f"only the first {limit:,} are used")


def _with_features(dataset: Dataset[Any], missing: Collection[str]) -> Dataset[Any]:
    """The examples whose images all have features."""
    kept = [index for index, example in enumerate(dataset) if not any(image in missing for image in example.image_ids)]
    return dataset if len(kept) == len(dataset) else Selection(dataset, kept, "their images have no features")


def _without(dataset: Dataset[Any], is_unwanted: Callable[[str], bool]) -> Dataset[Any]:
    kept = [index for index, example in enumerate(dataset) if not any(map(is_unwanted, example.image_ids))]
    if len(kept) == len(dataset):
        return dataset
    return Selection(dataset, kept, "their images are in an evaluation split")
