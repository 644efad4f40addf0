"""The items of a split: what a text or an image of it may meet in place of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vlrun import DataError, Dataset, DatasetConfig, RegionFeatureStore
from vlrun.data.annotations import AnnotationFile
from vlrun_pretraining.dataset import lines_in_use
from vlrun_pretraining.draws import Draws

TextOf = Callable[[int], str]


class Items:
    """The items of one split, each a text with its image.

    Attributes:
        image_ids: the different images, in the order in which they first come.
        nearest: (images, N) positions in ``image_ids`` of the images most like each, if a mismatch is to be hard.
    """

    def __init__(self, split: str, images: Iterable[str], text_of: TextOf) -> None:
        """Takes in the image of each item.

        Args:
            text_of: the text of the item at a position.
        """
        self.split = split
        self.nearest: NDArray[np.int32] | None = None
        self._text_of = text_of
        self._places: dict[str, int] = {}
        codes = (self._places.setdefault(image_id, len(self._places)) for image_id in images)
        self._image = np.fromiter(codes, np.int32)  # of each item: 9 million names would take ten times as much
        self.image_ids = tuple(self._places)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def image(self, draws: Draws, purpose: str) -> str:
        """The image of an item, any of them with equal chance."""
        return self.image_ids[self._image[draws.below(purpose, len(self._image), 1)[0]]]

    def other(self, image_id: str, draws: Draws) -> int:
        """The position of an item with another image than ``image_id``, purpose ``other``.

        Any such item is equally likely; or, where there are ``nearest`` images, first any of those and then any of its
        items.

        Raises:
            DataError: there is no other image.
        """
        if len(self.image_ids) < 2:
            raise DataError(f"split '{self.split}' has one image alone, so nothing of it can meet another image")
        own = self._places[image_id]
        if self.nearest is not None:
            near = self.nearest[own]
            items = self._items_of(int(near[draws.below("other", len(near), 1)[0]]))
            return int(items[draws.below("other text", len(items), 1)[0]])
        while True:
            item = int(draws.below("other", len(self._image), 1)[0])
            if self._image[item] != own:
                return item

    def image_of(self, item: int) -> str:
        """The image of the item at a position."""
        return self.image_ids[self._image[item]]

    def text_of(self, item: int) -> str:
        """The text of the item at a position."""
        return self._text_of(item)

    def texts_of(self, image_id: str) -> list[str]:
        """All texts of an image."""
        return [self._text_of(int(item)) for item in self._items_of(self._places[image_id])]

    def _items_of(self, place: int) -> NDArray[np.int64]:
        order, starts = self._by_image
        return order[starts[place] : starts[place + 1]]

    @cached_property
    def _by_image(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of items, image after image, and where those of each image begin."""
        order = np.argsort(self._image, kind="stable")
        return order, np.searchsorted(self._image[order], np.arange(len(self.image_ids) + 1))


def items_to_train(dataset: Dataset[object]) -> Items:
    """The items that are trained on."""
    return Items(dataset.split, dataset.image_ids(), _DatasetTexts(dataset))


def items_to_evaluate(config: DatasetConfig) -> Mapping[str, Items]:
    """The items of every evaluation split, of those whose images have features.

    They come from the files and not from the examples in use, so that a score is the same whenever and with whatever
    other splits it is computed.

    Raises:
        DataError: a file or the features are missing.
    """
    store = RegionFeatureStore(config.feature_store)
    found = {}
    for split in config.evaluate:
        file = AnnotationFile(config.split_file(split))
        images = list(file.image_ids())
        lines = lines_in_use(file, config)
        missing = set(store.missing(dict.fromkeys(images[line] for line in lines)))
        there = np.array([line for line in lines if images[line] not in missing], np.int64)
        found[split] = Items(split, (images[line] for line in there), _FileTexts(file, there))
    return found


class _DatasetTexts:
    """The text of each example."""

    def __init__(self, dataset: Dataset[object]) -> None:
        self.dataset = dataset

    def __call__(self, item: int) -> str:
        return self.dataset[item].text


class _FileTexts:
    """The text of chosen lines of an annotation file."""

    def __init__(self, file: AnnotationFile, lines: Sequence[int] | NDArray[np.int64]) -> None:
        self.file, self.lines = file, lines

    def __call__(self, item: int) -> str:
        line = int(self.lines[item])
        text = self.file[line].get("text")
        if not isinstance(text, str):
            raise DataError(f"{self.file.place(line)}: text: expected a text, found {type(text).__name__}")
        return text
