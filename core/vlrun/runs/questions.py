"""What a model needs of questions: the regions of their images, and its outputs for one of them or for many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vlrun.data.hidden_images import shown_regions
from vlrun.engine.evaluation import TaskView, head_outputs
from vlrun.features.layout import CLASS_FIELDS
from vlrun.features.pictures import ImageStore, PictureStore
from vlrun.features.store import RegionFeatureStore
from vlrun.interfaces.examples import Example, RegionBatch, RegionFeatures
from vlrun.interfaces.tensors import Batch, Encoding, map_nested
from vlrun.seeds import example_rng


@dataclass(frozen=True)
class AskedRegions:
    """The images of a question: regions or pictures that came with it, and for other images those of a store.

    Attributes:
        store: of a model that reads pictures it has those that came with the question, too.
        with_classes: whether the backbone gets the detector's classes.
    """

    store: ImageStore | None
    given: Mapping[str, RegionFeatures | Path]
    with_classes: bool = False

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.given or (self.store is not None and image_id in self.store)

    def read(self, image_ids: Sequence[str]) -> RegionBatch:
        """The regions of P images, padded to the largest number of them."""
        if self.store is not None and (not self.given or isinstance(self.store, PictureStore)):
            return self.store.read_with_classes(image_ids) if self.with_classes else self.store.read(image_ids)
        images = [self[image_id] for image_id in image_ids]
        shape = (len(images), max(len(image.boxes) for image in images))
        features = np.zeros((*shape, images[0].features.shape[1]), np.result_type(*(each.features for each in images)))
        boxes, mask = np.zeros((*shape, 4), np.float32), np.zeros(shape, bool)
        for row, image in enumerate(images):
            count = len(image.boxes)
            features[row, :count], boxes[row, :count], mask[row, :count] = image.features, image.boxes, True
        sizes = np.array([(image.height, image.width) for image in images], np.float32)
        return RegionBatch(tuple(image_ids), features, boxes, mask, sizes, **self._classes(images, mask))

    def image_sizes(self, image_ids: Sequence[str]) -> tuple[tuple[int, int], ...]:
        """(width, height) of each image."""
        return tuple((int(width), int(height)) for height, width in self.read(image_ids).sizes)

    def _classes(self, images: Sequence[RegionFeatures], mask: NDArray[np.bool_]) -> dict[str, Any]:
        """What the detector saw, as far as all images have it."""
        arrays: dict[str, Any] = {}
        for name, dtype in CLASS_FIELDS.items() if self.with_classes else ():
            values = [getattr(image, name) for image in images]
            if all(value is not None for value in values):
                arrays[name] = np.zeros(mask.shape, dtype)
                arrays[name][mask] = np.concatenate(values)
        return arrays

    def __getitem__(self, image_id: str) -> RegionFeatures:
        given = self.given.get(image_id)
        if isinstance(given, RegionFeatures):
            return given
        assert isinstance(self.store, RegionFeatureStore)
        return self.store[image_id]


@dataclass(frozen=True)
class QuestionView(TaskView):
    """A run as a task sees it that is asked a question."""

    regions: AskedRegions

    def read_regions(self, image_ids: Sequence[str]) -> RegionBatch:
        return shown_regions(self.regions.read(image_ids), self.task.config.dataset.hide_images)

    def outputs_of_many(self, examples: Sequence[Example[Any]]) -> list[tuple[Any, Batch]]:
        """What ``outputs`` gives for each example, from one forward pass of all of them.

        Raises:
            ValueError: the outputs of the head have no row for each example or pair, so that they cannot be told apart.
        """
        task = self.task.task
        pairs = [task.pairs(example, example_rng(self.seed, 0, 0)) for example in examples]
        ends = np.cumsum([len(some) for some in pairs]).tolist()
        regions = self.read_regions([pair.image_id for some in pairs for pair in some])
        encoding = self.encode([pair for some in pairs for pair in some], regions)
        whole = Batch(tuple(example.id for example in examples), encoding, task.collate(examples, regions, encoding))
        outputs = head_outputs(self.run, self.task, whole)

        each = []
        for number, (example, end) in enumerate(zip(examples, ends, strict=True)):
            rows = slice(end - len(pairs[number]), end)
            one = _rows_of_encoding(encoding, rows)
            targets = task.collate([example], regions.take(rows), one)
            cut = map_nested(outputs, _part_of_outputs(number, rows, len(examples), ends[-1]))
            each.append((cut, Batch((example.id,), one, targets)))
        return each


def _part_of_outputs(number: int, rows: slice, num_examples: int, num_pairs: int) -> Callable[[Tensor], Tensor]:
    """Cuts what belongs to one example from the outputs for several."""

    def cut(tensor: Tensor) -> Tensor:
        if tensor.ndim and len(tensor) == num_examples:
            return tensor[number : number + 1]
        if tensor.ndim and len(tensor) == num_pairs:
            return tensor[rows]
        raise ValueError(f"outputs of shape {tuple(tensor.shape)} for {num_examples} examples of {num_pairs} pairs")

    return cut


def _rows_of_encoding(encoding: Encoding, rows: slice) -> Encoding:
    values = {field.name: getattr(encoding, field.name) for field in fields(encoding)}
    parts: dict[str, Any] = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(encoding, **parts)
